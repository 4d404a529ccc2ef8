// Quantized linear layers on AVX2. Included by avx2.cpp only.
//
// A nibble (0..15) times an int8 fits vpmaddubsw: over 32 inputs each 16-bit lane sums 16 products
// of at most 15 * 128, 30720 in all, so it cannot saturate. Every 32 inputs the lanes widen to 32
// bits. The two planes are summed apart and joined as 16 * hi + lo, the same integer as in the
// other tiers.
#pragma once
#include <immintrin.h>

#include "kernels/epilogue-inl.h"
#include "kernels/kernels.h"
#include "kernels/vec_avx2.h"

namespace halfbyte::avx2 {

// 8 outputs x 32 inputs of one plane; nibbles: 4 blocks of 8 inputs, 128 bytes apart, or two times
// two that are stored as pairs of bits.
template <int kBits>
inline __m256i dot32(const std::uint8_t* nibbles, const std::int8_t* x) {
    const __m256i low = _mm256_set1_epi8(kBits == 2 ? 0x0c : 0x0f);
    __m256i sum = _mm256_setzero_si256();
    for (int kb = 0; kb < 4; ++kb) {
        const int block = kBits == 2 ? kb / 2 : kb;
        __m256i n = _mm256_load_si256(reinterpret_cast<const __m256i*>(nibbles + block * 128));
        if (kBits == 2 && kb % 2 == 1) n = _mm256_slli_epi16(n, 2);
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

template <int kLoBits>
inline __m256i dot32_planes(const std::uint8_t* hi, const std::uint8_t* lo, const std::int8_t* x) {
    const __m256i h = dot32<4>(hi, x);
    if constexpr (kLoBits == 0) return h;
    return _mm256_add_epi32(_mm256_slli_epi32(h, 4), dot32<kLoBits>(lo, x));
}

// 8 scales, and below offsets, from entry `at` on.
template <Scales F>
inline __m256 load_scales(const PackedPlanes& w, std::size_t at) {
    if constexpr (has_unit(F)) {
        const auto* codes = static_cast<const std::int8_t*>(w.scale) + at;
        return _mm256_cvtepi32_ps(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes))));
    } else {
        const auto* halves = static_cast<const std::uint16_t*>(w.scale) + at;
        return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(halves)));
    }
}

template <Scales F>
inline __m256 load_offsets(const PackedPlanes& w, std::size_t at) {
    if constexpr (has_unit(F)) {
        static_assert(kOffsetStep == 1 << 3);
        const auto* codes = static_cast<const std::int8_t*>(w.offset) + at;
        return _mm256_cvtepi32_ps(_mm256_slli_epi32(
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes))), 3));
    } else {
        return _mm256_load_ps(static_cast<const float*>(w.offset) + at);
    }
}

// One row, 8 outputs (quarter q of panel p). kLo: the bits `lo` is read in where groups are not
// wide, 0 for none.
template <int kLo, int X, Scales F>
inline void quarter(const PackedPlanes& w, int p, int q, const Activations& x, int row,
                    float* out) {
    const int groups = w.k / w.group, first_wide = w.first_wide();
    const std::size_t without_lo = static_cast<std::size_t>(w.k - w.lo_k) * 16;  // bytes
    const std::uint8_t* hi = w.hi + static_cast<std::size_t>(p) * w.k * (kPanel / 2) + q * 32;
    const std::uint8_t* lo = w.lo ? w.lo + p * w.lo_panel() + q * 32 : nullptr;
    const std::size_t entry = static_cast<std::size_t>(p) * groups * kPanel + q * 8;
    const std::int8_t* codes = x.codes + static_cast<std::size_t>(row) * X * w.k;
    const std::size_t at = static_cast<std::size_t>(row) * groups;
    __m256 sum = _mm256_setzero_ps();
    for (int g = 0; g < groups; ++g) {
        __m256i total = _mm256_set1_epi32(x.bias[at + g]);
        for (int k = g * w.group; k < (g + 1) * w.group; k += 32) {
            const std::size_t byte = static_cast<std::size_t>(k) * 16;
            const auto dot = [&](const std::int8_t* c) {
                if constexpr (kLo == 2) return dot32_planes<2>(hi + byte, lo + byte / 2, c);
                return kLo || g >= first_wide
                           ? dot32_planes<4>(hi + byte, lo + (byte - without_lo), c)
                           : dot32_planes<0>(hi + byte, nullptr, c);
            };
            __m256i part = dot(codes + k);
            if constexpr (X == 2)
                part = _mm256_add_epi32(_mm256_slli_epi32(part, 8), dot(codes + w.k + k));
            total = _mm256_add_epi32(total, part);
        }
        const __m256 ws = load_scales<F>(w, entry + g * kPanel);
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total),
                              _mm256_mul_ps(ws, _mm256_set1_ps(x.scale[at + g])), sum);
        if constexpr (has_offset(F))
            sum = _mm256_fmadd_ps(load_offsets<F>(w, entry + g * kPanel),
                                  _mm256_set1_ps(x.sum[at + g]), sum);
    }
    if constexpr (has_unit(F))
        sum = _mm256_mul_ps(sum, _mm256_load_ps(w.unit + p * kPanel + q * 8));
    _mm256_storeu_ps(out, sum);
}

template <int kLo, int X, Scales F>
void panels(const PackedPlanes& w, const Activations& x, int rows, const Epilogue& e, int p0,
            int p1) {
    alignas(64) float values[kPanel];
    for (int p = p0; p < p1; ++p) {
        for (int m = 0; m < rows; ++m) {
            for (int q = 0; q < 4; ++q) quarter<kLo, X, F>(w, p, q, x, m, values + q * 8);
            apply_epilogue<F32x16>(e, p, m, 1, values);
        }
    }
}

inline void linear(const PackedPlanes& w, int bits, const Activations& x, int rows,
                   const Epilogue& e, int p0, int p1, std::uint8_t*) {
    with_operands(w, x, [&]<int X, Scales F>() {
        if (bits == 8 && w.lo_bits == 2)
            panels<2, X, F>(w, x, rows, e, p0, p1);
        else if (bits == 8)
            panels<4, X, F>(w, x, rows, e, p0, p1);
        else
            panels<0, X, F>(w, x, rows, e, p0, p1);
    });
}

}  // namespace halfbyte::avx2
