#include "model/sampling.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.h"

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
std::int32_t draw(const std::vector<Candidate>& c, const Candidate& first, Vocabulary vocab,
                  const Sampling& how) {
    const std::uint64_t base =
        mix(mix(how.seed) + static_cast<std::uint64_t>(static_cast<std::int64_t>(how.position)));
    Candidate best{first.first + gumbel(uniform(base, vocab.id(first.second))), first.second};
    double bound[24];  // e^-b: g > b needs 1 - r < e^-b, since -ln r >= 1 - r
    for (int b = 0; b < 24; ++b) bound[b] = std::exp(-static_cast<double>(b)) * (1.0 + 1e-12);
    for (const Candidate& x : c) {
        const double need = best.first - x.first;
        if (need > 23.0) continue;  // beyond the largest g, 33 ln 2 = 22.9
        const double r = uniform(base, vocab.id(x.second));
        if (need > 0.0 && 1.0 - r > bound[static_cast<int>(need)]) continue;
        const Candidate drawn{x.first + gumbel(r), x.second};
        if (better(drawn, best)) best = drawn;
    }
    return best.second;
}

inline bool allowed(const std::uint32_t* mask, std::int32_t id) {
    return !mask || (mask[id >> 5] >> (id & 31) & 1u);
}

inline double finite_or_lowest(double l) { return l == l ? l : -INFINITY; }  // NaN breaks order

// The row's logits after its adjustments, but for the mask.
const float* adjust(const float* logits, Vocabulary vocab, const Adjustments& a,
                    std::vector<float>& adjusted) {
    if (a.count == 0) return logits;
    adjusted.assign(logits, logits + vocab.size);
    for (std::size_t i = 0; i < a.count; ++i) {
        const std::int32_t at = vocab.index(a.ids[i]);
        if (at < 0) continue;
        float& l = adjusted[at];
        l += a.adds[i];
        l = l > 0.0f ? l / a.factors[i] : l * a.factors[i];
        l -= a.subtracts[i];
    }
    return adjusted.data();
}

// Calls visit(i) for every logit whose token is allowed.
template <typename Visit>
void each_allowed(Vocabulary vocab, const std::uint32_t* mask, Visit&& visit) {
    for (std::int32_t i = 0; i < vocab.size; ++i) {
        if (mask && !vocab.ids && mask[i >> 5] == 0) {
            i |= 31;  // 32 ids at once that are not allowed
            continue;
        }
        if (allowed(mask, vocab.id(i))) visit(i);
    }
}

// The largest allowed logit, the lowest id on a tie; index -1: none is allowed.
Candidate largest_allowed(const float* logits, Vocabulary vocab, const std::uint32_t* mask) {
    Candidate best{-INFINITY, -1};
    each_allowed(vocab, mask, [&](std::int32_t i) {
        if (logits[i] > best.first || best.second < 0) best = {finite_or_lowest(logits[i]), i};
    });
    return best;
}

void gather_candidates(const float* logits, Vocabulary vocab, double t, const std::uint32_t* mask,
                       std::vector<Candidate>& out) {
    out.clear();
    each_allowed(vocab, mask,
                 [&](std::int32_t i) { out.emplace_back(finite_or_lowest(logits[i] / t), i); });
}

std::int32_t sample(const float* logits, Vocabulary vocab, const Candidate& best,
                    const Sampling& how, std::vector<Candidate>& candidates) {
    const double t = how.temperature;
    const Candidate largest{best.first / t, best.second};
    const double floor =
        how.min_p > 0.0f ? largest.first + std::log(static_cast<double>(how.min_p)) : -INFINITY;
    gather_candidates(logits, vocab, t, how.adjust.mask, candidates);
    if (how.top_k > 0 && static_cast<std::size_t>(how.top_k) < candidates.size()) {
        std::nth_element(candidates.begin(), candidates.begin() + how.top_k - 1, candidates.end(),
                         better);
        candidates.resize(how.top_k);
    }
    if (how.top_p < 1.0f) keep_top_p(candidates, largest.first, how.top_p);
    if (how.min_p > 0.0f)
        std::erase_if(candidates, [&](const Candidate& c) { return c.first < floor; });
    return draw(candidates, largest, vocab, how);
}

// The `tops` largest raw logits, best first. A chunk whose largest cannot enter is not looked at.
void find_tops(const float* logits, int vocab, std::span<const ChunkStats> chunks, double top,
               double log_sum, const Sampling& how, std::vector<Candidate>& found) {
    const std::size_t wanted = how.tops;
    found.clear();
    for (std::size_t c = 0; c < chunks.size(); ++c) {
        const std::int32_t begin = static_cast<std::int32_t>(c) * kLogitChunk;
        const std::int32_t end = std::min(vocab, begin + kLogitChunk);
        if (found.size() == wanted && !(chunks[c].max > found.back().first)) continue;
        for (std::int32_t i = begin; i < end; ++i) {
            const Candidate x{finite_or_lowest(logits[i]), i};
            if (found.size() == wanted) {
                if (!better(x, found.back())) continue;
                found.pop_back();
            }
            found.insert(std::upper_bound(found.begin(), found.end(), x, better), x);
        }
    }
    for (std::size_t i = 0; i < wanted; ++i) {
        how.top_ids[i] = found[i].second;
        how.top_logprobs[i] = static_cast<float>(found[i].first - top - log_sum);
    }
}

}  // namespace

std::int32_t Vocabulary::index(std::int32_t id) const {
    if (!ids) return id;
    const std::int32_t* at = std::lower_bound(ids, ids + size, id);
    return at != ids + size && *at == id ? static_cast<std::int32_t>(at - ids) : -1;
}

Drawn draw_token(const float* logits, Vocabulary vocab, std::span<const ChunkStats> chunks,
                 const Sampling& how, SamplingScratch& scratch) {
    const ChunkStats* top = &chunks[0];
    for (const ChunkStats& c : chunks)
        if (c.max > top->max) top = &c;
    double sum = 0.0;
    for (const ChunkStats& c : chunks)
        sum += static_cast<double>(c.sum) * std::exp(static_cast<double>(c.max) - top->max);
    const double log_sum = std::log(sum);
    if (how.tops > 0)
        find_tops(logits, vocab.size, chunks, top->max, log_sum, how, scratch.candidates);
    std::int32_t token = how.forced;
    if (token < 0) {
        const float* shaped = adjust(logits, vocab, how.adjust, scratch.adjusted);
        const bool as_is = shaped == logits && !how.adjust.mask;
        const Candidate best = as_is ? Candidate{top->max, top->argmax}
                                     : largest_allowed(shaped, vocab, how.adjust.mask);
        if (best.second < 0) return {-1, -INFINITY};
        token = how.temperature > 0.0f ? sample(shaped, vocab, best, how, scratch.candidates)
                                       : best.second;
    }
    const double shifted = static_cast<double>(logits[token]) - top->max;
    return {vocab.id(token), static_cast<float>(shifted - log_sum)};
}

}  // namespace halfbyte
