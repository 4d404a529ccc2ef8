#include "host/rounding.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Plain loops over lanes, compiled for each width of vector; the rounding is the same in all.
#define HALFBYTE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HALFBYTE_CLONES
#endif

namespace halfbyte {

namespace {
constexpr int kLanes = 16;
constexpr int kTogether = 4;               // candidates rounded in one pass
constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it rounds to nearest even

struct Trial {
    float errors[2][kMostRoundingInputs][kLanes];
    float codes[kMostRoundingInputs][kLanes];
    float cost[kLanes];
};

// Of an input of 16 rows: scale, offset, and what turns codes into weights and weights into codes.
struct Scale {
    float stored[kLanes], offset[kLanes], step[kLanes], inverse[kLanes];
};

inline float clip(float x, float low, float high) { return std::min(std::max(x, low), high); }
inline float nearest(float x) { return (x + kToInteger) - kToInteger; }
// hi * 16 of a code: round(code / 16), ties up.
inline float upper_of(float code) {
    return static_cast<float>(((static_cast<int>(code) + 8) >> 4) << 4);
}

// The 16 rows as one value, so that sums stay in registers.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

// Goals of input k: what earlier inputs of the group feed it, in ascending order. Trials go
// together, since one sum alone waits for each of its additions.
template <int Levels, int Trials>
inline __attribute__((always_inline)) void feed_forward(
    const RoundingGroup& g, int k, const float (*goals)[kMostRoundingInputs][kLanes],
    const Trial* trials, float (*t)[2][kLanes]) {
    Lanes sums[Trials][Levels];
    for (int i = 0; i < Trials; ++i)
        for (int level = 0; level < Levels; ++level)
            std::memcpy(&sums[i][level], goals[level][k], sizeof(Lanes));
    for (int j = 0; j < k; ++j) {
        const float share = g.feed[j * g.inputs + k];
        for (int i = 0; i < Trials; ++i)
            for (int level = 0; level < Levels; ++level) {
                Lanes error;
                std::memcpy(&error, trials[i].errors[level][j], sizeof(Lanes));
                sums[i][level] += share * error;
            }
    }
    for (int i = 0; i < Trials; ++i)
        for (int level = 0; level < Levels; ++level)
            std::memcpy(t[i][level], &sums[i][level], sizeof(Lanes));
}

// Rounds input k of 16 rows, whose goals are t.
template <int Levels>
inline __attribute__((always_inline)) void round_input(const RoundingGroup& g, int k,
                                                       const float* weight, const Scale& scale,
                                                       const float (*t)[kLanes], Trial& trial) {
    for (int r = 0; r < kLanes; ++r) {
        const float step = scale.step[r], inverse = scale.inverse[r], offset = scale.offset[r];
        const float w = weight[r] - offset, t4 = (t[0][r] - offset) * inverse;
        const float upper = nearest(clip(t4 * 0.0625f, -8.0f, 7.0f)) * 16.0f;
        float code = upper, cost = (t4 - upper) * (t4 - upper);
        if constexpr (Levels == 2) {
            const float t8 = (t[1][r] - offset) * inverse;
            const float free = nearest(clip(t8, -136.0f, 119.0f));
            const float its_upper = upper_of(free);
            const float confined = clip(free, upper - 8.0f, upper + 7.0f);
            const float free_cost =
                (t4 - its_upper) * (t4 - its_upper) + g.lo_weight * ((t8 - free) * (t8 - free));
            const float confined_cost = cost + g.lo_weight * ((t8 - confined) * (t8 - confined));
            const bool better = free_cost <= confined_cost;
            code = better ? free : confined;
            cost = better ? free_cost : confined_cost;
            trial.errors[1][k][r] = w - step * code;
        }
        trial.cost[r] += cost * g.costs[k] * (step * step);
        trial.codes[k][r] = code;
        trial.errors[0][k][r] = w - step * (Levels == 2 ? upper_of(code) : code);
    }
}

// 16 rows and what was best of them so far.
struct Block {
    float weights[kMostRoundingInputs][kLanes];
    float goals[2][kMostRoundingInputs][kLanes];
    Scale scales[kTogether][kMostRoundingInputs];
    float best[kLanes];
    Trial trials[kTogether];
};

inline void load(const RoundingGroup& g, int first, int lanes, Block& block) {
    const std::size_t n = g.rows;
    for (int k = 0; k < g.inputs; ++k)
        for (int r = 0; r < kLanes; ++r) {
            const std::size_t at = k * n + first + std::min(r, lanes - 1);
            block.weights[k][r] = g.weights[at];
            for (int level = 0; level < g.levels; ++level)
                block.goals[level][k][r] = g.goals[level * g.inputs * n + at];
        }
}

// Keeps what candidate c made of the rows for which it is the cheapest so far.
inline void keep_best(const RoundingGroup& g, int first, int lanes, int c, int i, Block& block) {
    const std::size_t n = g.rows;
    const Trial& trial = block.trials[i];
    for (int r = 0; r < lanes; ++r) {
        // The first candidate is taken whatever its cost, so a NaN leaves nothing unset.
        if (c > 0 && !(trial.cost[r] < block.best[r])) continue;
        block.best[r] = trial.cost[r];
        g.scale[first + r] = block.scales[i][0].stored[r];
        g.offset[first + r] = block.scales[i][0].offset[r];
        for (int k = 0; k < g.inputs; ++k) {
            const std::size_t at = k * n + first + r;
            g.codes[at] = static_cast<std::int16_t>(trial.codes[k][r]);
            for (int level = 0; level < g.levels; ++level)
                g.errors[level * g.inputs * n + at] = trial.errors[level][k][r];
        }
    }
}

// Candidates c .. c + Trials - 1.
template <int Levels, int Trials>
inline __attribute__((always_inline)) void try_scales(const RoundingGroup& g, int first, int lanes,
                                                      int c, Block& block) {
    for (int i = 0; i < Trials; ++i) {
        const std::size_t row = static_cast<std::size_t>(c + i) * g.scale_inputs;
        for (int k = 0; k < g.scale_inputs; ++k)
            for (int r = 0; r < kLanes; ++r) {
                const std::size_t at = (row + k) * g.rows + first + std::min(r, lanes - 1);
                const float scale = g.scales[at];
                Scale& own = block.scales[i][k];
                own.stored[r] = scale;
                own.offset[r] = g.offsets[at];
                own.step[r] = scale * 0.0625f;
                own.inverse[r] = scale == 0.0f ? 0.0f : 16.0f / scale;
            }
        for (int r = 0; r < kLanes; ++r) block.trials[i].cost[r] = 0.0f;
    }
    float t[Trials][2][kLanes];
    for (int k = 0; k < g.inputs; ++k) {
        feed_forward<Levels, Trials>(g, k, block.goals, block.trials, t);
        for (int i = 0; i < Trials; ++i)
            round_input<Levels>(g, k, block.weights[k],
                                block.scales[i][std::min(k, g.scale_inputs - 1)], t[i],
                                block.trials[i]);
    }
    for (int i = 0; i < Trials; ++i) keep_best(g, first, lanes, c + i, i, block);
}

template <int Levels>
inline __attribute__((always_inline)) void round_rows(const RoundingGroup& g) {
    static thread_local Block block;
    for (int first = 0; first < g.rows; first += kLanes) {
        const int lanes = std::min(kLanes, g.rows - first);
        load(g, first, lanes, block);
        int c = 0;
        for (; c + kTogether <= g.candidates; c += kTogether)
            try_scales<Levels, kTogether>(g, first, lanes, c, block);
        for (; c < g.candidates; ++c) try_scales<Levels, 1>(g, first, lanes, c, block);
    }
}

HALFBYTE_CLONES void round_one_level(const RoundingGroup& g) { round_rows<1>(g); }
HALFBYTE_CLONES void round_two_levels(const RoundingGroup& g) { round_rows<2>(g); }
}  // namespace

void round_group(const RoundingGroup& group) {
    if (group.levels == 2)
        round_two_levels(group);
    else
        round_one_level(group);
}

}  // namespace halfbyte
