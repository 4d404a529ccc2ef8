// F32x16 on AVX-512: 16 float lanes. vec_avx2.h and vec_scalar.h offer the same operations with the
// same rounding, so the ops written over them give the same bits in every tier.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace halfbyte::avx512 {

struct I32x16 {
    __m512i v;

    static I32x16 zero() { return {_mm512_setzero_si512()}; }
    static I32x16 all(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
    I32x16 shift_right(int bits) const { return {_mm512_srai_epi32(v, bits)}; }
    I32x16 shift_left(int bits) const { return {_mm512_slli_epi32(v, bits)}; }
    // The low byte of each lane.
    void store_i8(std::int8_t* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
    }
    std::int32_t reduce_add() const { return _mm512_reduce_add_epi32(v); }
};

inline I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32x16 operator-(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }

struct F32x16 {
    static constexpr int kRegisters = 32;
    using Int = I32x16;
    __m512 v;

    static F32x16 zero() { return {_mm512_setzero_ps()}; }
    static F32x16 all(float x) { return {_mm512_set1_ps(x)}; }
    static F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static F32x16 load_f16(const std::uint16_t* p) {
        return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
    }
    static F32x16 load_bf16(const std::uint16_t* p) {
        const __m512i wide =
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
    }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store_f16(std::uint16_t* p) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
    // Rounds to the nearest integer, ties to even.
    I32x16 to_i32() const { return {_mm512_cvtps_epi32(v)}; }
    F32x16 round() const {
        return {_mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    }
    // 2^lane for integral lanes in [-126, 127].
    F32x16 exp2i() const {
        const __m512i n = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(127));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(n, 23))};
    }
    F32x16 abs() const { return {_mm512_abs_ps(v)}; }
    // Lanes [from, to) of this, `other` elsewhere.
    F32x16 keep(int from, int to, F32x16 other) const {
        const std::uint32_t mask = ((1u << to) - 1u) & ~((1u << from) - 1u);
        return {_mm512_mask_mov_ps(other.v, static_cast<__mmask16>(mask), v)};
    }
    // Lanes of this where a >= b, zero elsewhere.
    F32x16 zero_unless_ge(F32x16 a, F32x16 b) const {
        return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ), v)};
    }
    // The Walsh-Hadamard transform of the lanes, not normed.
    F32x16 hadamard() const {
        __m512 x = butterfly(v, _mm512_permute_ps(v, 0xB1), 0xAAAA);
        x = butterfly(x, _mm512_permute_ps(x, 0x4E), 0xCCCC);
        x = butterfly(x, _mm512_shuffle_f32x4(x, x, 0xB1), 0xF0F0);
        return {butterfly(x, _mm512_shuffle_f32x4(x, x, 0x4E), 0xFF00)};
    }
    float reduce_max() const { return _mm512_reduce_max_ps(v); }
    // Adds lane i to lane i + 8, then 4, 2, 1: the same tree in every tier.
    float reduce_add() const {
        const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
        const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
        const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
        return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
    }

  private:
    // Each lane with its partner: the sum in the lower lane of a pair, the difference in the upper.
    static __m512 butterfly(__m512 x, __m512 partner, __mmask16 upper) {
        return _mm512_mask_sub_ps(_mm512_add_ps(x, partner), upper, partner, x);
    }
};

inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }

}  // namespace halfbyte::avx512
