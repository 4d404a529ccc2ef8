#include "sampling.h"

#include <algorithm>
#include <cmath>

namespace halfbyte {

namespace {

using Candidate = std::pair<double, std::int32_t>;  // logit / temperature, id

inline std::uint64_t mix(std::uint64_t z) {
    z += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

inline double uniform(std::uint64_t base, std::int32_t id) {
    const std::uint64_t h = mix(base + static_cast<std::uint64_t>(id));
    return (static_cast<double>(h >> 32) + 0.5) * 0x1p-32;
}

inline double gumbel(double r) { return -std::log(-std::log(r)); }

inline bool better(const Candidate& a, const Candidate& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
}

// Keeps the shortest descending prefix whose mass reaches p; at least one.
void keep_top_p(std::vector<Candidate>& c, double top, double p) {
    double total = 0.0;
    for (const Candidate& x : c) total += std::exp(x.first - top);
    std::size_t sorted = 0, ahead = 64;
    double mass = 0.0;
    for (std::size_t i = 0; i < c.size(); ++i) {
        if (i == sorted) {  // sort a little further: the prefix is short as a rule
            const std::size_t end = std::min(c.size(), sorted + ahead);
            if (end < c.size())
                std::nth_element(c.begin() + sorted, c.begin() + end, c.end(), better);
            std::sort(c.begin() + sorted, c.begin() + end, better);
            sorted = end;
            ahead *= 4;
        }
        mass += std::exp(c[i].first - top);
        if (mass >= p * total) {
            c.resize(i + 1);
            return;
        }
    }
}

// Gumbel-max. `first` (the largest l) is tried first: a good early best rules most others out
// cheaply.
std::int32_t draw(const std::vector<Candidate>& c, const Candidate& first, const SamplingRow& how) {
    const std::uint64_t base =
        mix(mix(how.seed) + static_cast<std::uint64_t>(static_cast<std::int64_t>(how.position)));
    Candidate best{first.first + gumbel(uniform(base, first.second)), first.second};
    double bound[24];  // e^-b: g > b needs 1 - r < e^-b, since -ln r >= 1 - r
    for (int b = 0; b < 24; ++b) bound[b] = std::exp(-static_cast<double>(b)) * (1.0 + 1e-12);
    for (const Candidate& x : c) {
        const double need = best.first - x.first;
        if (need > 23.0) continue;  // beyond the largest g, 33 ln 2 = 22.9
        const double r = uniform(base, x.second);
        if (need > 0.0 && 1.0 - r > bound[static_cast<int>(need)]) continue;
        const Candidate drawn{x.first + gumbel(r), x.second};
        if (better(drawn, best)) best = drawn;
    }
    return best.second;
}

}  // namespace

Choice choose(const float* logits, int vocab, std::span<const ChunkStats> chunks,
              const SamplingRow& how, std::vector<Candidate>& candidates) {
    const ChunkStats* top = &chunks[0];
    for (const ChunkStats& c : chunks)
        if (c.max > top->max) top = &c;
    double sum = 0.0;
    for (const ChunkStats& c : chunks)
        sum += static_cast<double>(c.sum) * std::exp(static_cast<double>(c.max) - top->max);
    std::int32_t token = top->argmax;
    if (how.temperature > 0.0f) {
        const double t = how.temperature;
        const Candidate largest{top->max / t, top->argmax};
        const double floor =
            how.min_p > 0.0f ? largest.first + std::log(static_cast<double>(how.min_p)) : -INFINITY;
        candidates.clear();
        for (std::int32_t i = 0; i < vocab; ++i) {
            const double l = logits[i] / t;
            candidates.push_back({l == l ? l : -INFINITY, i});  // a NaN would break the order
        }
        if (how.top_k > 0 && how.top_k < vocab) {
            std::nth_element(candidates.begin(), candidates.begin() + how.top_k - 1,
                             candidates.end(), better);
            candidates.resize(how.top_k);
        }
        if (how.top_p < 1.0f) keep_top_p(candidates, largest.first, how.top_p);
        if (how.min_p > 0.0f)
            std::erase_if(candidates, [&](const Candidate& c) { return c.first < floor; });
        token = draw(candidates, largest, how);
    }
    const double shifted = static_cast<double>(logits[token]) - top->max;
    return {token, static_cast<float>(shifted - std::log(sum))};
}

}  // namespace halfbyte
