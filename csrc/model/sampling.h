// From logits to a token: greedy, or seeded Gumbel-max over what top-k, top-p and min-p keep.
// docs/numerics.md defines it; halfbyte/runtime/reference_sampling.py is the slow twin.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace halfbyte {

// Changes to a row's raw logits before temperature; docs/numerics.md has their order. No id twice.
struct Adjustments {
    const std::int32_t* ids = nullptr;  // [count]
    const float *adds = nullptr, *factors = nullptr, *subtracts = nullptr;
    std::size_t count = 0;
    const std::uint32_t* mask = nullptr;  // [V / 32] bits of the ids allowed; null: all
};

// How a row turns logits into a token: as SamplingRow in halfbyte/runtime/protocol.py, field by
// field.
struct SamplingRow {
    std::uint64_t seed = 0;
    float temperature = 0.0f;
    std::int32_t top_k = 0;
    float top_p = 1.0f;
    float min_p = 0.0f;
    std::int32_t position = 0;
    std::int32_t forced = -1;  // >= 0: this token, whatever the logits say
    std::int32_t tops = 0;     // so many most likely tokens of the raw logits are reported
};

// A row's way, with what belongs to the call.
struct Sampling : SamplingRow {
    Adjustments adjust;
    std::int32_t* top_ids = nullptr;  // [tops] best first
    float* top_logprobs = nullptr;
};

// The tokens that logits are of.
struct Vocabulary {
    int size = 0;
    const std::int32_t* ids = nullptr;  // [size] ascending; null: logit i is of token i

    std::int32_t id(std::int32_t i) const { return ids ? ids[i] : i; }
    std::int32_t index(std::int32_t id) const;  // -1: it is not among them
};

// Statistics of one chunk of a row's logits (Kernels::softmax_stats).
struct ChunkStats {
    int argmax;  // index in the row's logits
    float max;
    float sum;
};

struct Drawn {
    std::int32_t token;
    float logprob;
};

// Memory a thread reuses from row to row.
struct SamplingScratch {
    std::vector<std::pair<double, std::int32_t>> candidates;
    std::vector<float> adjusted;
};

// `chunks` in ascending order. Token -1: the mask allows none of the vocabulary.
Drawn draw_token(const float* logits, Vocabulary vocab, std::span<const ChunkStats> chunks,
                 const Sampling& how, SamplingScratch& scratch);

}  // namespace halfbyte
