// Rounding one group of inputs to nested codes with error feedback (GPTQ), for many rows at once.
#pragma once
#include <cstdint>

namespace halfbyte {

// Inputs go down, rows across: [G][n]. With two levels the first is 4 bits and the second 8.
struct RoundingGroup {
    int inputs = 0, rows = 0, levels = 1, candidates = 0;
    int scale_inputs = 1;            // 1: a row has one scale; G: one for every input
    const float* weights = nullptr;  // [G][n]
    const float* goals = nullptr;    // [levels][G][n] weights and what earlier groups fed forward
    const float* feed = nullptr;     // [G][G] row j, column k > j: share of j's error that k gets
    const float* costs = nullptr;    // [G]
    const float* scales = nullptr;   // [candidates][scale_inputs][n]
    const float* offsets = nullptr;  // the same: what code 0 stands for
    float lo_weight = 0;
    std::int16_t* codes = nullptr;  // [G][n] of the best candidate, as are the others
    float* scale = nullptr;         // [n] that of the first input
    float* offset = nullptr;        // [n] likewise
    float* errors = nullptr;        // [levels][G][n] weight - value
};

constexpr int kMostRoundingInputs = 128;

// Adds are in ascending order and no product is fused, so every processor gives the same codes.
void round_group(const RoundingGroup& group);

}  // namespace halfbyte
