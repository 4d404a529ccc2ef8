// Quantized linear layers on AVX-512 VNNI. Included by avx512.cpp only.
//
// A register of weights is 16 outputs x 4 inputs (kernels.h draws it); 4 activation bytes are
// broadcast and vpdpbusd adds the 4 products of each output in one instruction. Nibbles stay
// unsigned (code + 8): what that adds, 8 or 136 times the sum of the activations, is what the
// accumulator starts from (`bias`).
#pragma once
#include <immintrin.h>

#include "kernels/epilogue-inl.h"
#include "kernels/kernels.h"
#include "kernels/vec_avx512.h"

namespace halfbyte::avx512 {

enum class Source {
    kHi,       // the upper nibbles
    kHiLo,     // both planes
    kHiPairs,  // both planes, the lower one stored as pairs of bits
    kMixed,    // the upper nibbles, but both planes of wide groups
    kBytes     // a panel unpacked to bytes
};

struct PanelPointers {
    const std::uint8_t* hi;  // kBytes: the unpacked panel, 256 bytes for each 8 inputs
    const std::uint8_t* lo;
    const void* scale;
    const void* offset;
    const float* unit;
    int without_lo;  // bytes of a plane before the first input that has `lo`
    int first_wide;  // group
};

// Bytes of a plane fetched ahead, into the second cache: the hardware's own prefetchers stop at the
// ends of 4 KiB pages, and fetched into the first cache the weights would push out the activations.
constexpr int kAhead = 4096;

// Weights of 8 inputs, block kb4 + i, as bytes: w[half][tile]. kb4: a multiple of 4.
template <Source S>
inline void load_weights(const PanelPointers& p, int kb4, int i, __m512i w[2][2]) {
    const __m512i low = _mm512_set1_epi8(0x0f);
    const int kb = kb4 + i;
    for (int t = 0; t < 2; ++t) {
        if constexpr (S == Source::kBytes) {
            w[0][t] = _mm512_load_si512(p.hi + kb * 256 + t * 64);
            w[1][t] = _mm512_load_si512(p.hi + kb * 256 + 128 + t * 64);
        } else {
            _mm_prefetch(p.hi + kb * 128 + t * 64 + kAhead, _MM_HINT_T1);
            const __m512i h = _mm512_load_si512(p.hi + kb * 128 + t * 64);
            if constexpr (S == Source::kHi) {
                w[0][t] = _mm512_and_si512(h, low);
                w[1][t] = _mm512_and_si512(_mm512_srli_epi16(h, 4), low);
            } else {
                __m512i l;
                if constexpr (S == Source::kHiPairs) {
                    const std::uint8_t* lo = p.lo + (kb4 / 2 + i / 2) * 128 + t * 64;
                    if (i % 2 == 0) _mm_prefetch(lo + kAhead, _MM_HINT_T1);
                    l = _mm512_load_si512(lo);
                    if (i % 2 == 1) l = _mm512_slli_epi16(l, 2);
                    l = _mm512_and_si512(l, _mm512_set1_epi8(static_cast<char>(0xcc)));
                } else {
                    const std::uint8_t* lo = p.lo + (kb * 128 + t * 64 - p.without_lo);
                    _mm_prefetch(lo + kAhead, _MM_HINT_T1);
                    l = _mm512_load_si512(lo);
                }
                // 0xCA: low ? b : c, bit by bit.
                w[0][t] = _mm512_ternarylogic_epi32(low, l, _mm512_slli_epi16(h, 4), 0xCA);
                w[1][t] = _mm512_ternarylogic_epi32(low, _mm512_srli_epi16(l, 4), h, 0xCA);
            }
        }
    }
}

inline __m512i broadcast4(const std::int8_t* p) {
    std::int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}

// Adds inputs 8 * begin .. 8 * end - 1 of MR rows to integer sums [MR][tile] of each activation
// plane.
template <Source S, int X, int MR>
[[gnu::always_inline]] inline void add_products(const PanelPointers& w, int begin, int end,
                                                const std::int8_t* const* codes, int k,
                                                __m512i low[MR][2], __m512i high[MR][2]) {
    for (int kb4 = begin; kb4 < end; kb4 += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            __m512i v[2][2];
            load_weights<S>(w, kb4, i, v);
            for (int half = 0; half < 2; ++half) {
                for (int r = 0; r < MR; ++r) {
                    const std::int8_t* c = codes[r] + (kb4 + i) * 8 + half * 4;
                    if constexpr (X == 2) {
                        const __m512i xh = broadcast4(c), xl = broadcast4(c + k);
                        for (int t = 0; t < 2; ++t) {
                            high[r][t] = _mm512_dpbusd_epi32(high[r][t], v[half][t], xh);
                            low[r][t] = _mm512_dpbusd_epi32(low[r][t], v[half][t], xl);
                        }
                    } else {
                        const __m512i xb = broadcast4(c);
                        for (int t = 0; t < 2; ++t)
                            low[r][t] = _mm512_dpbusd_epi32(low[r][t], v[half][t], xb);
                    }
                }
            }
        }
    }
}

// Scales, and below offsets, of a tile in a group.
template <Scales F>
inline __m512 load_scales(const PanelPointers& w, int g, int t) {
    const int at = g * kPanel + t * 16;
    if constexpr (has_unit(F)) {
        const auto* codes = static_cast<const std::int8_t*>(w.scale) + at;
        return _mm512_cvtepi32_ps(
            _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(codes))));
    } else {
        const auto* halves = static_cast<const std::uint16_t*>(w.scale) + at;
        return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(halves)));
    }
}

template <Scales F>
inline __m512 load_offsets(const PanelPointers& w, int g, int t) {
    const int at = g * kPanel + t * 16;
    if constexpr (has_unit(F)) {
        static_assert(kOffsetStep == 1 << 3);
        const auto* codes = static_cast<const std::int8_t*>(w.offset) + at;
        return _mm512_cvtepi32_ps(_mm512_slli_epi32(
            _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(codes))), 3));
    } else {
        return _mm512_load_ps(static_cast<const float*>(w.offset) + at);
    }
}

// Sums of a tile, in the row's units, as outputs.
template <Scales F>
inline __m512 finished(const PanelPointers& w, int t, __m512 sums) {
    if constexpr (has_unit(F)) return _mm512_mul_ps(sums, _mm512_load_ps(w.unit + t * 16));
    return sums;
}

// MR rows of one panel. X: activation planes.
template <Source S, int X, Scales F, int MR>
inline void panel_block(const PanelPointers& w, int k, int group, const Activations& x, int row0,
                        float* out) {
    const int groups = k / group;
    const std::int8_t* codes[MR];
    for (int r = 0; r < MR; ++r) codes[r] = x.codes + static_cast<std::size_t>(row0 + r) * X * k;
    const std::size_t at = static_cast<std::size_t>(row0) * groups;
    __m512 sums[MR][2];
    for (auto& s : sums) s[0] = s[1] = _mm512_setzero_ps();
    for (int g = 0; g < groups; ++g) {
        __m512i low[MR][2], high[MR][2];
        for (int r = 0; r < MR; ++r) {
            low[r][0] = low[r][1] = _mm512_set1_epi32(x.bias[at + r * groups + g]);
            high[r][0] = high[r][1] = _mm512_setzero_si512();
        }
        const int begin = g * group / 8, end = begin + group / 8;
        if constexpr (S != Source::kMixed)
            add_products<S, X, MR>(w, begin, end, codes, k, low, high);
        else if (g < w.first_wide)
            add_products<Source::kHi, X, MR>(w, begin, end, codes, k, low, high);
        else
            add_products<Source::kHiLo, X, MR>(w, begin, end, codes, k, low, high);
        for (int t = 0; t < 2; ++t) {
            const __m512 scale = load_scales<F>(w, g, t);
            for (int r = 0; r < MR; ++r) {
                __m512i total = low[r][t];
                if constexpr (X == 2)
                    total = _mm512_add_epi32(_mm512_slli_epi32(high[r][t], 8), total);
                const __m512 xs = _mm512_set1_ps(x.scale[at + r * groups + g]);
                sums[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total), _mm512_mul_ps(scale, xs),
                                             sums[r][t]);
                if constexpr (has_offset(F))
                    sums[r][t] =
                        _mm512_fmadd_ps(load_offsets<F>(w, g, t),
                                        _mm512_set1_ps(x.sum[at + r * groups + g]), sums[r][t]);
            }
        }
    }
    for (int r = 0; r < MR; ++r) {
        _mm512_store_ps(out + r * kPanel, finished<F>(w, 0, sums[r][0]));
        _mm512_store_ps(out + r * kPanel + 16, finished<F>(w, 1, sums[r][1]));
    }
}

template <Source S, int X, Scales F>
inline void panel_rows(const PanelPointers& w, int k, int group, const Activations& x, int row0,
                       int rows, float* out) {
    if constexpr (X == 1) {
        if (rows == 6) return panel_block<S, X, F, 6>(w, k, group, x, row0, out);
        if (rows == 5) return panel_block<S, X, F, 5>(w, k, group, x, row0, out);
    }
    if (rows == 4) return panel_block<S, X, F, 4>(w, k, group, x, row0, out);
    if (rows == 3) return panel_block<S, X, F, 3>(w, k, group, x, row0, out);
    if (rows == 2) return panel_block<S, X, F, 2>(w, k, group, x, row0, out);
    panel_block<S, X, F, 1>(w, k, group, x, row0, out);
}

// Inputs 8 * begin .. 8 * end - 1.
template <Source S>
inline void unpack_inputs(const PanelPointers& w, int begin, int end, std::uint8_t* bytes) {
    for (int kb4 = begin; kb4 < end; kb4 += 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            __m512i v[2][2];
            load_weights<S>(w, kb4, i, v);
            for (int half = 0; half < 2; ++half)
                for (int t = 0; t < 2; ++t)
                    _mm512_store_si512(bytes + (kb4 + i) * 256 + half * 128 + t * 64, v[half][t]);
        }
    }
}

template <Source S>
inline void unpack_panel(const PanelPointers& w, int k, int group, std::uint8_t* bytes) {
    if constexpr (S == Source::kMixed) {
        const int wide = w.first_wide * group / 8;
        unpack_inputs<Source::kHi>(w, 0, wide, bytes);
        unpack_inputs<Source::kHiLo>(w, wide, k / 8, bytes);
    } else {
        unpack_inputs<S>(w, 0, k / 8, bytes);
    }
}

inline PanelPointers panel_pointers(const PackedPlanes& w, int p) {
    const std::size_t plane = static_cast<std::size_t>(p) * w.k * (kPanel / 2);
    const std::size_t groups = static_cast<std::size_t>(p) * (w.k / w.group) * kPanel;
    return {.hi = w.hi + plane,
            .lo = w.lo ? w.lo + p * w.lo_panel() : nullptr,
            .scale = static_cast<const char*>(w.scale) + groups * w.scale_width(),
            .offset =
                w.offset ? static_cast<const char*>(w.offset) + groups * w.offset_width() : nullptr,
            .unit = w.unit ? w.unit + static_cast<std::size_t>(p) * kPanel : nullptr,
            .without_lo = (w.k - w.lo_k) * (kPanel / 2),
            .first_wide = w.first_wide()};
}

template <Source S, int X, Scales F>
void panels(const PackedPlanes& w, const Activations& x, int rows, const Epilogue& epilogue, int p0,
            int p1, std::uint8_t* scratch) {
    // Accumulators for more rows than this spill: 32 registers hold 4 per row and activation plane
    // less the running sums, the weights and the mask.
    constexpr int kMostRows = X == 1 ? 6 : 4;
    const int blocks = (rows + kMostRows - 1) / kMostRows;
    const int step = (rows + blocks - 1) / blocks;
    // Taking nibbles apart hides behind the products; storing and reading bytes pays where many
    // blocks share it (from 5 blocks on).
    const bool unpack = blocks > 4;
    alignas(64) float values[kMostRows * kPanel];
    for (int p = p0; p < p1; ++p) {
        PanelPointers panel = panel_pointers(w, p);
        if (unpack) {
            unpack_panel<S>(panel, w.k, w.group, scratch);
            panel.hi = scratch;
        }
        for (int m = 0; m < rows; m += step) {
            const int n = rows - m < step ? rows - m : step;
            if (unpack)
                panel_rows<Source::kBytes, X, F>(panel, w.k, w.group, x, m, n, values);
            else
                panel_rows<S, X, F>(panel, w.k, w.group, x, m, n, values);
            apply_epilogue<F32x16>(epilogue, p, m, n, values);
        }
    }
}

// Calls f.template operator()<S, X, F>() with what a product is compiled for: where its codes come
// from, the activation planes and the kind of scales.
template <typename Product>
void with_product(const PackedPlanes& w, int bits, const Activations& x, Product&& f) {
    const auto with_source = [&]<Source S>() {
        with_operands(w, x, [&]<int X, Scales F>() { f.template operator()<S, X, F>(); });
    };
    if (bits == 8 && w.lo_bits == 2)
        with_source.template operator()<Source::kHiPairs>();
    else if (bits == 8)
        with_source.template operator()<Source::kHiLo>();
    else if (w.wide)
        with_source.template operator()<Source::kMixed>();
    else
        with_source.template operator()<Source::kHi>();
}

inline void linear(const PackedPlanes& w, int bits, const Activations& x, int rows,
                   const Epilogue& e, int p0, int p1, std::uint8_t* scratch) {
    with_product(w, bits, x, [&]<Source S, int X, Scales F>() {
        panels<S, X, F>(w, x, rows, e, p0, p1, scratch);
    });
}

}  // namespace halfbyte::avx512
