// What linear layers read: transformed, then quantized where the weights are.
#include <algorithm>
#include <numeric>

#include "model/model.h"

namespace halfbyte {

// Groups [g0, g1) of one row. Wide groups run with 8-bit weights, and at least 8-bit activations,
// at every level.
void Model::quantize(const PackedPlanes& w, LevelSpec level, const float* x, int row, int g0,
                     int g1, const Activations& out) const {
    const int wide = std::clamp(w.first_wide(), g0, g1), act = level.act_bits;
    if (g0 < wide)
        kernels_.quantize(x, w.k, w.group, act, w.bits(level.weight_bits), row, g0, wide, out);
    if (wide < g1) kernels_.quantize(x, w.k, w.group, std::max(act, 8), 8, row, wide, g1, out);
}

// Inputs [begin, end) of a row, whole units; x and y at its beginning.
void Model::transform(const Transform& t, const float* x, int begin, int end, float* y) const {
    if (t.indices)
        for (int i = begin; i < end; ++i) y[i] = x[t.indices[i]];
    else
        kernels_.rotate(x, t.rotation, begin / t.unit(), end / t.unit(), y);
}

// The input of `down`. As it is, each thread quantizes the part `made` by itself. A transform needs
// whole rows, so it waits for all threads; then they share rows and parts of rows. That is one
// more barrier per layer, and nothing is computed twice.
Model::Input Model::hidden_input(const Linear& down, LevelSpec level, Slice made, int rows,
                                 const Hidden& hidden, int thread) {
    const int F = down.k(), T = pool_.size(), group = down.dense ? 1 : down.planes.group;
    Input in = hidden.input;
    in.stride = F;
    in.codes.planes = level.act_bits == 16 ? 2 : 1;
    if (!down.transform) {
        if (down.dense) in.dense = hidden.rows;
        for (int m = 0; m < rows && !down.dense; ++m)
            quantize(down.planes, level, hidden.rows + static_cast<std::size_t>(m) * F, m,
                     made.begin * 16 / group, made.end * 16 / group, in.codes);
        return in;
    }
    pool_.barrier();
    const int unit = std::lcm(down.transform.unit(), group), units = F / unit;
    const std::size_t parts = static_cast<std::size_t>(rows) * units;
    for (std::size_t i = parts * thread / T, end = parts * (thread + 1) / T; i < end;) {
        const std::size_t m = i / units;
        const int first = static_cast<int>(i % units);
        const int last = static_cast<int>(std::min<std::size_t>(units, first + (end - i)));
        float* to = down.dense ? in.dense + m * F : threads_[thread].row;
        transform(down.transform, hidden.rows + m * F, first * unit, last * unit, to);
        if (!down.dense)
            quantize(down.planes, level, to, static_cast<int>(m), first * unit / group,
                     last * unit / group, in.codes);
        i += last - first;
    }
    return in;
}

}  // namespace halfbyte
