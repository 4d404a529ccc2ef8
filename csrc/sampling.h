// From logits to a token: greedy, or seeded Gumbel-max over what top-k, top-p and min-p keep.
// docs/numerics.md defines it; halfbyte/runtime/reference_sampling.py is the slow twin.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace halfbyte {

struct SamplingRow {
    float temperature = 0.0f;
    std::int32_t top_k = 0;
    float top_p = 1.0f;
    float min_p = 0.0f;
    std::uint64_t seed = 0;
    std::int32_t position = 0;
};

// Statistics of one chunk of a row's logits (Kernels::softmax_stats).
struct ChunkStats {
    int argmax;  // in the whole vocabulary
    float max;
    float sum;
};

struct Choice {
    std::int32_t token;
    float logprob;
};

// `chunks` in ascending order. `candidates` is reused memory.
Choice choose(const float* logits, int vocab, std::span<const ChunkStats> chunks,
              const SamplingRow& how, std::vector<std::pair<double, std::int32_t>>& candidates);

}  // namespace halfbyte
