// Quantized linear layers on AMX: steps of 16 rows and more. Included by amx.cpp only.
//
// tdpbsud multiplies a tile of 16 rows x 64 signed bytes with one of 64 unsigned bytes x 16
// outputs. The panel unpacked to bytes (linear_planes_avx512.h) already has that layout: four
// inputs of 16 outputs per row. Integers inside a group are exact and groups are added in the same
// order with the same roundings, so the bits are those of the AVX-512 tier. The vector units, which
// scale and add every group, are the limit here (about 50 cycles for 16 x 16 outputs of a group of
// 32 against 18 for the tile product).
#pragma once
#include <immintrin.h>

#include "kernels/linear_planes_avx512.h"

namespace halfbyte::amx {

using avx512::PanelPointers;
using avx512::Source;

struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t column_bytes[16] = {};
    std::uint8_t rows[16] = {};
};

// Two sets of tiles, so that the product of one group runs while the vector units finish the one
// before. Set 0: tiles 0, 1 sums of activation planes 0 and 1; 2 activations; 3 weights. Set 1:
// tiles 4 to 7.
inline void configure(int step) {
    TileConfig c;
    for (int t = 0; t < 8; ++t) {
        const bool weights = t % 4 == 3;
        c.rows[t] = static_cast<std::uint8_t>(weights ? step / 4 : 16);
        c.column_bytes[t] = static_cast<std::uint16_t>(t % 4 == 2 ? step : 64);
    }
    // GCC 12's intrinsic tells the optimizer of 8 of the 64 bytes read, so the other stores may
    // vanish.
    asm volatile("ldtilecfg %0" : : "m"(c));
}

// Its tile loads name no memory at all: stores they depend on must be finished before.
inline void finish_stores() { asm volatile("" : : : "memory"); }

// Integer sums of one group, 16 rows x 16 outputs; planes[0] the high (or only) plane.
struct alignas(64) GroupSums {
    std::int32_t planes[2][16][16];
};

// GCC's tile intrinsics take literal register numbers only, hence a macro and not a template
// parameter.
#define HALFBYTE_MULTIPLY(name, SUM0, SUM1, ROWS, WEIGHTS)                                    \
    template <int X>                                                                          \
    inline void name(const std::uint8_t* weights, const std::int8_t* codes, int k, int group, \
                     int step, GroupSums& out) {                                              \
        _tile_zero(SUM0);                                                                     \
        if constexpr (X == 2) _tile_zero(SUM1);                                               \
        for (int i = 0; i < group; i += step) {                                               \
            _tile_loadd(WEIGHTS, weights + i / 4 * 128, 128);                                 \
            _tile_loadd(ROWS, codes + i, X * k);                                              \
            _tile_dpbsud(SUM0, ROWS, WEIGHTS);                                                \
            if constexpr (X == 2) {                                                           \
                _tile_loadd(ROWS, codes + k + i, X * k);                                      \
                _tile_dpbsud(SUM1, ROWS, WEIGHTS);                                            \
            }                                                                                 \
        }                                                                                     \
        _tile_stored(SUM0, out.planes[0], 64);                                                \
        if constexpr (X == 2) _tile_stored(SUM1, out.planes[1], 64);                          \
    }
HALFBYTE_MULTIPLY(multiply_even, 0, 1, 2, 3)
HALFBYTE_MULTIPLY(multiply_odd, 4, 5, 6, 7)
#undef HALFBYTE_MULTIPLY

// Asks for tile `t`'s half of one group of the next panel's planes, while this one is multiplied:
// unpacking waits for memory otherwise, and the tiles wait for it.
template <Source S>
inline void fetch_ahead(const PanelPointers& next, int t, int g, int group) {
    const int bytes = group * kPanel / 4, from = g * 2 * bytes + t * bytes;
    for (int i = from; i < from + bytes; i += 64) {
        _mm_prefetch(next.hi + i, _MM_HINT_T1);
        if constexpr (S == Source::kHiLo)
            _mm_prefetch(next.lo + (i - next.without_lo), _MM_HINT_T1);
        if constexpr (S == Source::kHiPairs) _mm_prefetch(next.lo + i / 2, _MM_HINT_T1);
    }
}

// 16 rows x 16 outputs (tile `t` of the panel) into out[row][32].
template <Source S, int X, Scales F>
inline void tile_block(const std::uint8_t* bytes, const PanelPointers& w, const PanelPointers* next,
                       int t, int k, int group, int step, const Activations& x, int row0,
                       float* out) {
    const int groups = k / group;
    const std::int8_t* codes = x.codes + static_cast<std::size_t>(row0) * X * k;
    const std::size_t at = static_cast<std::size_t>(row0) * groups;
    GroupSums buffers[2];
    __m512 sums[16];
    for (auto& s : sums) s = _mm512_setzero_ps();
    const auto start = [&](int g) {
        const std::uint8_t* weights = bytes + g * group / 4 * 128 + t * 64;
        if (g % 2 == 0)
            multiply_even<X>(weights, codes + g * group, k, group, step, buffers[0]);
        else
            multiply_odd<X>(weights, codes + g * group, k, group, step, buffers[1]);
    };
    start(0);
    for (int g = 0; g < groups; ++g) {
        if (g + 1 < groups) start(g + 1);
        if (next) fetch_ahead<S>(*next, t, g, group);
        const GroupSums& b = buffers[g % 2];
        const __m512 scale = avx512::load_scales<F>(w, g, t);
#pragma GCC unroll 16
        for (int r = 0; r < 16; ++r) {
            const std::size_t rg = at + static_cast<std::size_t>(r) * groups + g;
            __m512i total = _mm512_load_si512(b.planes[X - 1][r]);
            if constexpr (X == 2)
                total = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(b.planes[0][r]), 8),
                                         total);
            total = _mm512_add_epi32(total, _mm512_set1_epi32(x.bias[rg]));
            sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total),
                                      _mm512_mul_ps(scale, _mm512_set1_ps(x.scale[rg])), sums[r]);
            if constexpr (has_offset(F))
                sums[r] = _mm512_fmadd_ps(avx512::load_offsets<F>(w, g, t),
                                          _mm512_set1_ps(x.sum[rg]), sums[r]);
        }
    }
    for (int r = 0; r < 16; ++r)
        _mm512_store_ps(out + r * kPanel + t * 16, avx512::finished<F>(w, t, sums[r]));
}

template <Source S, int X, Scales F>
void panels(const PackedPlanes& w, const Activations& x, int rows, const Epilogue& e, int p0,
            int p1, std::uint8_t* scratch) {
    alignas(64) float values[16 * kPanel];
    const int step = w.group == 32 ? 32 : 64, whole = rows / 16 * 16;
    configure(step);
    for (int p = p0; p < p1; ++p) {
        PanelPointers panel = avx512::panel_pointers(w, p);
        const PanelPointers next = avx512::panel_pointers(w, p + 1);
        avx512::unpack_panel<S>(panel, w.k, w.group, scratch);
        finish_stores();
        for (int m = 0; m < whole; m += 16) {
            for (int t = 0; t < 2; ++t)
                tile_block<S, X, F>(scratch, panel, m == 0 ? &next : nullptr, t, w.k, w.group, step,
                                    x, m, values);
            apply_epilogue<avx512::F32x16>(e, p, m, 16, values);
        }
        panel.hi = scratch;
        for (int m = whole; m < rows; m += 4) {
            const int n = rows - m < 4 ? rows - m : 4;
            avx512::panel_rows<Source::kBytes, X, F>(panel, w.k, w.group, x, m, n, values);
            apply_epilogue<avx512::F32x16>(e, p, m, n, values);
        }
    }
    _tile_release();
}

inline void linear(const PackedPlanes& w, int bits, const Activations& x, int rows,
                   const Epilogue& e, int p0, int p1, std::uint8_t* scratch) {
    if (rows < 16) return avx512::linear(w, bits, x, rows, e, p0, p1, scratch);
    avx512::with_product(w, bits, x, [&]<Source S, int X, Scales F>() {
        panels<S, X, F>(w, x, rows, e, p0, p1, scratch);
    });
}

}  // namespace halfbyte::amx
