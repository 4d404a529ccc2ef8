// What every thread runs in a step: embedding, layers, head, sampling.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/inputs-inl.h"
#include "model/model.h"

namespace halfbyte {

Model::Slice Model::slice(int panels, int unit, int thread) const {
    const int units = (panels + unit - 1) / unit, T = pool_.size();
    // Always the same rows of a matrix on the same thread: what fits its cache stays there.
    return {std::min(panels, units * thread / T * unit),
            std::min(panels, units * (thread + 1) / T * unit)};
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
        if (shape_.embedding_multiplier != 1.0f)
            for (int i = 0; i < shape_.hidden; ++i) x[i] *= shape_.embedding_multiplier;
    }
}

void Model::rotary_angles(int thread) {
    const int T = pool_.size();
    for (std::size_t r = 0; r < shape_.rotaries.size(); ++r) {
        const Rotary& rotary = shape_.rotaries[r];
        const int pairs = rotary.pairs();
        for (int m = step_.rows * thread / T; m < step_.rows * (thread + 1) / T; ++m) {
            float *cos = cos_[r] + static_cast<std::size_t>(m) * pairs,
                  *sin = sin_[r] + static_cast<std::size_t>(m) * pairs;
            for (int i = 0; i < pairs; ++i) {
                const float angle =
                    static_cast<float>(position_[m]) * rotary.inverse_frequencies[i];
                cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * rotary.factor;
                sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * rotary.factor;
            }
        }
    }
}

void Model::run_layers(LevelSpec level, int thread) {
    embed_rows(thread);
    rotary_angles(thread);
    pool_.barrier();
    if (shape_.features) fuse_features(level, thread);
    for (int l = 0; l < shape_.layers(); ++l) {
        keep_tap(l, thread);
        run_layer(l, level, thread);
    }
    keep_tap(shape_.layers(), thread);
}

void Model::run_layer(int l, LevelSpec level, int thread) {
    run_mixer(l, level, thread);
    run_feed_forward(l, level, thread);
}

void Model::run_mixer(int l, LevelSpec level, int thread) {
    const ModelShape& s = shape_;
    const LayerShape& kind = s.layer(l);
    const Layer& layer = layers[l];
    const int M = step_.rows, attended = kind.attention.width();
    const auto widened = [&](int m, float* to) -> const float* {
        const int H = s.hidden, x_stride = round_up(H, kPanel);
        kernels_.rmsnorm(embedded_ + static_cast<std::size_t>(m) * H, embed_norm, s.norm_eps, H,
                         to);
        kernels_.rmsnorm(x_ + static_cast<std::size_t>(m) * x_stride, feature_norm, s.norm_eps, H,
                         to + H);
        return to;
    };
    if (captured_) capture_normed(layer.attn_norm, layer.qkv.transform, captured_->qkv, thread);
    Input in = s.wide ? prepare(layer.qkv, M, level, thread, widened)
                      : prepare(layer.qkv, M, level, thread, normed(layer.attn_norm));
    linear(layer.qkv, level.weight_bits, in, M,
           {Epilogue::Kind::kStore, layer.qkv_bias, qkv_, static_cast<std::size_t>(qkv_width_)},
           slice(layer.qkv.panels(), 1, thread), thread);
    pool_.barrier();
    write_kv(layer, l, thread);
    pool_.barrier();
    attention(l, thread);
    if (captured_) capture(attended_, attended, attended, layer.o.transform, captured_->o, thread);
    in = prepare(layer.o, M, level, thread, [&](int m, float*) -> const float* {
        return attended_ + static_cast<std::size_t>(m) * attended;
    });
    add_branch(layer.o, level, in, {layer.o_bias, layer.attn_norm_after, kind.residual_multiplier},
               thread);
}

void Model::run_feed_forward(int l, LevelSpec level, int thread) {
    const LayerShape& kind = shape_.layer(l);
    if (kind.experts.count) return run_experts(l, level, thread);
    const Layer& layer = layers[l];
    const FeedForward& inner = layer.inner;
    const int M = step_.rows, F = kind.inner.size;
    if (captured_)
        capture_normed(layer.mlp_norm, inner.gate_up.transform, captured_->gate_up, thread);
    const Slice made = hidden_slice(inner, F, thread);
    const Input in = prepare(inner.gate_up, M, level, thread, normed(layer.mlp_norm));
    make_hidden(inner, kind.inner, level, in, M, made, hidden_.rows, thread);
    const Input hidden = hidden_input(inner.down, level, made, M, hidden_, thread);
    pool_.barrier();
    if (captured_) capture(hidden_.rows, F, F, inner.down.transform, captured_->down, thread);
    add_branch(inner.down, level, hidden,
               {inner.down_bias, layer.mlp_norm_after, kind.residual_multiplier}, thread);
}

// The panels of gate and up that a thread makes. It quantizes what it made, so they are whole
// groups of the input of `down`.
Model::Slice Model::hidden_slice(const FeedForward& inner, int size, int thread) const {
    const int group = inner.down.dense ? kPanel : inner.down.planes.group;
    return slice(size / 16, group / 16, thread);
}

void Model::make_hidden(const FeedForward& inner, const FeedForwardShape& s, LevelSpec level,
                        const Input& in, int rows, Slice made, float* out, int thread) {
    linear(inner.gate_up, level.weight_bits, in, rows,
           {.kind = Epilogue::Kind::kGated,
            .bias = inner.gate_up_bias,
            .out = out,
            .stride = static_cast<std::size_t>(s.size),
            .activation = s.activation,
            .limit = s.limit},
           made, thread);
}

// Adds the product of `w` to the residual stream, and waits until all of it is there.
void Model::add_branch(const Linear& w, LevelSpec level, const Input& in, const Branch& branch,
                       int thread) {
    linear(w, level.weight_bits, in, step_.rows,
           {.kind = branch.norm ? Epilogue::Kind::kStore : Epilogue::Kind::kAdd,
            .bias = branch.bias,
            .out = branch.norm ? branch_ : x_,
            .stride = static_cast<std::size_t>(round_up(shape_.hidden, kPanel)),
            .factor = branch.multiplier},
           slice(w.panels(), 1, thread), thread);
    pool_.barrier();
    if (branch.norm) add_normed(branch, thread);
}

// Adds the norm of branch_, which needs whole rows: the threads share them.
void Model::add_normed(const Branch& branch, int thread) {
    const int M = step_.rows, H = shape_.hidden, x_stride = round_up(H, kPanel), T = pool_.size();
    for (int m = M * thread / T; m < M * (thread + 1) / T; ++m) {
        float *from = branch_ + static_cast<std::size_t>(m) * x_stride,
              *x = x_ + static_cast<std::size_t>(m) * x_stride;
        kernels_.rmsnorm(from, branch.norm, shape_.norm_eps, H, from);
        for (int i = 0; i < H; ++i) x[i] += branch.multiplier * from[i];
    }
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
            if (layer == s.layers())
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
    scale_scores(part, R, vocab);
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

// The multiplier and the cap of logits, over the panels a thread has made.
void Model::scale_scores(Slice part, int rows, int vocab) {
    const float factor = shape_.logit_multiplier, cap = shape_.logit_softcap;
    const int begin = part.begin * kPanel, end = std::min(part.end * kPanel, vocab);
    if ((factor == 1.0f && cap == 0.0f) || begin >= end) return;
    for (int r = 0; r < rows; ++r)
        kernels_.scale_logits(logits_.data() + static_cast<std::size_t>(r) * logit_stride_ + begin,
                              end - begin, factor, cap);
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
