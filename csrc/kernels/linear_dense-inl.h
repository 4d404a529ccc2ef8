// Dense (f32, f16, bf16) linear layers: the `f32` level. Four running sums per output, input k in
// sum k mod 4, for instruction-level parallelism with a fixed order.
#pragma once
#include "kernels/epilogue-inl.h"
#include "kernels/kernels.h"

namespace halfbyte {

template <class V, PackedDense::Type T>
inline V load_weights(const void* base, std::size_t at) {
    if constexpr (T == PackedDense::Type::kF32)
        return V::load(static_cast<const float*>(base) + at);
    const auto* half = static_cast<const std::uint16_t*>(base) + at;
    if constexpr (T == PackedDense::Type::kF16) return V::load_f16(half);
    return V::load_bf16(half);
}

template <class V, PackedDense::Type T, int MR>
inline void dense_block(const PackedDense& w, const float* x, std::size_t x_stride, int p,
                        float* out) {
    V sums[4][MR][2];
    for (auto& s : sums)
        for (auto& row : s) row[0] = row[1] = V::zero();
    const std::size_t base = static_cast<std::size_t>(p) * w.k * kPanel;
    for (int k = 0; k < w.k; k += 4) {  // K is a multiple of 16
        for (int j = 0; j < 4; ++j) {
            const V w0 = load_weights<V, T>(w.values, base + (k + j) * kPanel);
            const V w1 = load_weights<V, T>(w.values, base + (k + j) * kPanel + 16);
            for (int r = 0; r < MR; ++r) {
                const V xr = V::all(x[r * x_stride + k + j]);
                sums[j][r][0] = fma(w0, xr, sums[j][r][0]);
                sums[j][r][1] = fma(w1, xr, sums[j][r][1]);
            }
        }
    }
    for (int r = 0; r < MR; ++r)
        for (int t = 0; t < 2; ++t)
            ((sums[0][r][t] + sums[1][r][t]) + (sums[2][r][t] + sums[3][r][t]))
                .store(out + r * kPanel + 16 * t);
}

template <class V, PackedDense::Type T>
inline void dense_panels(const PackedDense& w, const float* x, std::size_t x_stride, int rows,
                         const Epilogue& e, int p0, int p1) {
    alignas(64) float values[3 * kPanel];
    for (int p = p0; p < p1; ++p) {
        for (int m = 0; m < rows;) {
            const int n = rows - m < 3 ? rows - m : 3;
            const float* xm = x + m * x_stride;
            if (n == 3)
                dense_block<V, T, 3>(w, xm, x_stride, p, values);
            else if (n == 2)
                dense_block<V, T, 2>(w, xm, x_stride, p, values);
            else
                dense_block<V, T, 1>(w, xm, x_stride, p, values);
            apply_epilogue<V>(e, p, m, n, values);
            m += n;
        }
    }
}

template <class V>
void linear_dense(const PackedDense& w, const float* x, std::size_t x_stride, int rows,
                  const Epilogue& e, int p0, int p1) {
    if (w.type == PackedDense::Type::kF32)
        dense_panels<V, PackedDense::Type::kF32>(w, x, x_stride, rows, e, p0, p1);
    else if (w.type == PackedDense::Type::kF16)
        dense_panels<V, PackedDense::Type::kF16>(w, x, x_stride, rows, e, p0, p1);
    else
        dense_panels<V, PackedDense::Type::kBF16>(w, x, x_stride, rows, e, p0, p1);
}

}  // namespace halfbyte
