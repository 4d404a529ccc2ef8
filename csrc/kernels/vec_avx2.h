// F32x16 on AVX2 + FMA + F16C: two registers of 8 lanes. See vec_avx512.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace halfbyte::avx2 {

struct I32x16 {
    __m256i a, b;

    static I32x16 zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static I32x16 all(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
    I32x16 shift_right(int bits) const {
        return {_mm256_srai_epi32(a, bits), _mm256_srai_epi32(b, bits)};
    }
    I32x16 shift_left(int bits) const {
        return {_mm256_slli_epi32(a, bits), _mm256_slli_epi32(b, bits)};
    }
    void store_i8(std::int8_t* p) const {
        const __m256i low = _mm256_set1_epi32(0xff);  // packus saturates, so cut to the byte first
        const __m256i words = _mm256_permute4x64_epi64(
            _mm256_packus_epi32(_mm256_and_si256(a, low), _mm256_and_si256(b, low)), 0xD8);
        const __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    }
    std::int32_t reduce_add() const {
        const __m256i h = _mm256_add_epi32(a, b);
        __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
        q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
        return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
    }
};

inline I32x16 operator+(I32x16 x, I32x16 y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
inline I32x16 operator-(I32x16 x, I32x16 y) {
    return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}

struct F32x16 {
    static constexpr int kRegisters = 8;  // pairs of ymm
    using Int = I32x16;
    __m256 a, b;

    static F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static F32x16 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static F32x16 load_f16(const std::uint16_t* p) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
    }
    static F32x16 load_bf16(const std::uint16_t* p) { return {widen(p), widen(p + 8)}; }
    void store(float* p) const {
        _mm256_storeu_ps(p, a);
        _mm256_storeu_ps(p + 8, b);
    }
    void store_f16(std::uint16_t* p) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8),
                         _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
    }
    I32x16 to_i32() const { return {_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)}; }
    F32x16 round() const {
        return {_mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                _mm256_round_ps(b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
    }
    F32x16 exp2i() const { return {power(a), power(b)}; }
    F32x16 abs() const {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        return {_mm256_andnot_ps(sign, a), _mm256_andnot_ps(sign, b)};
    }
    F32x16 keep(int from, int to, F32x16 other) const {
        return {_mm256_blendv_ps(other.a, a, lanes(from, to, 0)),
                _mm256_blendv_ps(other.b, b, lanes(from, to, 8))};
    }
    F32x16 zero_unless_ge(F32x16 x, F32x16 y) const {
        return {_mm256_and_ps(a, _mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ)),
                _mm256_and_ps(b, _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ))};
    }
    F32x16 hadamard() const {
        const __m256 x = lane_hadamard(a), y = lane_hadamard(b);
        return {_mm256_add_ps(x, y), _mm256_sub_ps(x, y)};
    }
    float reduce_max() const {
        const __m256 h = _mm256_max_ps(a, b);
        const __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
        const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
        return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
    }
    float reduce_add() const {
        const __m256 h = _mm256_add_ps(a, b);
        const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
        const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
        return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
    }

  private:
    static __m256 lane_hadamard(__m256 x) {
        x = butterfly<0xAA>(x, _mm256_permute_ps(x, 0xB1));
        x = butterfly<0xCC>(x, _mm256_permute_ps(x, 0x4E));
        return butterfly<0xF0>(x, _mm256_permute2f128_ps(x, x, 1));
    }
    template <int upper>
    static __m256 butterfly(__m256 x, __m256 partner) {
        return _mm256_blend_ps(_mm256_add_ps(x, partner), _mm256_sub_ps(partner, x), upper);
    }
    static __m256 widen(const std::uint16_t* p) {
        const __m256i wide =
            _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    static __m256 power(__m256 x) {
        const __m256i n = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
    }
    static __m256 lanes(int from, int to, int first) {
        const __m256i lane =
            _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
        const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(to), lane);
        const __m256i early = _mm256_cmpgt_epi32(_mm256_set1_epi32(from), lane);
        return _mm256_castsi256_ps(_mm256_andnot_si256(early, below));
    }
};

inline F32x16 operator+(F32x16 x, F32x16 y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline F32x16 operator-(F32x16 x, F32x16 y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline F32x16 operator*(F32x16 x, F32x16 y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline F32x16 operator/(F32x16 x, F32x16 y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline F32x16 fma(F32x16 x, F32x16 y, F32x16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F32x16 max(F32x16 x, F32x16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F32x16 min(F32x16 x, F32x16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }

}  // namespace halfbyte::avx2
