// F32x16 in plain C++ for any processor. See vec_avx512.h.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

namespace halfbyte::scalar {

inline float f16_to_f32(std::uint16_t h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
    const std::uint32_t rest = h & 0x7fffu;
    if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    if (rest < 0x400u) {  // subnormal: rest * 2^-24
        const float x = static_cast<float>(rest) * 0x1p-24f;
        return sign ? -x : x;
    }
    return std::bit_cast<float>(sign | ((rest << 13) + 0x38000000u));
}

inline std::uint16_t f32_to_f16(float x) {  // nearest even
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
    const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
    const std::uint32_t a = bits & 0x7fffffffu;
    if (a > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (a < 0x38800000u) {  // subnormal: adding 0.5 aligns the bits and rounds to even
        const float aligned = std::bit_cast<float>(a) + 0.5f;
        return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) & 0x7ffu));
    }
    const std::uint32_t rounded = a - 0x38000000u + 0xfffu + ((a >> 13) & 1u);
    return static_cast<std::uint16_t>(sign | (rounded >> 13));
}

struct I32x16 {
    std::int32_t x[16];

    static I32x16 zero() { return all(0); }
    static I32x16 all(std::int32_t value) {
        I32x16 r;
        for (std::int32_t& e : r.x) e = value;
        return r;
    }
    I32x16 shift_right(int bits) const {
        I32x16 r;
        for (int i = 0; i < 16; ++i) r.x[i] = x[i] >> bits;
        return r;
    }
    I32x16 shift_left(int bits) const {
        I32x16 r;
        for (int i = 0; i < 16; ++i)
            r.x[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(x[i]) << bits);
        return r;
    }
    void store_i8(std::int8_t* p) const {
        for (int i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(x[i]);
    }
    std::int32_t reduce_add() const {
        std::uint32_t sum = 0;
        for (std::int32_t e : x) sum += static_cast<std::uint32_t>(e);
        return static_cast<std::int32_t>(sum);
    }
};

// Wraps around like the vector units.
inline I32x16 operator+(const I32x16& a, const I32x16& b) {
    I32x16 r;
    for (int i = 0; i < 16; ++i)
        r.x[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.x[i]) +
                                           static_cast<std::uint32_t>(b.x[i]));
    return r;
}
inline I32x16 operator-(const I32x16& a, const I32x16& b) {
    I32x16 r;
    for (int i = 0; i < 16; ++i)
        r.x[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.x[i]) -
                                           static_cast<std::uint32_t>(b.x[i]));
    return r;
}

struct F32x16 {
    static constexpr int kRegisters = 8;
    using Int = I32x16;
    float x[16];

    static F32x16 zero() { return all(0.0f); }
    static F32x16 all(float value) {
        F32x16 r;
        for (float& e : r.x) e = value;
        return r;
    }
    static F32x16 load(const float* p) {
        F32x16 r;
        for (int i = 0; i < 16; ++i) r.x[i] = p[i];
        return r;
    }
    static F32x16 load_f16(const std::uint16_t* p) {
        F32x16 r;
        for (int i = 0; i < 16; ++i) r.x[i] = f16_to_f32(p[i]);
        return r;
    }
    static F32x16 load_bf16(const std::uint16_t* p) {
        F32x16 r;
        for (int i = 0; i < 16; ++i)
            r.x[i] = std::bit_cast<float>(static_cast<std::uint32_t>(p[i]) << 16);
        return r;
    }
    void store(float* p) const {
        for (int i = 0; i < 16; ++i) p[i] = x[i];
    }
    void store_f16(std::uint16_t* p) const {
        for (int i = 0; i < 16; ++i) p[i] = f32_to_f16(x[i]);
    }
    I32x16 to_i32() const {
        I32x16 n;
        for (int i = 0; i < 16; ++i) {
            // What the vector units return for a lane that fits no int32.
            const float r = std::nearbyintf(x[i]);
            n.x[i] = r >= -0x1p31f && r < 0x1p31f ? static_cast<std::int32_t>(r) : INT32_MIN;
        }
        return n;
    }
    F32x16 round() const {
        F32x16 r;
        for (int i = 0; i < 16; ++i) r.x[i] = std::nearbyintf(x[i]);
        return r;
    }
    F32x16 exp2i() const {
        const I32x16 n = to_i32();
        F32x16 r;
        for (int i = 0; i < 16; ++i)
            r.x[i] = std::bit_cast<float>((static_cast<std::uint32_t>(n.x[i]) + 127u) << 23);
        return r;
    }
    F32x16 abs() const {
        F32x16 r;
        for (int i = 0; i < 16; ++i) r.x[i] = std::fabs(x[i]);
        return r;
    }
    F32x16 keep(int from, int to, F32x16 other) const {
        for (int i = from; i < to; ++i) other.x[i] = x[i];
        return other;
    }
    F32x16 zero_unless_ge(F32x16 a, F32x16 b) const {
        F32x16 r;
        for (int i = 0; i < 16; ++i) r.x[i] = a.x[i] >= b.x[i] ? x[i] : 0.0f;
        return r;
    }
    F32x16 hadamard() const {
        F32x16 r = *this;
        for (int half = 1; half < 16; half *= 2) {
            for (int i = 0; i < 16; ++i) {
                if (i & half) continue;
                const float a = r.x[i], b = r.x[i + half];
                r.x[i] = a + b;
                r.x[i + half] = a - b;
            }
        }
        return r;
    }
    float reduce_max() const {
        float r = x[0];
        for (int i = 1; i < 16; ++i) r = x[i] > r ? x[i] : r;
        return r;
    }
    float reduce_add() const {
        float s[8];
        for (int i = 0; i < 8; ++i) s[i] = x[i] + x[i + 8];
        for (int i = 0; i < 4; ++i) s[i] = s[i] + s[i + 4];
        for (int i = 0; i < 2; ++i) s[i] = s[i] + s[i + 2];
        return s[0] + s[1];
    }
};

#define HALFBYTE_LANEWISE(name, expression)                \
    inline F32x16 name(const F32x16& a, const F32x16& b) { \
        F32x16 r;                                          \
        for (int i = 0; i < 16; ++i) {                     \
            const float p = a.x[i], q = b.x[i];            \
            r.x[i] = (expression);                         \
        }                                                  \
        return r;                                          \
    }
HALFBYTE_LANEWISE(operator+, p + q)
HALFBYTE_LANEWISE(operator-, p - q)
HALFBYTE_LANEWISE(operator*, p* q)
HALFBYTE_LANEWISE(operator/, p / q)
HALFBYTE_LANEWISE(max, p > q ? p : q)  // like the vector units: q when either is NaN
HALFBYTE_LANEWISE(min, p < q ? p : q)
#undef HALFBYTE_LANEWISE

inline F32x16 fma(const F32x16& a, const F32x16& b, const F32x16& c) {
    F32x16 r;
    for (int i = 0; i < 16; ++i) r.x[i] = std::fmaf(a.x[i], b.x[i], c.x[i]);
    return r;
}

}  // namespace halfbyte::scalar
