// Quantized linear layers in plain C++. Included by scalar.cpp only.
#pragma once
#include <cmath>

#include "kernels/epilogue-inl.h"
#include "kernels/kernels.h"
#include "kernels/scales-inl.h"
#include "kernels/vec_scalar.h"

namespace halfbyte::scalar {

// The byte of `lo`'s nibbles at `byte` of block kb.
inline int low_byte(const std::uint8_t* lo, int lo_bits, int kb, int byte) {
    if (lo_bits == 4) return lo[kb * 128 + byte];
    return (lo[kb / 2 * 128 + byte] << (kb % 2 * 2)) & 0xcc;
}

// Sum over a group of (unsigned code) * x for the 32 outputs of a panel.
inline void dot_group(const std::uint8_t* hi, const std::uint8_t* lo, int lo_bits,
                      const std::int8_t* x, int group, std::int32_t* out) {
    for (int r = 0; r < kPanel; ++r) out[r] = 0;
    for (int kb = 0; kb < group / 8; ++kb) {
        for (int r = 0; r < kPanel; ++r) {
            for (int j = 0; j < 4; ++j) {
                const int byte = (r / 16) * 64 + (r % 16) * 4 + j, h = hi[kb * 128 + byte];
                int first = h & 15, second = h >> 4;
                if (lo) {
                    const int l = low_byte(lo, lo_bits, kb, byte);
                    first = 16 * first + (l & 15);
                    second = 16 * second + (l >> 4);
                }
                out[r] += first * x[kb * 8 + j] + second * x[kb * 8 + 4 + j];
            }
        }
    }
}

inline void linear(const PackedPlanes& w, int bits, const Activations& x, int rows,
                   const Epilogue& e, int p0, int p1, std::uint8_t*) {
    const int groups = w.k / w.group;
    float values[kPanel];
    std::int32_t total[kPanel], low[kPanel];
    for (int p = p0; p < p1; ++p) {
        for (int m = 0; m < rows; ++m) {
            const std::int8_t* codes = x.codes + static_cast<std::size_t>(m) * x.planes * w.k;
            for (float& v : values) v = 0.0f;
            for (int g = 0; g < groups; ++g) {
                const std::size_t first = static_cast<std::size_t>(g) * w.group;
                const std::uint8_t* hi =
                    w.hi + (static_cast<std::size_t>(p) * w.k + first) * (kPanel / 2);
                const std::uint8_t* lo = nullptr;
                if (bits == 8 || g >= w.first_wide())
                    lo = w.lo + p * w.lo_panel() +
                         (first - (w.k - w.lo_k)) * (kPanel / 2) * w.lo_bits / 4;
                dot_group(hi, lo, w.lo_bits, codes + g * w.group, w.group, total);
                if (x.planes == 2) {
                    dot_group(hi, lo, w.lo_bits, codes + w.k + g * w.group, w.group, low);
                    for (int r = 0; r < kPanel; ++r) total[r] = 256 * total[r] + low[r];
                }
                const std::size_t row = static_cast<std::size_t>(m) * groups + g;
                const std::size_t at = (static_cast<std::size_t>(p) * groups + g) * kPanel;
                for (int r = 0; r < kPanel; ++r) {
                    const float t = scale_at(w, at + r) * x.scale[row];
                    values[r] = std::fmaf(static_cast<float>(total[r] + x.bias[row]), t, values[r]);
                    if (w.offset)
                        values[r] = std::fmaf(offset_at(w, at + r), x.sum[row], values[r]);
                }
            }
            if (w.unit)
                for (int r = 0; r < kPanel; ++r) values[r] *= w.unit[p * kPanel + r];
            apply_epilogue<F32x16>(e, p, m, 1, values);
        }
    }
}

}  // namespace halfbyte::scalar
