#include "rounding.h"

#include <algorithm>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Plain loops over lanes, compiled for each width of vector; the rounding is the same in all.
#define HALFBYTE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HALFBYTE_CLONES
#endif

namespace halfbyte {

namespace {
constexpr int kLanes = 16;
constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it rounds to nearest even

struct Trial {
    float errors[2][kMostRoundingInputs][kLanes];
    float codes[kMostRoundingInputs][kLanes];
    float cost[kLanes];
};

inline float clip(float x, float low, float high) { return std::min(std::max(x, low), high); }
inline float nearest(float x) { return (x + kToInteger) - kToInteger; }
// hi * 16 of a code: round(code / 16), ties up.
inline float upper_of(float code) {
    return static_cast<float>(((static_cast<int>(code) + 8) >> 4) << 4);
}

// Rounds every input of 16 rows, scales as in RoundingGroup.
template <int Levels>
inline __attribute__((always_inline)) void run_trial(
    const RoundingGroup& g, const float (*weights)[kLanes],
    const float (*goals)[kMostRoundingInputs][kLanes], const float (*scales)[kLanes],
    Trial& trial) {
    float step[kLanes], inverse[kLanes], t[2][kLanes];
    for (int r = 0; r < kLanes; ++r) trial.cost[r] = 0.0f;
    for (int k = 0; k < g.inputs; ++k) {
        if (k < g.scale_inputs)
            for (int r = 0; r < kLanes; ++r) {
                step[r] = scales[k][r] * 0.0625f;
                inverse[r] = scales[k][r] == 0.0f ? 0.0f : 16.0f / scales[k][r];
            }
        for (int level = 0; level < Levels; ++level) {
            for (int r = 0; r < kLanes; ++r) t[level][r] = goals[level][k][r];
            for (int j = 0; j < k; ++j) {
                const float share = g.feed[j * g.inputs + k];
                for (int r = 0; r < kLanes; ++r) t[level][r] += share * trial.errors[level][j][r];
            }
        }
        for (int r = 0; r < kLanes; ++r) {
            const float t4 = t[0][r] * inverse[r];
            const float upper = nearest(clip(t4 * 0.0625f, -8.0f, 7.0f)) * 16.0f;
            float code = upper, cost = (t4 - upper) * (t4 - upper);
            if constexpr (Levels == 2) {
                const float t8 = t[1][r] * inverse[r];
                const float free = nearest(clip(t8, -136.0f, 119.0f));
                const float its_upper = upper_of(free);
                const float confined = clip(free, upper - 8.0f, upper + 7.0f);
                const float free_cost =
                    (t4 - its_upper) * (t4 - its_upper) + g.lo_weight * ((t8 - free) * (t8 - free));
                const float confined_cost =
                    cost + g.lo_weight * ((t8 - confined) * (t8 - confined));
                const bool better = free_cost <= confined_cost;
                code = better ? free : confined;
                cost = better ? free_cost : confined_cost;
                trial.errors[1][k][r] = weights[k][r] - step[r] * code;
            }
            trial.cost[r] += cost * g.costs[k] * (step[r] * step[r]);
            trial.codes[k][r] = code;
            trial.errors[0][k][r] = weights[k][r] - step[r] * (Levels == 2 ? upper_of(code) : code);
        }
    }
}

template <int Levels>
inline __attribute__((always_inline)) void round_rows(const RoundingGroup& g) {
    const std::size_t n = g.rows;
    alignas(64) static thread_local float weights[kMostRoundingInputs][kLanes];
    alignas(64) static thread_local float scales[kMostRoundingInputs][kLanes];
    alignas(64) static thread_local float goals[2][kMostRoundingInputs][kLanes];
    alignas(64) static thread_local Trial trial;
    for (int first = 0; first < g.rows; first += kLanes) {
        const int lanes = std::min(kLanes, g.rows - first);
        for (int k = 0; k < g.inputs; ++k)
            for (int r = 0; r < kLanes; ++r) {
                const std::size_t at = k * n + first + std::min(r, lanes - 1);
                weights[k][r] = g.weights[at];
                for (int level = 0; level < Levels; ++level)
                    goals[level][k][r] = g.goals[level * g.inputs * n + at];
            }
        float best[kLanes];
        for (int c = 0; c < g.candidates; ++c) {
            for (int k = 0; k < g.scale_inputs; ++k)
                for (int r = 0; r < kLanes; ++r)
                    scales[k][r] = g.scales[(static_cast<std::size_t>(c) * g.scale_inputs + k) * n +
                                            first + std::min(r, lanes - 1)];
            run_trial<Levels>(g, weights, goals, scales, trial);
            for (int r = 0; r < lanes; ++r) {
                // The first candidate is taken whatever its cost, so a NaN leaves nothing unset.
                if (c > 0 && !(trial.cost[r] < best[r])) continue;
                best[r] = trial.cost[r];
                g.scale[first + r] = scales[0][r];
                for (int k = 0; k < g.inputs; ++k) {
                    const std::size_t at = k * n + first + r;
                    g.codes[at] = static_cast<std::int16_t>(trial.codes[k][r]);
                    for (int level = 0; level < Levels; ++level)
                        g.errors[level * g.inputs * n + at] = trial.errors[level][k][r];
                }
            }
        }
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
