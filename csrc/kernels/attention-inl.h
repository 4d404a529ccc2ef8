// Attention of a block of queries over one chunk of a paged KV cache, over any tier's F32x16.
//
// clang-format off
// A page of one KV head:   K [D][S]   16 positions of one dimension are one vector, so a score needs
//                                     no sum across lanes, and one K vector serves every query of
//                                     the block
//                          V [S][D]   16 dimensions of one position
// clang-format on
//
// Every query is its own chain of operations (scores: d ascending; output: position ascending), so
// neither the number of queries nor how they are blocked can change a bit of the result.
#pragma once
#include <climits>
#include <cmath>
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/math-inl.h"

namespace halfbyte {

// While a block of K or V is read, the same place of the one read after it is fetched into the
// second cache. Blocks of a head lie a page apart, where the hardware's own prefetchers do not
// follow.
inline void fetch_ahead(const void* p) { __builtin_prefetch(p, 0, 2); }

template <KvType T>
struct KvElement {
    using Type = std::uint16_t;
};
template <>
struct KvElement<KvType::kF32> {
    using Type = float;
};

template <class V, KvType T>
inline V load_kv(const typename KvElement<T>::Type* p) {
    if constexpr (T == KvType::kF32) {
        return V::load(p);
    } else if constexpr (T == KvType::kBF16) {
        return V::load_bf16(p);
    } else {
        return V::load_f16(p);
    }
}

template <KvType T>
inline auto kv_elements(const void* block) {
    return static_cast<const typename KvElement<T>::Type*>(block);
}

// The block [D][S] of keys, or [S][D] of values, that holds `position`.
template <KvType T>
inline auto keys_at(const AttentionArgs& a, int position) {
    return kv_elements<T>(a.kv.base) + a.pages[position / a.kv.page_size] * a.kv.page_stride +
           static_cast<std::size_t>(2 * a.kv_head) * a.head_dim * a.kv.page_size;
}
template <KvType T>
inline auto values_at(const AttentionArgs& a, int position) {
    return keys_at<T>(a, position) + static_cast<std::size_t>(a.head_dim) * a.kv.page_size;
}

// NQ queries x NB vectors of 16 positions. next: [D][S] as well, fetched ahead.
template <class V, KvType T, int NQ, int NB>
inline void scores_block(const float* const* q, const typename KvElement<T>::Type* keys,
                         const typename KvElement<T>::Type* next, int page_size, int head_dim,
                         float* out) {
    V acc[NQ][NB];
    for (int i = 0; i < NQ; ++i)
        for (int b = 0; b < NB; ++b) acc[i][b] = V::zero();
    for (int d = 0; d < head_dim; ++d) {
        V k[NB];
        for (int b = 0; b < NB; ++b) {
            if (b % 2 == 0) fetch_ahead(next + d * page_size + 16 * b);
            k[b] = load_kv<V, T>(keys + d * page_size + 16 * b);
        }
        for (int i = 0; i < NQ; ++i) {
            const V qd = V::all(q[i][d]);
            for (int b = 0; b < NB; ++b) acc[i][b] = fma(qd, k[b], acc[i][b]);
        }
    }
    for (int i = 0; i < NQ; ++i)
        for (int b = 0; b < NB; ++b) acc[i][b].store(out + i * kAttentionChunk + 16 * b);
}

// Queries share a pass over K or V in blocks as large as the registers hold sums of 64 positions
// for: every vector read is also converted, which costs as much as the products of two queries.
template <class V, class Block>
inline void in_blocks(int queries, Block&& block) {
    int i = 0;
    if constexpr (V::kRegisters >= 32)
        for (; i + 6 <= queries; i += 6) block.template operator()<6>(i);
    for (; i + 3 <= queries; i += 3) block.template operator()<3>(i);
    if (queries - i == 2)
        block.template operator()<2>(i);
    else if (queries - i == 1)
        block.template operator()<1>(i);
}

template <class V, KvType T, int NB>
inline void scores_queries(const float* const* q, int queries,
                           const typename KvElement<T>::Type* keys,
                           const typename KvElement<T>::Type* next, int page_size, int head_dim,
                           float* out) {
    in_blocks<V>(queries, [&]<int NQ>(int i) {
        scores_block<V, T, NQ, NB>(q + i, keys, next, page_size, head_dim,
                                   out + i * kAttentionChunk);
    });
}

// o[i][0 .. 16*ND) += sum over positions [s0, s1) of p[i][s - c0] * V[s], for NQ queries.
template <class V, KvType T, int NQ, int ND>
inline void values_block(const AttentionArgs& a, int c0, int s0, int s1, int d0, const float* p,
                         float* const* states) {
    const int S = a.kv.page_size, D = a.head_dim;
    V acc[NQ][ND];
    for (int i = 0; i < NQ; ++i)
        for (int j = 0; j < ND; ++j) acc[i][j] = V::load(states[i] + 2 + d0 + 16 * j);
    for (int s = s0; s < s1;) {
        const int slot = s % S;
        const int end = s + S - slot < s1 ? s + S - slot : s1;
        const auto* block = values_at<T>(a, s);
        const auto* next = end < s1  ? values_at<T>(a, end)
                           : a.after ? kv_elements<T>(a.after)
                                     : block;
        const std::size_t first = static_cast<std::size_t>(slot) * D + d0;
        const auto *v = block + first, *n = next + first;
        for (; s < end; ++s, v += D, n += D) {
            V row[ND];
            for (int j = 0; j < ND; ++j) {
                if (j % 2 == 0) fetch_ahead(n + 16 * j);
                row[j] = load_kv<V, T>(v + 16 * j);
            }
            for (int i = 0; i < NQ; ++i) {
                const V weight = V::all(p[i * kAttentionChunk + s - c0]);
                for (int j = 0; j < ND; ++j) acc[i][j] = fma(weight, row[j], acc[i][j]);
            }
        }
    }
    for (int i = 0; i < NQ; ++i)
        for (int j = 0; j < ND; ++j) acc[i][j].store(states[i] + 2 + d0 + 16 * j);
}

template <class V, KvType T, int NQ>
inline void values(const AttentionArgs& a, int c0, int s0, int s1, const float* p,
                   float* const* states) {
    if (s0 >= s1) return;
    int d = 0;
    for (; d + 64 <= a.head_dim; d += 64) values_block<V, T, NQ, 4>(a, c0, s0, s1, d, p, states);
    for (; d < a.head_dim; d += 16) values_block<V, T, NQ, 1>(a, c0, s0, s1, d, p, states);
}

// Positions all NQ queries attend to go together; what only some see is added before and after, so
// that no query ever touches a slot outside its own context.
template <class V, KvType T, int NQ>
inline void values_ragged(const AttentionArgs& a, int c0, const int* from, const int* to,
                          const float* p, float* const* states) {
    int begin = from[0], end = to[0];
    for (int i = 1; i < NQ; ++i) {
        begin = from[i] > begin ? from[i] : begin;
        end = to[i] < end ? to[i] : end;
    }
    if (begin >= end) begin = end = from[0] > to[0] ? from[0] : to[0];
    const bool shared = begin < end;
    for (int i = 0; i < NQ; ++i)
        values<V, T, 1>(a, c0, from[i], shared ? begin : to[i], p + i * kAttentionChunk,
                        states + i);
    if (!shared) return;
    values<V, T, NQ>(a, c0, begin, end, p, states);
    for (int i = 0; i < NQ; ++i)
        values<V, T, 1>(a, c0, end, to[i], p + i * kAttentionChunk, states + i);
}

// Scores of slots [low, high), low a multiple of 16, into out[i * kAttentionChunk + slot - low].
template <class V, KvType T>
void score_slots(const AttentionArgs& a, int low, int high, float* out) {
    const int S = a.kv.page_size, D = a.head_dim;
    for (int s = low; s < high;) {
        const int slot = s % S, room = S - slot;
        const auto* keys = keys_at<T>(a, s) + slot;
        const auto* next =
            (s + room < high ? keys_at<T>(a, s + room) : values_at<T>(a, low)) + slot;
        float* at = out + (s - low);
        if (room >= 64 && high - s > 32) {
            scores_queries<V, T, 4>(a.q, a.queries, keys, next, S, D, at);
            s += 64;
        } else if (room >= 32 && high - s > 16) {
            scores_queries<V, T, 2>(a.q, a.queries, keys, next, S, D, at);
            s += 32;
        } else {
            scores_queries<V, T, 1>(a.q, a.queries, keys, next, S, D, at);
            s += 16;
        }
    }
}

// ---- token trees
//
// Rows of a tree share the prefix below `base`; past it each row's context is its path, whose nodes
// may stand in any slots:
//
//     slot        0 …… base-1   base   +1   +2   +3   +4
//     holds       prefix        root   a    b    c    d      root ── a ── c ── d,  root ── b
//     d's path                   0     1         3    4
//     d sees      0 …… base-1   base  +1        +2   +3      as positions
//
// A score depends on its query and its key only, so slots are scored where they stand, every query
// against every slot its block names, and the scores are then put in order of position. From there
// on (maximum, sum, weighted values in ascending position) nothing differs from a plain row, so
// neither can a bit of the result. Nothing is copied but scores.

template <class V, KvType T>
void score_paths(const AttentionArgs& a, int c0, int high, float* scratch) {
    const int p0 = a.base > c0 ? a.base : c0;  // first position of a path in this chunk
    float* by_slot = scratch + a.queries * kAttentionChunk;
    int lowest = INT_MAX, highest = 0;
    for (int i = 0; i < a.queries; ++i) {
        const int end = a.last[i] + 1 < high ? a.last[i] + 1 : high;
        for (int s = p0; s < end; ++s) {
            const int slot = a.base + a.paths[i][s - a.base];
            lowest = slot < lowest ? slot : lowest;
            highest = slot > highest ? slot : highest;
        }
    }
    lowest = lowest / 16 * 16;
    for (int w = lowest / kAttentionChunk * kAttentionChunk; w <= highest; w += kAttentionChunk) {
        const int begin = lowest > w ? lowest : w;
        const int stop = highest + 1 < w + kAttentionChunk ? highest + 1 : w + kAttentionChunk;
        score_slots<V, T>(a, begin, stop, by_slot + (begin - w));
        for (int i = 0; i < a.queries; ++i) {
            const int end = a.last[i] + 1 < high ? a.last[i] + 1 : high;
            for (int s = p0; s < end; ++s) {
                const int slot = a.base + a.paths[i][s - a.base];
                if (slot >= w && slot < stop)
                    scratch[i * kAttentionChunk + s - c0] = by_slot[i * kAttentionChunk + slot - w];
            }
        }
    }
}

template <class V, KvType T, int ND>
inline void path_values_block(const AttentionArgs& a, const std::int32_t* path, int s0, int s1,
                              int d0, const float* p, float* state) {
    const int S = a.kv.page_size, D = a.head_dim;
    V acc[ND];
    for (int j = 0; j < ND; ++j) acc[j] = V::load(state + 2 + d0 + 16 * j);
    for (int s = s0; s < s1; ++s) {
        const int slot = a.base + path[s - a.base];
        const auto* v = values_at<T>(a, slot) + static_cast<std::size_t>(slot % S) * D + d0;
        const V weight = V::all(p[s]);
        for (int j = 0; j < ND; ++j) acc[j] = fma(weight, load_kv<V, T>(v + 16 * j), acc[j]);
    }
    for (int j = 0; j < ND; ++j) acc[j].store(state + 2 + d0 + 16 * j);
}

template <class V, KvType T>
void values_of_paths(const AttentionArgs& a, int c0, int high, const float* scratch,
                     float* const* states) {
    const int p0 = a.base > c0 ? a.base : c0;
    for (int i = 0; i < a.queries; ++i) {
        const int s0 = a.first[i] > p0 ? a.first[i] : p0;
        const int s1 = a.last[i] + 1 < high ? a.last[i] + 1 : high;
        const float* p = scratch + i * kAttentionChunk - c0;
        int d = 0;
        for (; d + 64 <= a.head_dim; d += 64)
            path_values_block<V, T, 4>(a, a.paths[i], s0, s1, d, p, states[i]);
        for (; d < a.head_dim; d += 16)
            path_values_block<V, T, 1>(a, a.paths[i], s0, s1, d, p, states[i]);
    }
}

// Scores p[f .. t) -> exp(score - max) in place; max and sum into the state.
template <class V>
inline void softmax_chunk(float* p, int f, int t, float* state) {
    const V none = V::all(-INFINITY);
    const int begin = f / 16 * 16;
    V top = none;
    for (int b = begin; b < t; b += 16) {
        const int lo = f > b ? f - b : 0, hi = t - b < 16 ? t - b : 16;
        const V x = V::load(p + b).keep(lo, hi, none);
        x.store(p + b);
        top = max(x, top);
    }
    const float best = top.reduce_max();
    const V shift = V::all(best);
    V sum = V::zero();
    for (int b = begin; b < t; b += 16) {
        const V e = exp(V::load(p + b) - shift);
        e.store(p + b);
        sum = sum + e;
    }
    state[0] = best;
    state[1] = sum.reduce_add();
}

// Scores p[f .. t) become cap * tanh(score / cap).
template <class V>
inline void cap_scores(float* p, int f, int t, float cap) {
    for (int b = f / 16 * 16; b < t; b += 16) capped(V::load(p + b), V::all(cap)).store(p + b);
}

template <class V, KvType T>
void attend_typed(const AttentionArgs& a, int c0, int c1, float* const* states, float* scratch) {
    const int D = a.head_dim;
    int low = c1, high = c0;
    for (int i = 0; i < a.queries; ++i) {
        low = a.first[i] < low ? a.first[i] : low;
        high = a.last[i] + 1 > high ? a.last[i] + 1 : high;
    }
    low = (low > c0 ? low : c0) / 16 * 16;
    high = high < c1 ? high : c1;
    const int solid = a.paths && a.base < high ? a.base : high;  // positions that are their slots
    score_slots<V, T>(a, low, solid, scratch + (low - c0));
    if (solid < high) score_paths<V, T>(a, c0, high, scratch);
    int from[kMostQueries], to[kMostQueries];
    for (int i = 0; i < a.queries; ++i) {
        float* state = states[i];
        const int f = a.first[i] > c0 ? a.first[i] : c0;
        const int t = a.last[i] + 1 < c1 ? a.last[i] + 1 : c1;
        for (int d = 0; d < D; ++d) state[2 + d] = 0.0f;
        if (f >= t) {
            state[0] = -INFINITY;
            state[1] = 0.0f;
        } else {
            float* scores = scratch + i * kAttentionChunk;
            if (a.softcap > 0.0f) cap_scores<V>(scores, f - c0, t - c0, a.softcap);
            softmax_chunk<V>(scores, f - c0, t - c0, state);
        }
        const int end = a.paths && a.base < t ? a.base : t;
        from[i] = f;
        to[i] = end > f ? end : f;
    }
    in_blocks<V>(a.queries, [&]<int NQ>(int i) {
        values_ragged<V, T, NQ>(a, c0, from + i, to + i, scratch + i * kAttentionChunk, states + i);
    });
    if (solid < high) values_of_paths<V, T>(a, c0, high, scratch, states);
}

template <class V>
void attend(const AttentionArgs& a, int c0, int c1, float* const* states, float* scratch) {
    if (a.kv.type == KvType::kF32)
        attend_typed<V, KvType::kF32>(a, c0, c1, states, scratch);
    else if (a.kv.type == KvType::kBF16)
        attend_typed<V, KvType::kBF16>(a, c0, c1, states, scratch);
    else
        attend_typed<V, KvType::kF16>(a, c0, c1, states, scratch);
}

template <class V>
void merge(float* into, const float* from, int head_dim) {
    if (from[1] == 0.0f) return;
    if (into[1] == 0.0f) {
        for (int i = 0; i < head_dim + 2; ++i) into[i] = from[i];
        return;
    }
    const float top = from[0] > into[0] ? from[0] : into[0];
    float shift[16] = {into[0] - top, from[0] - top};
    float factor[16];
    exp(V::load(shift)).store(factor);
    const V a = V::all(factor[0]), b = V::all(factor[1]);
    for (int d = 0; d < head_dim; d += 16)
        fma(V::load(from + 2 + d), b, V::load(into + 2 + d) * a).store(into + 2 + d);
    into[0] = top;
    into[1] = into[1] * factor[0] + from[1] * factor[1];
}

template <class V>
void finish(const float* state, int head_dim, float* out) {
    const V inverse = V::all(1.0f / state[1]);
    for (int d = 0; d < head_dim; d += 16) (V::load(state + 2 + d) * inverse).store(out + d);
}

}  // namespace halfbyte
