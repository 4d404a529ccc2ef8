#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace halfbyte {

namespace {
constexpr int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

// Steps of at most this many floats of input let every thread prepare all rows for itself: that
// costs less than the barrier that sharing the work would need (0.5 us; a row of 576 takes 0.2 us
// to quantize).
constexpr int kRedundantFloats = 4096;
constexpr int kRedundantRows = 8;

// One position of a K block [D][S].
template <typename T>
void store_column(char* block, const char* values, int head_dim, int page_size, int slot) {
    T* to = reinterpret_cast<T*>(block) + slot;
    for (int d = 0; d < head_dim; ++d, to += page_size)
        std::memcpy(to, values + d * sizeof(T), sizeof(T));
}
}  // namespace

std::size_t Linear::bytes(int bits) const {
    return dense ? halfbyte::bytes_read(matrix) : halfbyte::bytes_read(planes, bits);
}

Model::Model(ModelShape shape, const Kernels& kernels, int threads, int max_rows)
    : shape_(std::move(shape)), kernels_(kernels), pool_(threads), max_rows_(max_rows) {
    const ModelShape& s = shape_;
    qkv_width_ = round_up((s.heads + 2 * s.kv_heads) * s.head_dim, kPanel);
    widest_input_ = std::max({s.hidden, s.intermediate, s.heads * s.head_dim});
    logit_stride_ = round_up(s.vocab, kPanel);
    const std::size_t rows = max_rows;
    x_ = buffers_.array<float>(rows * round_up(s.hidden, kPanel));
    qkv_ = buffers_.array<float>(rows * qkv_width_);
    attended_ = buffers_.array<float>(rows * s.heads * s.head_dim);
    mlp_ = buffers_.array<float>(rows * round_up(s.intermediate, kPanel));
    cos_ = buffers_.array<float>(rows * (s.head_dim / 2));
    sin_ = buffers_.array<float>(rows * (s.head_dim / 2));
    shared_ = make_input(max_rows);
    shared_mlp_ = make_input(max_rows);
    threads_.resize(threads);
    const int queries = kRowBlock * (s.heads / s.kv_heads);
    for (PerThread& t : threads_) {
        t.input = make_input(kRedundantRows);
        t.row = buffers_.array<float>(widest_input_);
        t.panel = buffers_.array<std::uint8_t>(static_cast<std::size_t>(widest_input_) * kPanel);
        t.scores = buffers_.array<float>(static_cast<std::size_t>(queries) * kAttentionChunk);
        t.states =
            buffers_.array<float>(static_cast<std::size_t>(2 * queries) * state_floats(s.head_dim));
    }
}

Model::Input Model::make_input(int rows) {
    Input in;
    const std::size_t n = static_cast<std::size_t>(rows) * widest_input_;
    const std::size_t groups = static_cast<std::size_t>(rows) * (widest_input_ / 32 + 1);
    in.codes.codes = buffers_.array<std::int8_t>(2 * n);
    in.codes.scale = buffers_.array<float>(groups);
    in.codes.sum = buffers_.array<float>(groups);
    in.codes.bias = buffers_.array<std::int32_t>(groups);
    in.dense = buffers_.array<float>(n);
    return in;
}

void Model::allocate_kv(int pages, int page_size, KvType type) {
    pages_ = pages;
    page_size_ = page_size;
    kv_type_ = type;
    kv_base_ = kv_.array<char>(static_cast<std::size_t>(shape_.layers) * pages * page_elements() *
                               kv_bytes(type));
}

std::size_t Model::page_elements() const {
    return static_cast<std::size_t>(2 * shape_.kv_heads) * shape_.head_dim * page_size_;
}

const void* Model::page(int layer, int page) const {
    return kv_base_ +
           (static_cast<std::size_t>(layer) * pages_ + page) * page_elements() * kv_bytes(kv_type_);
}

KvView Model::kv_view(int layer) const {
    return {page(layer, 0), page_elements(), page_size_, kv_type_};
}

std::size_t Model::bytes_read(LevelSpec level) const {
    std::size_t total = head.bytes(level.head_bits);
    for (const Layer& l : layers)
        for (const Linear* w : {&l.qkv, &l.o, &l.gate_up, &l.down})
            total += w->bytes(level.weight_bits);
    return total;
}

// ---- one step
// -------------------------------------------------------------------------------------

void Model::reserve(const Step& step) {
    const std::size_t rows = std::max(step.num_logit_rows, 1);
    const int chunks = (shape_.vocab + kLogitChunk - 1) / kLogitChunk;
    if (logits_.size() < rows * logit_stride_) logits_.resize(rows * logit_stride_);
    if (chunk_stats_.size() < rows * chunks) chunk_stats_.resize(rows * chunks);
}

void Model::begin_step(const Step& step) {
    step_ = step;
    position_.resize(step.rows);
    sequence_.resize(step.rows);
    for (int b = 0; b < step.sequences; ++b) {
        for (int m = step.row_starts[b]; m < step.row_starts[b + 1]; ++m) {
            sequence_[m] = b;
            position_[m] = step.first[b] + m - step.row_starts[b];
        }
    }
    plan_attention(step.sequences, step.row_starts, step.first, shape_.kv_heads, shape_.heads,
                   shape_.sliding_window, pool_.size(), plan_);
    const std::size_t floats =
        static_cast<std::size_t>(plan_.states) * state_floats(shape_.head_dim);
    if (partial_states_.size() < floats) partial_states_.resize(floats);
}

void Model::forward(const Step& step, LevelSpec level) {
    reserve(step);
    begin_step(step);
    pool_.run([&](int thread) {
        run_layers(level, thread);
        run_head(level, thread);
    });
}

std::vector<Choice> Model::forward_sample(const Step& step, LevelSpec level,
                                          const std::vector<SamplingRow>& sampling) {
    reserve(step);
    begin_step(step);
    std::vector<Choice> out(step.num_logit_rows);
    pool_.run([&](int thread) {
        run_layers(level, thread);
        run_head(level, thread);
        sample_rows(sampling, out, thread);
    });
    return out;
}

Draft Model::draft(const Step& step, LevelSpec level, const std::vector<std::int32_t>& lengths,
                   std::vector<SamplingRow> sampling, float min_confidence) {
    const int B = step.sequences;
    const int most = *std::max_element(lengths.begin(), lengths.end());
    Draft result;
    result.tokens.assign(static_cast<std::size_t>(B) * most, 0);
    result.counts.assign(B, 0);

    // The sequences still drafting, compacted: which one, its rows and its pages.
    std::vector<std::int32_t> active, tokens, starts, first, pages, rows;
    std::vector<SamplingRow> how;
    std::vector<Choice> drawn(B);
    const auto compact = [&](auto&& keep) {
        std::size_t n = 0;
        for (std::size_t i = 0; i < active.size(); ++i) {
            if (!keep(i)) continue;
            active[n] = active[i];
            tokens[n] = tokens[i];
            first[n] = first[i];
            how[n] = how[i];
            ++n;
        }
        active.resize(n);
        tokens.resize(n);
        first.resize(n);
        how.resize(n);
    };
    const auto next = [&] {
        const int n = static_cast<int>(active.size());
        starts.resize(n + 1);
        rows.resize(n);
        pages.resize(static_cast<std::size_t>(n) * step.page_columns);
        for (int i = 0; i <= n; ++i) starts[i] = i;
        for (int i = 0; i < n; ++i) {
            rows[i] = i;
            std::copy_n(step.pages + static_cast<std::size_t>(active[i]) * step.page_columns,
                        step.page_columns,
                        pages.begin() + static_cast<std::size_t>(i) * step.page_columns);
        }
        begin_step({n, n, tokens.data(), starts.data(), first.data(), pages.data(),
                    step.page_columns, rows.data(), n});
    };
    for (int b = 0; b < B; ++b) {
        active.push_back(b);
        tokens.push_back(step.tokens[b]);
        first.push_back(step.first[b]);
        how.push_back(sampling[b]);
    }
    compact([&](std::size_t i) { return lengths[active[i]] > 0; });
    if (active.empty()) return result;
    reserve({.num_logit_rows = static_cast<int>(active.size())});
    next();
    pool_.run([&](int thread) {
        while (true) {
            run_layers(level, thread);
            run_head(level, thread);
            sample_rows(how, drawn, thread);
            pool_.barrier();
            if (thread == 0) {
                compact([&](std::size_t i) {
                    const int b = active[i];
                    const bool sure = std::exp(drawn[i].logprob) >= min_confidence;
                    if (!sure) return false;
                    result.tokens[static_cast<std::size_t>(b) * most + result.counts[b]] =
                        drawn[i].token;
                    ++result.counts[b];
                    tokens[i] = drawn[i].token;
                    ++first[i];
                    ++how[i].position;
                    return result.counts[b] < lengths[b];
                });
                if (!active.empty()) next();
            }
            pool_.barrier();
            if (active.empty()) return;
        }
    });
    return result;
}

// ---- pieces every thread runs -------------------------------------------------------------------

Model::Slice Model::slice(int panels, int unit, int thread) const {
    const int units = (panels + unit - 1) / unit, T = pool_.size();
    // Always the same rows of a matrix on the same thread: what fits its cache stays there.
    return {std::min(panels, units * thread / T * unit),
            std::min(panels, units * (thread + 1) / T * unit)};
}

// Makes the input of `linear` from rows given by row(m, thread's row buffer) -> pointer to K
// floats.
template <typename Row>
Model::Input Model::prepare(const Linear& linear, int rows, int act_bits, int weight_bits,
                            int thread, Row&& row) {
    const int k = linear.k();
    const bool redundant = rows <= kRedundantRows && rows * k <= kRedundantFloats;
    Input in = redundant ? threads_[thread].input : shared_;
    in.stride = k;
    in.codes.planes = act_bits == 16 ? 2 : 1;
    const int T = pool_.size();
    const int begin = redundant ? 0 : rows * thread / T,
              end = redundant ? rows : rows * (thread + 1) / T;
    for (int m = begin; m < end; ++m) {
        float* to =
            linear.dense ? in.dense + static_cast<std::size_t>(m) * k : threads_[thread].row;
        const float* values = row(m, to);
        if (linear.dense) {
            if (values != to) std::copy_n(values, k, to);
        } else {
            const int bits = linear.planes.lo ? weight_bits : 4;
            kernels_.quantize(values, k, linear.planes.group, act_bits, bits, m, 0,
                              k / linear.planes.group, in.codes);
        }
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
        kernels_.linear(w.planes, w.planes.lo ? bits : 4, in.codes, rows, e, s.begin, s.end,
                        threads_[thread].panel);
}

void Model::embed_rows(int thread) {
    const int T = pool_.size(), H = shape_.hidden, half = shape_.head_dim / 2;
    const int stride = round_up(H, kPanel);
    for (int m = step_.rows * thread / T; m < step_.rows * (thread + 1) / T; ++m) {
        float* x = x_ + static_cast<std::size_t>(m) * stride;
        if (embed.dense)
            unpack_row(embed.matrix, step_.tokens[m], x);
        else
            unpack_row(embed.planes, step_.tokens[m], x);
        for (int i = 0; i < half; ++i) {
            const float angle = static_cast<float>(position_[m]) * shape_.inverse_frequencies[i];
            cos_[static_cast<std::size_t>(m) * half + i] =
                static_cast<float>(std::cos(static_cast<double>(angle)));
            sin_[static_cast<std::size_t>(m) * half + i] =
                static_cast<float>(std::sin(static_cast<double>(angle)));
        }
    }
}

// Norms (Qwen3), rotates and stores: q in place, k and v into their page.
void Model::write_kv(const Layer& layer, int index, int thread) {
    const ModelShape& s = shape_;
    const int D = s.head_dim, half = D / 2, S = page_size_;
    const int heads = s.heads + s.kv_heads;  // v travels with its k
    const float query_factor = 1.0f / std::sqrt(static_cast<float>(D));
    const std::size_t width = kv_bytes(kv_type_);
    alignas(64) char narrow[256 * 4];
    const int items = step_.rows * heads;
    for (int i = items * thread / pool_.size(); i < items * (thread + 1) / pool_.size(); ++i) {
        const int m = i / heads, h = i % heads;
        float* x = qkv_ + static_cast<std::size_t>(m) * qkv_width_ + h * D;
        const float* c = cos_ + static_cast<std::size_t>(m) * half;
        const float* sn = sin_ + static_cast<std::size_t>(m) * half;
        const bool query = h < s.heads;
        const float* norm = query ? layer.q_norm : layer.k_norm;
        if (norm) kernels_.rmsnorm(x, norm, s.norm_eps, D, x);
        kernels_.rope(x, c, sn, D, query ? query_factor : 1.0f);
        if (query) continue;
        const int kv_head = h - s.heads, position = position_[m], slot = position % S;
        const int page_id =
            step_.pages[static_cast<std::size_t>(sequence_[m]) * step_.page_columns + position / S];
        char* k =
            kv_base_ + ((static_cast<std::size_t>(index) * pages_ + page_id) * page_elements() +
                        static_cast<std::size_t>(2 * kv_head) * D * S) *
                           width;
        kernels_.narrow(x, D, kv_type_, narrow);
        if (width == 2)
            store_column<std::uint16_t>(k, narrow, D, S, slot);
        else
            store_column<float>(k, narrow, D, S, slot);
        kernels_.narrow(x + s.kv_heads * D, D, kv_type_,
                        k + static_cast<std::size_t>(D) * (S + slot) * width);
    }
}

void Model::attention(int layer, int thread) {
    const ModelShape& s = shape_;
    const int D = s.head_dim, group = s.heads / s.kv_heads, floats = state_floats(D);
    PerThread& mine = threads_[thread];
    const float* queries[kRowBlock * 64];
    float* states[kRowBlock * 64];
    float* folded[kRowBlock * 64];
    int first[kRowBlock * 64], last[kRowBlock * 64];
    AttentionArgs a{
        .kv = kv_view(layer), .head_dim = D, .q = queries, .first = first, .last = last};
    const int items = static_cast<int>(plan_.items.size()), T = pool_.size();
    // Split pieces lie in context order: contiguous shares keep a thread on the same pages every
    // layer and step. Whole rows are dealt out in turn, since later rows see more context and cost
    // more.
    const int begin = plan_.split ? items * thread / T : thread;
    const int end = plan_.split ? items * (thread + 1) / T : items;
    for (int i = begin; i < end; i += plan_.split ? 1 : T) {
        const AttentionItem& item = plan_.items[i];
        a.pages = step_.pages + static_cast<std::size_t>(item.sequence) * step_.page_columns;
        a.kv_head = item.kv_head;
        a.queries = (item.row_end - item.row_begin) * group;
        for (int q = 0; q < a.queries; ++q) {
            const int m = item.row_begin + q / group, h = item.kv_head * group + q % group;
            queries[q] = qkv_ + static_cast<std::size_t>(m) * qkv_width_ + h * D;
            last[q] = position_[m];
            first[q] = window_begin(position_[m], s.sliding_window);
            if (plan_.split) {
                const int state = plan_.row_state[m] + h * plan_.row_chunks[m] +
                                  (item.state - plan_.row_state[item.row_begin]);
                states[q] = partial_states_.data() + static_cast<std::size_t>(state) * floats;
            } else {
                states[q] = mine.states + static_cast<std::size_t>(q) * floats;
                folded[q] = mine.states + static_cast<std::size_t>(a.queries + q) * floats;
                folded[q][1] = 0.0f;
            }
        }
        for (int c = item.chunk_begin; c < item.chunk_end; ++c) {
            kernels_.attend(a, c * kAttentionChunk, (c + 1) * kAttentionChunk, states, mine.scores);
            if (plan_.split) continue;
            for (int q = 0; q < a.queries; ++q) kernels_.merge(folded[q], states[q], D);
        }
        if (plan_.split) continue;
        for (int q = 0; q < a.queries; ++q) {
            const int m = item.row_begin + q / group, h = item.kv_head * group + q % group;
            kernels_.finish(folded[q], D,
                            attended_ + (static_cast<std::size_t>(m) * s.heads + h) * D);
        }
    }
    pool_.barrier();
    if (!plan_.split) return;
    const int pieces = step_.rows * s.heads;
    for (int i = pieces * thread / T; i < pieces * (thread + 1) / T; ++i) {
        const int m = i / s.heads, h = i % s.heads, chunks = plan_.row_chunks[m];
        float* state = partial_states_.data() +
                       static_cast<std::size_t>(plan_.row_state[m] + h * chunks) * floats;
        for (int c = 1; c < chunks; ++c) kernels_.merge(state, state + c * floats, D);
        kernels_.finish(state, D, attended_ + (static_cast<std::size_t>(m) * s.heads + h) * D);
    }
    pool_.barrier();
}

void Model::run_layers(LevelSpec level, int thread) {
    const ModelShape& s = shape_;
    const int M = step_.rows, wb = level.weight_bits, ab = level.act_bits;
    const int x_stride = round_up(s.hidden, kPanel), attended = s.heads * s.head_dim;
    const auto normed = [&](const float* weight) {
        return [this, weight, x_stride](int m, float* to) {
            kernels_.rmsnorm(x_ + static_cast<std::size_t>(m) * x_stride, weight, shape_.norm_eps,
                             shape_.hidden, to);
            return static_cast<const float*>(to);
        };
    };
    embed_rows(thread);
    pool_.barrier();
    for (int l = 0; l < s.layers; ++l) {
        const Layer& layer = layers[l];
        Input in = prepare(layer.qkv, M, ab, wb, thread, normed(layer.attn_norm));
        linear(layer.qkv, wb, in, M,
               {Epilogue::Kind::kStore, layer.qkv_bias, qkv_, static_cast<std::size_t>(qkv_width_)},
               slice(layer.qkv.panels(), 1, thread), thread);
        pool_.barrier();
        write_kv(layer, l, thread);
        pool_.barrier();
        attention(l, thread);
        in = prepare(layer.o, M, ab, wb, thread, [&](int m, float*) {
            return static_cast<const float*>(attended_ + static_cast<std::size_t>(m) * attended);
        });
        linear(layer.o, wb, in, M,
               {Epilogue::Kind::kAdd, nullptr, x_, static_cast<std::size_t>(x_stride)},
               slice(layer.o.panels(), 1, thread), thread);
        pool_.barrier();

        // Each thread quantizes the part of the hidden layer it made, so slices hold whole groups.
        const int F = s.intermediate,
                  down_group = layer.down.dense ? kPanel : layer.down.planes.group;
        const Slice part = slice(layer.gate_up.panels(), down_group / 16, thread);
        in = prepare(layer.gate_up, M, ab, wb, thread, normed(layer.mlp_norm));
        linear(layer.gate_up, wb, in, M,
               {Epilogue::Kind::kSiluMul, nullptr, mlp_, static_cast<std::size_t>(F)}, part,
               thread);
        Input hidden = shared_mlp_;
        hidden.stride = F;
        hidden.codes.planes = ab == 16 ? 2 : 1;
        if (layer.down.dense) {
            hidden.dense = mlp_;
        } else {
            const int bits = layer.down.planes.lo ? wb : 4;
            for (int m = 0; m < M; ++m)
                kernels_.quantize(mlp_ + static_cast<std::size_t>(m) * F, F, down_group, ab, bits,
                                  m, part.begin * 16 / down_group, part.end * 16 / down_group,
                                  hidden.codes);
        }
        pool_.barrier();
        linear(layer.down, wb, hidden, M,
               {Epilogue::Kind::kAdd, nullptr, x_, static_cast<std::size_t>(x_stride)},
               slice(layer.down.panels(), 1, thread), thread);
        pool_.barrier();
    }
}

void Model::run_head(LevelSpec level, int thread) {
    const int R = step_.num_logit_rows, x_stride = round_up(shape_.hidden, kPanel);
    if (R == 0) return;
    const Input in =
        prepare(head, R, level.act_bits, level.head_bits, thread, [&](int r, float* to) {
            kernels_.rmsnorm(x_ + static_cast<std::size_t>(step_.logit_rows[r]) * x_stride,
                             final_norm, shape_.norm_eps, shape_.hidden, to);
            return static_cast<const float*>(to);
        });
    const Slice part = slice(head.panels(), kLogitChunk / kPanel, thread);
    linear(
        head, level.head_bits, in, R,
        {Epilogue::Kind::kStore, nullptr, logits_.data(), static_cast<std::size_t>(logit_stride_)},
        part, thread);
    const int chunks = (shape_.vocab + kLogitChunk - 1) / kLogitChunk;
    for (int r = 0; r < R; ++r) {
        for (int c = part.begin * kPanel / kLogitChunk;
             c < chunks && c * kLogitChunk < part.end * kPanel; ++c) {
            const int from = c * kLogitChunk, count = std::min(kLogitChunk, shape_.vocab - from);
            ChunkStats& stats = chunk_stats_[static_cast<std::size_t>(r) * chunks + c];
            kernels_.softmax_stats(logits(r) + from, count, &stats.argmax, &stats.max, &stats.sum);
            stats.argmax += from;
        }
    }
    pool_.barrier();
}

void Model::sample_rows(const std::vector<SamplingRow>& sampling, std::vector<Choice>& out,
                        int thread) {
    const int chunks = (shape_.vocab + kLogitChunk - 1) / kLogitChunk;
    for (int r = thread; r < step_.num_logit_rows; r += pool_.size()) {
        const ChunkStats* stats = chunk_stats_.data() + static_cast<std::size_t>(r) * chunks;
        out[r] = choose(logits(r), shape_.vocab, {stats, static_cast<std::size_t>(chunks)},
                        sampling[r], threads_[thread].candidates);
    }
}

}  // namespace halfbyte
