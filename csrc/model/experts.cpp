// A mixture of experts, over all rows of a step at once.
//
//     scores     of every row; threads share the experts
//     choice     of each row; threads share the rows
//     gate, up   expert by expert, the rows that chose it in one product; then the shared expert
//     down       likewise
//
// An expert that no row chose is not read, any other once. In `gate`, `up` and `down` a thread
// makes the same outputs of every expert, so that an output of a row is added up by one thread,
// experts ascending, whatever else is in the step.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/inputs-inl.h"
#include "model/model.h"

namespace halfbyte {

void Model::run_experts(int l, LevelSpec level, int thread) {
    const LayerShape& kind = shape_.layer(l);
    const ExpertsShape& s = kind.experts;
    const Layer& layer = layers[l];
    const int M = step_.rows, F = kind.inner.size, Fs = s.shared.size;
    route_rows(l, thread);
    ExpertGroups& groups = threads_[thread].groups;
    groups.assign(chosen_, shares_, M, s.top_k, s.count);

    const Linear& gate_up = layer.inner.gate_up;
    if (captured_) capture_normed(layer.mlp_norm, gate_up.transform, captured_->gate_up, thread);
    Input in = prepare(gate_up, M, level, thread, normed(layer.mlp_norm));
    const int panels = gate_up.panels() / s.count;
    const Slice made = hidden_slice(layer.inner, F, thread);
    for (int g = 0; g < groups.size(); ++g) {
        const int begin = groups.begins[g], rows = groups.rows_of(g),
                  first = groups.experts[g] * panels;
        FeedForward one;
        one.gate_up = gate_up.part(first, panels);
        if (layer.inner.gate_up_bias) one.gate_up_bias = layer.inner.gate_up_bias + first * kPanel;
        make_hidden(one, kind.inner, level,
                    rows_input(gate_up, in, groups.rows.data() + begin, rows, thread), rows, made,
                    hidden_.rows + static_cast<std::size_t>(begin) * F, thread);
    }
    const Input hidden = hidden_input(layer.inner.down, level, made, M * s.top_k, hidden_, thread);
    Input shared;
    if (Fs) {
        pool_.barrier();  // the experts' input makes room
        in = prepare(layer.shared.gate_up, M, level, thread, normed(layer.mlp_norm));
        const Slice part = hidden_slice(layer.shared, Fs, thread);
        make_hidden(layer.shared, s.shared, level, in, M, part, shared_hidden_.rows, thread);
        shared = hidden_input(layer.shared.down, level, part, M, shared_hidden_, thread);
    }
    pool_.barrier();
    mix_experts(l, level, hidden, shared, thread);
}

// The experts of every row and their shares, in float32 at every level.
void Model::route_rows(int l, int thread) {
    const Layer& layer = layers[l];
    const ExpertsShape& s = shape_.layer(l).experts;
    const int M = step_.rows, T = pool_.size();
    const Input in = prepare(layer.router, M, {32, 32, 32}, thread, normed(layer.mlp_norm));
    linear(layer.router, 32, in, M,
           {Epilogue::Kind::kStore, layer.router_bias, scores_,
            static_cast<std::size_t>(score_stride_)},
           slice(layer.router.panels(), 1, thread), thread);
    pool_.barrier();
    for (int m = M * thread / T; m < M * (thread + 1) / T; ++m) {
        float* scores = scores_ + static_cast<std::size_t>(m) * score_stride_;
        if (s.shared_gate) gates_[m] = 1.0f / (1.0f + std::exp(-scores[s.count]));
        const std::size_t first = static_cast<std::size_t>(m) * s.top_k;
        route(s, scores, layer.choice_bias, chosen_ + first, shares_ + first);
    }
    pool_.barrier();
}

// The sum over experts of share * down, then what it does to the residual stream.
void Model::mix_experts(int l, LevelSpec level, const Input& hidden, const Input& shared,
                        int thread) {
    const LayerShape& kind = shape_.layer(l);
    const ExpertsShape& s = kind.experts;
    const Layer& layer = layers[l];
    const ExpertGroups& groups = threads_[thread].groups;
    const int M = step_.rows, x_stride = round_up(shape_.hidden, kPanel);
    const Linear& down = layer.inner.down;
    const int panels = down.panels() / s.count, bits = level.weight_bits;
    const Slice part = slice(panels, 1, thread);
    const int begin = part.begin * kPanel, end = part.end * kPanel;
    for (int m = 0; m < M; ++m) {
        float* row = branch_ + static_cast<std::size_t>(m) * x_stride;
        std::fill(row + begin, row + end, 0.0f);
    }
    Epilogue mix{
        .kind = Epilogue::Kind::kMix, .out = branch_, .stride = static_cast<std::size_t>(x_stride)};
    for (int g = 0; g < groups.size(); ++g) {
        const int first = groups.experts[g] * panels, at = groups.begins[g];
        mix.bias = layer.inner.down_bias ? layer.inner.down_bias + first * kPanel : nullptr;
        mix.rows = groups.rows.data() + at;
        mix.shares = groups.shares.data() + at;
        linear(down.part(first, panels), bits, row_input(down, hidden, at), groups.rows_of(g), mix,
               part, thread);
    }
    if (s.shared.size) {
        mix.bias = layer.shared.down_bias;
        mix.rows = nullptr;
        mix.shares = s.shared_gate ? gates_ : nullptr;
        linear(layer.shared.down, bits, shared, M, mix, part, thread);
    }
    if (layer.mlp_norm_after) {
        pool_.barrier();
        add_normed({nullptr, layer.mlp_norm_after, kind.residual_multiplier}, thread);
        return;
    }
    for (int m = 0; m < M; ++m) {
        const std::size_t row = static_cast<std::size_t>(m) * x_stride;
        for (int i = begin; i < end; ++i)
            x_[row + i] += kind.residual_multiplier * branch_[row + i];
    }
    pool_.barrier();
}

// `in` from row `row` on.
Model::Input Model::row_input(const Linear& w, const Input& in, int row) const {
    Input from = in;
    const std::size_t r = row;
    if (w.dense) {
        from.dense += r * in.stride;
        return from;
    }
    const std::size_t groups = w.k() / w.planes.group;
    from.codes.codes += r * in.codes.planes * w.k();
    from.codes.scale += r * groups;
    from.codes.sum += r * groups;
    from.codes.bias += r * groups;
    return from;
}

// Some rows of `in`, ascending, next to each other: where they stand, or copied.
Model::Input Model::rows_input(const Linear& w, const Input& in, const std::int32_t* rows,
                               int count, int thread) {
    if (rows[count - 1] - rows[0] == count - 1) return row_input(w, in, rows[0]);
    Input to = threads_[thread].gathered;
    to.stride = in.stride;
    to.codes.planes = in.codes.planes;
    for (int i = 0; i < count; ++i) {
        const Input from = row_input(w, in, rows[i]), own = row_input(w, to, i);
        if (w.dense) {
            std::copy_n(from.dense, in.stride, own.dense);
            continue;
        }
        const int groups = w.k() / w.planes.group;
        std::copy_n(from.codes.codes, in.codes.planes * w.k(), own.codes.codes);
        std::copy_n(from.codes.scale, groups, own.codes.scale);
        std::copy_n(from.codes.sum, groups, own.codes.sum);
        std::copy_n(from.codes.bias, groups, own.codes.bias);
    }
    return to;
}

}  // namespace halfbyte
