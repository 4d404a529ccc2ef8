// The rows of a step by the expert they chose.
#pragma once
#include <cstdint>
#include <vector>

#include "model/shape.h"

namespace halfbyte {

struct ExpertGroups {
    std::vector<int> experts;        // that some row chose, ascending
    std::vector<int> begins;         // [experts + 1] into the two below
    std::vector<std::int32_t> rows;  // [M * top_k] ascending for each expert
    std::vector<float> shares;       // [M * top_k]

    int size() const { return static_cast<int>(experts.size()); }
    int rows_of(int g) const { return begins[g + 1] - begins[g]; }

    // chosen, shares: [M][top_k].
    void assign(const std::int32_t* chosen, const float* of_chosen, int M, int top_k, int count);

  private:
    std::vector<int> next_;  // [count]
};

// The top_k experts of a row, best first (ties: the lower number), and their shares, from its
// scores [count], which it uses up. `choice_bias` [count] counts in the choice only; null: none.
void route(const ExpertsShape& s, float* scores, const float* choice_bias, std::int32_t* chosen,
           float* shares);

}  // namespace halfbyte
