// The inputs of linear layers, row by row.
#pragma once
#include <algorithm>

#include "model/model.h"

namespace halfbyte {

// Up to this many floats of input, every thread prepares all rows for itself: that costs less than
// the barrier that sharing the work would need.
inline constexpr int kRedundantFloats = 4096;

// Makes the input of `linear` from rows given by row(m, thread's row buffer) -> pointer to K
// floats.
template <typename Row>
Model::Input Model::prepare(const Linear& linear, int rows, LevelSpec level, int thread,
                            Row&& row) {
    const int k = linear.k();
    const bool redundant = rows <= kRedundantRows && rows * k <= kRedundantFloats;
    Input in = redundant ? threads_[thread].input : shared_;
    in.stride = k;
    in.codes.planes = level.act_bits == 16 ? 2 : 1;
    const int T = pool_.size();
    const int begin = redundant ? 0 : rows * thread / T,
              end = redundant ? rows : rows * (thread + 1) / T;
    for (int m = begin; m < end; ++m) {
        float* to =
            linear.dense ? in.dense + static_cast<std::size_t>(m) * k : threads_[thread].row;
        const float* values = row(m, linear.transform ? threads_[thread].untransformed : to);
        if (linear.transform) {
            transform(linear.transform, values, 0, k, to);
            values = to;
        }
        if (!linear.dense)
            quantize(linear.planes, level, values, m, 0, k / linear.planes.group, in.codes);
        else if (values != to)
            std::copy_n(values, k, to);
    }
    if (!redundant) pool_.barrier();
    return in;
}

// Rows of the residual stream, normalised unless `weight` is null, for `prepare`.
inline auto Model::normed(const float* weight) const {
    return [this, weight](int m, float* to) -> const float* {
        const float* x = x_ + static_cast<std::size_t>(m) * round_up(shape_.hidden, kPanel);
        if (!weight) return x;
        kernels_.rmsnorm(x, weight, shape_.norm_eps, shape_.hidden, to);
        return to;
    };
}

}  // namespace halfbyte
