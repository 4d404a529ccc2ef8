// Quantized linear layers on AVX2. Included by kernels_avx2.cpp only.
//
// A nibble (0..15) times an int8 fits vpmaddubsw: over 32 inputs each 16-bit lane sums 16 products
// of at most 15 * 128, 30720 in all, so it cannot saturate. Every 32 inputs the lanes widen to 32
// bits. The two planes are summed apart and joined as 16 * hi + lo, the same integer as in the
// other tiers.
#pragma once
#include <immintrin.h>

#include "epilogue-inl.h"
#include "kernels.h"
#include "vec_avx2.h"

namespace halfbyte::avx2 {

// 8 outputs x 32 inputs of one plane; nibbles: 4 blocks of 8 inputs, 128 bytes apart.
inline __m256i dot32(const std::uint8_t* nibbles, const std::int8_t* x) {
    const __m256i low = _mm256_set1_epi8(0x0f);
    __m256i sum = _mm256_setzero_si256();
    for (int kb = 0; kb < 4; ++kb) {
        const __m256i n = _mm256_load_si256(reinterpret_cast<const __m256i*>(nibbles + kb * 128));
        std::int32_t first, second;
        __builtin_memcpy(&first, x + kb * 8, 4);
        __builtin_memcpy(&second, x + kb * 8 + 4, 4);
        sum = _mm256_add_epi16(
            sum, _mm256_maddubs_epi16(_mm256_and_si256(n, low), _mm256_set1_epi32(first)));
        sum = _mm256_add_epi16(sum,
                               _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(n, 4), low),
                                                    _mm256_set1_epi32(second)));
    }
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

template <bool kLo>
inline __m256i dot32_planes(const std::uint8_t* hi, const std::uint8_t* lo, const std::int8_t* x) {
    const __m256i h = dot32(hi, x);
    if constexpr (!kLo) return h;
    return _mm256_add_epi32(_mm256_slli_epi32(h, 4), dot32(lo, x));
}

// One row, 8 outputs (eighth q of the panel); hi and lo at the panel. kLo: both planes in every
// group, else in the wide ones.
template <bool kLo, int X, bool kOffset>
inline void eighth(const PackedPlanes& w, const std::uint8_t* hi, const std::uint8_t* lo,
                   const std::uint16_t* scale, const float* offset, const Activations& x, int row,
                   float* out) {
    const int groups = w.k / w.group, first_wide = w.first_wide();
    const std::size_t without_lo = static_cast<std::size_t>(w.k - w.lo_k) * 16;  // bytes
    const std::int8_t* codes = x.codes + static_cast<std::size_t>(row) * X * w.k;
    const std::size_t at = static_cast<std::size_t>(row) * groups;
    __m256 sum = _mm256_setzero_ps();
    for (int g = 0; g < groups; ++g) {
        __m256i total = _mm256_set1_epi32(x.bias[at + g]);
        for (int k = g * w.group; k < (g + 1) * w.group; k += 32) {
            const std::size_t byte = static_cast<std::size_t>(k) * 16;
            const bool both = kLo || g >= first_wide;
            const std::uint8_t* l = both ? lo + (byte - without_lo) : nullptr;
            const auto dot = [&](const std::int8_t* c) {
                return both ? dot32_planes<true>(hi + byte, l, c)
                            : dot32_planes<false>(hi + byte, l, c);
            };
            __m256i part = dot(codes + k);
            if constexpr (X == 2)
                part = _mm256_add_epi32(_mm256_slli_epi32(part, 8), dot(codes + w.k + k));
            total = _mm256_add_epi32(total, part);
        }
        const __m256 ws =
            _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(scale + g * kPanel)));
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total),
                              _mm256_mul_ps(ws, _mm256_set1_ps(x.scale[at + g])), sum);
        if constexpr (kOffset)
            sum = _mm256_fmadd_ps(_mm256_load_ps(offset + g * kPanel),
                                  _mm256_set1_ps(x.sum[at + g]), sum);
    }
    _mm256_storeu_ps(out, sum);
}

template <bool kLo, int X, bool kOffset>
void panels(const PackedPlanes& w, const Activations& x, int rows, const Epilogue& e, int p0,
            int p1) {
    alignas(64) float values[kPanel];
    for (int p = p0; p < p1; ++p) {
        const std::size_t plane = static_cast<std::size_t>(p) * w.k * (kPanel / 2);
        const std::size_t low = static_cast<std::size_t>(p) * w.lo_k * (kPanel / 2);
        const std::size_t groups = static_cast<std::size_t>(p) * (w.k / w.group) * kPanel;
        for (int m = 0; m < rows; ++m) {
            for (int q = 0; q < 4; ++q)
                eighth<kLo, X, kOffset>(
                    w, w.hi + plane + q * 32, w.lo ? w.lo + low + q * 32 : nullptr,
                    w.scale + groups + q * 8, kOffset ? w.offset + groups + q * 8 : nullptr, x, m,
                    values + q * 8);
            apply_epilogue<F32x16>(e, p, m, 1, values);
        }
    }
}

template <bool kLo>
void linear_planes(const PackedPlanes& w, const Activations& x, int rows, const Epilogue& e, int p0,
                   int p1) {
    if (w.offset && x.planes == 2)
        panels<kLo, 2, true>(w, x, rows, e, p0, p1);
    else if (w.offset)
        panels<kLo, 1, true>(w, x, rows, e, p0, p1);
    else if (x.planes == 2)
        panels<kLo, 2, false>(w, x, rows, e, p0, p1);
    else
        panels<kLo, 1, false>(w, x, rows, e, p0, p1);
}

inline void linear(const PackedPlanes& w, int bits, const Activations& x, int rows,
                   const Epilogue& e, int p0, int p1, std::uint8_t*) {
    if (bits == 8)
        linear_planes<true>(w, x, rows, e, p0, p1);
    else
        linear_planes<false>(w, x, rows, e, p0, p1);
}

}  // namespace halfbyte::avx2
