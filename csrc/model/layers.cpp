// What every thread runs in a step: embedding, layers, head, sampling.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/model.h"

namespace halfbyte {

namespace {
// Up to this many floats of input, every thread prepares all rows for itself: that costs less than
// the barrier that sharing the work would need.
constexpr int kRedundantFloats = 4096;
}  // namespace

Model::Slice Model::slice(int panels, int unit, int thread) const {
    const int units = (panels + unit - 1) / unit, T = pool_.size();
    // Always the same rows of a matrix on the same thread: what fits its cache stays there.
    return {std::min(panels, units * thread / T * unit),
            std::min(panels, units * (thread + 1) / T * unit)};
}

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

void Model::linear(const Linear& w, int bits, const Input& in, int rows, const Epilogue& e, Slice s,
                   int thread) {
    if (s.begin >= s.end) return;
    if (w.dense)
        kernels_.linear_dense(w.matrix, in.dense, in.stride, rows, e, s.begin, s.end);
    else
        kernels_.linear(w.planes, w.planes.bits(bits), in.codes, rows, e, s.begin, s.end,
                        threads_[thread].panel);
}

void Model::embed_rows(int thread) {
    const int T = pool_.size(), stride = round_up(shape_.hidden, kPanel);
    for (int m = step_.rows * thread / T; m < step_.rows * (thread + 1) / T; ++m) {
        float* x = shape_.features ? embedded_ + static_cast<std::size_t>(m) * shape_.hidden
                                   : x_ + static_cast<std::size_t>(m) * stride;
        if (embed.dense)
            unpack_row(embed.matrix, step_.tokens[m], x);
        else
            unpack_row(embed.planes, step_.tokens[m], x);
    }
}

void Model::rotary_angles(int thread) {
    const int T = pool_.size(), half = shape_.head_dim / 2;
    for (int m = step_.rows * thread / T; m < step_.rows * (thread + 1) / T; ++m) {
        for (int i = 0; i < half; ++i) {
            const float angle = static_cast<float>(position_[m]) * shape_.inverse_frequencies[i];
            cos_[static_cast<std::size_t>(m) * half + i] =
                static_cast<float>(std::cos(static_cast<double>(angle)));
            sin_[static_cast<std::size_t>(m) * half + i] =
                static_cast<float>(std::sin(static_cast<double>(angle)));
        }
    }
}

void Model::run_layers(LevelSpec level, int thread) {
    embed_rows(thread);
    rotary_angles(thread);
    pool_.barrier();
    if (shape_.features) fuse_features(level, thread);
    for (int l = 0; l < shape_.layers; ++l) {
        keep_tap(l, thread);
        run_layer(l, level, thread);
    }
    keep_tap(shape_.layers, thread);
}

void Model::run_layer(int l, LevelSpec level, int thread) {
    const ModelShape& s = shape_;
    const int M = step_.rows, wb = level.weight_bits;
    const int x_stride = round_up(s.hidden, kPanel), attended = s.heads * s.head_dim;
    const auto normed = [&](const float* weight) {
        return [this, weight, x_stride](int m, float* to) {
            const float* x = x_ + static_cast<std::size_t>(m) * x_stride;
            if (!weight) return x;  // a draft head may go without
            kernels_.rmsnorm(x, weight, shape_.norm_eps, shape_.hidden, to);
            return static_cast<const float*>(to);
        };
    };
    const auto widened = [&](int m, float* to) {
        const int H = s.hidden;
        kernels_.rmsnorm(embedded_ + static_cast<std::size_t>(m) * H, embed_norm, s.norm_eps, H,
                         to);
        kernels_.rmsnorm(x_ + static_cast<std::size_t>(m) * x_stride, feature_norm, s.norm_eps, H,
                         to + H);
        return static_cast<const float*>(to);
    };
    const Layer& layer = layers[l];
    if (captured_) capture_normed(layer.attn_norm, layer.qkv.transform, captured_->qkv, thread);
    Input in = s.wide ? prepare(layer.qkv, M, level, thread, widened)
                      : prepare(layer.qkv, M, level, thread, normed(layer.attn_norm));
    linear(layer.qkv, wb, in, M,
           {Epilogue::Kind::kStore, layer.qkv_bias, qkv_, static_cast<std::size_t>(qkv_width_)},
           slice(layer.qkv.panels(), 1, thread), thread);
    pool_.barrier();
    write_kv(layer, l, thread);
    pool_.barrier();
    attention(l, thread);
    if (captured_) capture(attended_, attended, attended, layer.o.transform, captured_->o, thread);
    in = prepare(layer.o, M, level, thread, [&](int m, float*) {
        return static_cast<const float*>(attended_ + static_cast<std::size_t>(m) * attended);
    });
    linear(layer.o, wb, in, M,
           {Epilogue::Kind::kAdd, nullptr, x_, static_cast<std::size_t>(x_stride)},
           slice(layer.o.panels(), 1, thread), thread);
    pool_.barrier();
    if (captured_)
        capture_normed(layer.mlp_norm, layer.gate_up.transform, captured_->gate_up, thread);

    // Each thread quantizes the part of the hidden layer it made, so slices hold whole groups.
    const int F = s.intermediate, down_group = layer.down.dense ? kPanel : layer.down.planes.group;
    const Slice part = slice(layer.gate_up.panels(), down_group / 16, thread);
    in = prepare(layer.gate_up, M, level, thread, normed(layer.mlp_norm));
    linear(layer.gate_up, wb, in, M,
           {Epilogue::Kind::kSiluMul, nullptr, mlp_, static_cast<std::size_t>(F)}, part, thread);
    const Input hidden = hidden_input(layer.down, level, part, thread);
    pool_.barrier();
    if (captured_) capture(mlp_, F, F, layer.down.transform, captured_->down, thread);
    linear(layer.down, wb, hidden, M,
           {Epilogue::Kind::kAdd, nullptr, x_, static_cast<std::size_t>(x_stride)},
           slice(layer.down.panels(), 1, thread), thread);
    pool_.barrier();
}

// ---- draft heads (EAGLE, arXiv 2401.15077; EAGLE-3, arXiv 2503.01840) ---------------------------
//
//     EAGLE     x = fuse [norm(embedding); norm(feature)] + bias, then one layer; norms optional
//     EAGLE-3   x = fuse features of the target, or the hidden state the head itself made; then one
//               layer whose q, k and v read [norm(embedding); norm(x)]
//
// `feature` is the target's at the position before the token embedded, or what the head made of it.
void Model::fuse_features(LevelSpec level, int thread) {
    const ModelShape& s = shape_;
    const int M = step_.rows, H = s.hidden, W = step_.feature_width, T = pool_.size();
    const int x_stride = round_up(H, kPanel);
    const auto feature = [&](int m) { return step_.features + static_cast<std::size_t>(m) * W; };
    if (s.wide && W == H && s.features != H) {
        for (int m = M * thread / T; m < M * (thread + 1) / T; ++m)
            std::copy_n(feature(m), H, x_ + static_cast<std::size_t>(m) * x_stride);
        pool_.barrier();
        return;
    }
    const auto put = [&](const float* from, const float* norm, float* to) {
        if (norm)
            kernels_.rmsnorm(from, norm, s.norm_eps, H, to);
        else
            std::copy_n(from, H, to);
    };
    const Input in = prepare(fuse, M, level, thread, [&](int m, float* to) -> const float* {
        if (s.wide) return feature(m);
        put(embedded_ + static_cast<std::size_t>(m) * H, embed_norm, to);
        put(feature(m), feature_norm, to + H);
        return to;
    });
    linear(fuse, level.weight_bits, in, M,
           {Epilogue::Kind::kStore, fuse_bias, x_, static_cast<std::size_t>(x_stride)},
           slice(fuse.panels(), 1, thread), thread);
    pool_.barrier();
}

// Between two barriers no thread writes x_ at the start of a layer, nor after the last one.
void Model::keep_tap(int layer, int thread) {
    const ModelShape& s = shape_;
    const int H = s.hidden, M = step_.rows, T = pool_.size(), x_stride = round_up(H, kPanel);
    for (std::size_t t = 0; t < taps_.size(); ++t) {
        if (taps_[t] != layer) continue;
        for (int m = M * thread / T; m < M * (thread + 1) / T; ++m) {
            const int page =
                step_.pages[static_cast<std::size_t>(sequence_[m]) * step_.page_columns +
                            slot_[m] / page_size_];
            float* to = const_cast<float*>(kept(page, slot_[m] % page_size_)) + t * H;
            const float* x = x_ + static_cast<std::size_t>(m) * x_stride;
            if (layer == s.layers)
                kernels_.rmsnorm(x, final_norm, s.norm_eps, H, to);
            else
                std::copy_n(x, H, to);
        }
    }
}

void Model::run_head(LevelSpec level, int thread) {
    const int R = step_.num_logit_rows, x_stride = round_up(shape_.hidden, kPanel);
    if (R == 0) return;
    const Linear& scores = step_.reduced ? step_.reduced->head : head;
    const int vocab = step_vocabulary().size;
    const Input in =
        prepare(scores, R, {level.head_bits, level.act_bits, 0}, thread, [&](int r, float* to) {
            const float* x = x_ + static_cast<std::size_t>(step_.logit_rows[r]) * x_stride;
            if (!final_norm) return x;
            kernels_.rmsnorm(x, final_norm, shape_.norm_eps, shape_.hidden, to);
            return static_cast<const float*>(to);
        });
    const Slice part = slice(scores.panels(), kLogitChunk / kPanel, thread);
    linear(
        scores, level.head_bits, in, R,
        {Epilogue::Kind::kStore, nullptr, logits_.data(), static_cast<std::size_t>(logit_stride_)},
        part, thread);
    const int chunks = (vocab + kLogitChunk - 1) / kLogitChunk;
    for (int r = 0; r < R; ++r) {
        for (int c = part.begin * kPanel / kLogitChunk;
             c < chunks && c * kLogitChunk < part.end * kPanel; ++c) {
            const int from = c * kLogitChunk, count = std::min(kLogitChunk, vocab - from);
            ChunkStats& stats = chunk_stats_[static_cast<std::size_t>(r) * chunks + c];
            kernels_.softmax_stats(logits(r) + from, count, &stats.argmax, &stats.max, &stats.sum);
            stats.argmax += from;
        }
    }
    pool_.barrier();
}

void Model::sample_rows(const std::vector<Sampling>& sampling, std::vector<Drawn>& out,
                        int thread) {
    const Vocabulary vocab = step_vocabulary();
    const int chunks = (vocab.size + kLogitChunk - 1) / kLogitChunk;
    for (int r = thread; r < step_.num_logit_rows; r += pool_.size()) {
        const ChunkStats* stats = chunk_stats_.data() + static_cast<std::size_t>(r) * chunks;
        out[r] = draw_token(logits(r), vocab, {stats, static_cast<std::size_t>(chunks)},
                            sampling[r], threads_[thread].sampling);
    }
}

}  // namespace halfbyte
