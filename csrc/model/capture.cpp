// One layer alone, over given rows of the residual stream: what calibration runs.
#include <algorithm>

#include "model/model.h"

namespace halfbyte {

void Model::capture_layer(const Step& step, LevelSpec level, int l, const float* x,
                          const LayerRows& out) {
    begin_step(step);
    captured_ = &out;
    const int hidden = shape_.hidden;
    const std::size_t stride = round_up(hidden, kPanel);
    pool_.run([&](int thread) {
        const int T = pool_.size();
        for (int m = step_.rows * thread / T; m < step_.rows * (thread + 1) / T; ++m)
            std::copy_n(x + static_cast<std::size_t>(m) * hidden, hidden, x_ + m * stride);
        rotary_angles(thread);
        pool_.barrier();
        run_layer(l, level, thread);
        capture(x_, stride, hidden, {}, out.out, thread);
    });
    captured_ = nullptr;
}

// Each thread copies its share of the rows, as the product sees them.
void Model::capture(const float* from, std::size_t stride, int width, const Transform& t, float* to,
                    int thread) const {
    const int T = pool_.size();
    for (int m = step_.rows * thread / T; m < step_.rows * (thread + 1) / T; ++m) {
        float* row = to + static_cast<std::size_t>(m) * width;
        if (t)
            transform(t, from + m * stride, 0, width, row);
        else
            std::copy_n(from + m * stride, width, row);
    }
}

void Model::capture_normed(const float* norm, const Transform& t, float* to, int thread) const {
    const int T = pool_.size(), hidden = shape_.hidden;
    const std::size_t stride = round_up(hidden, kPanel);
    float* untransformed = threads_[thread].untransformed;
    for (int m = step_.rows * thread / T; m < step_.rows * (thread + 1) / T; ++m) {
        float* row = to + static_cast<std::size_t>(m) * hidden;
        float* to = t ? untransformed : row;
        if (norm)
            kernels_.rmsnorm(x_ + m * stride, norm, shape_.norm_eps, hidden, to);
        else
            std::copy_n(x_ + m * stride, hidden, to);
        if (t) transform(t, untransformed, 0, hidden, row);
    }
}

}  // namespace halfbyte
