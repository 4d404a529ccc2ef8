#include "model/model.h"

#include <algorithm>
#include <cstring>

namespace halfbyte {

std::size_t Linear::bytes(int bits) const {
    return dense ? halfbyte::bytes_read(matrix) : halfbyte::bytes_read(planes, bits);
}

Linear Linear::part(int first, int count) const {
    Linear w = *this;
    if (dense)
        w.matrix = panels_of(matrix, first, count);
    else
        w.planes = panels_of(planes, first, count);
    return w;
}

Model::Model(ModelShape shape, const Kernels& kernels, int threads, int max_rows)
    : shape_(std::move(shape)), kernels_(kernels), pool_(threads), max_rows_(max_rows) {
    const ModelShape& s = shape_;
    using Kind = const LayerShape&;
    const int attended = s.widest([](Kind k) { return k.attention.width(); });
    const int inner = s.widest([](Kind k) { return k.inner.size; });
    const int shared = s.widest([](Kind k) { return k.experts.shared.size; });
    const int experts = s.widest([](Kind k) { return k.experts.count; });
    const int top_k = s.widest([](Kind k) { return k.experts.top_k; });
    qkv_width_ = s.widest(
        [](Kind k) { return round_up(k.attention.width() + 2 * k.attention.kv_width(), kPanel); });
    widest_input_ = std::max({s.hidden, inner, shared, attended});
    if (s.features) widest_input_ = std::max({widest_input_, 2 * s.hidden, s.features});
    logit_stride_ = round_up(s.vocab, kPanel);
    const std::size_t rows = max_rows;
    x_ = buffers_.array<float>(rows * round_up(s.hidden, kPanel));
    qkv_ = buffers_.array<float>(rows * qkv_width_);
    attended_ = buffers_.array<float>(rows * attended);
    if (experts || s.widest([](Kind k) { return k.norm_after; }))
        branch_ = buffers_.array<float>(rows * round_up(s.hidden, kPanel));
    for (const Rotary& rotary : s.rotaries) {
        cos_.push_back(buffers_.array<float>(rows * rotary.pairs()));
        sin_.push_back(buffers_.array<float>(rows * rotary.pairs()));
    }
    plans_.resize(s.kinds.size());
    if (s.features) embedded_ = buffers_.array<float>(rows * s.hidden);
    shared_ = make_input(max_rows);
    const auto make_hidden = [&](std::size_t count, int size) -> Hidden {
        return {buffers_.array<float>(count * round_up(size, kPanel)), make_input(count)};
    };
    hidden_ = make_hidden(rows * std::max(top_k, 1), inner);
    if (experts) {
        score_stride_ = round_up(experts + 1, kPanel);
        scores_ = buffers_.array<float>(rows * score_stride_);
        gates_ = buffers_.array<float>(rows);
        shares_ = buffers_.array<float>(rows * top_k);
        chosen_ = buffers_.array<std::int32_t>(rows * top_k);
        if (shared) shared_hidden_ = make_hidden(rows, shared);
    }
    threads_.resize(threads);
    const int queries = kRowBlock * s.widest([](Kind k) { return k.attention.group(); });
    const int floats = s.widest([](Kind k) { return state_floats(k.attention.head_dim); });
    for (PerThread& t : threads_) {
        t.input = make_input(kRedundantRows);
        if (experts) t.gathered = make_input(max_rows);
        t.row = buffers_.array<float>(widest_input_);
        t.untransformed = buffers_.array<float>(widest_input_);
        t.panel = buffers_.array<std::uint8_t>(static_cast<std::size_t>(widest_input_) * kPanel);
        t.scores = buffers_.array<float>(static_cast<std::size_t>(2 * queries) * kAttentionChunk);
        t.states = buffers_.array<float>(static_cast<std::size_t>(2 * queries) * floats);
    }
}

Model::Input Model::make_input(std::size_t rows) {
    Input in;
    const std::size_t n = rows * widest_input_, groups = rows * (widest_input_ / 32 + 1);
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
    std::size_t elements = 0;
    for (int l = 0; l < shape_.layers(); ++l) {
        kv_begin_.push_back(elements);
        elements += pages * page_elements(l);
    }
    kv_base_ = kv_.array<char>(elements * kv_bytes(type));
}

std::size_t Model::page_elements(int layer) const {
    return static_cast<std::size_t>(2 * shape_.layer(layer).attention.kv_width()) * page_size_;
}

char* Model::key_block(int layer, int page, int kv_head) const {
    const std::size_t block =
        static_cast<std::size_t>(shape_.layer(layer).attention.head_dim) * page_size_;
    const std::size_t elements =
        kv_begin_[layer] + page * page_elements(layer) + 2 * kv_head * block;
    return kv_base_ + elements * kv_bytes(kv_type_);
}

const void* Model::page(int layer, int page) const { return key_block(layer, page, 0); }

KvView Model::kv_view(int layer) const {
    return {page(layer, 0), page_elements(layer), page_size_, kv_type_};
}

const ReducedHead* Model::reduce_head(std::vector<std::int32_t> ids) {
    auto reduced = std::make_unique<ReducedHead>();
    reduced->head = head;
    if (head.dense)
        reduced->head.matrix = gather_rows(head.matrix, ids, weights_);
    else
        reduced->head.planes = gather_rows(head.planes, ids, weights_);
    reduced->ids = std::move(ids);
    reduced_heads_.push_back(std::move(reduced));
    return reduced_heads_.back().get();
}

std::size_t Model::bytes_read(LevelSpec level, const ReducedHead* reduced) const {
    std::size_t total = (reduced ? reduced->head : head).bytes(level.head_bits);
    const int bits = level.weight_bits;
    for (int i = 0; i < shape_.layers(); ++i) {
        const Layer& l = layers[i];
        total += l.qkv.bytes(bits) + l.o.bytes(bits);
        const ExpertsShape& experts = shape_.layer(i).experts;
        const std::size_t inner = l.inner.gate_up.bytes(bits) + l.inner.down.bytes(bits);
        total += experts.count ? inner * experts.top_k / experts.count : inner;
        if (experts.shared.size) total += l.shared.gate_up.bytes(bits) + l.shared.down.bytes(bits);
    }
    return total;
}

// ---- one step -----------------------------------------------------------------------------------

void Model::reserve(const Step& step) {
    const std::size_t rows = std::max(step.num_logit_rows, 1);
    const int chunks = (shape_.vocab + kLogitChunk - 1) / kLogitChunk;
    if (logits_.size() < rows * logit_stride_) logits_.resize(rows * logit_stride_);
    if (chunk_stats_.size() < rows * chunks) chunk_stats_.resize(rows * chunks);
}

void Model::begin_step(const Step& step) {
    step_ = step;
    position_.resize(step.rows);
    slot_.resize(step.rows);
    sequence_.resize(step.rows);
    for (int b = 0; b < step.sequences; ++b) {
        for (int m = step.row_starts[b]; m < step.row_starts[b + 1]; ++m) {
            sequence_[m] = b;
            position_[m] = slot_[m] = step.first[b] + m - step.row_starts[b];
            const std::int32_t* path = path_of(m);
            if (!path) continue;
            const int length =
                static_cast<int>(std::find_if(path, path + step.path_width,
                                              [](std::int32_t slot) { return slot < 0; }) -
                                 path);
            position_[m] = step.first[b] + length - 1;
            slot_[m] = step.first[b] + path[length - 1];
        }
    }
    for (std::size_t k = 0; k < plans_.size(); ++k) {
        const AttentionShape& s = shape_.kinds[k].attention;
        plan_attention(step.sequences, step.row_starts, position_.data(), s.kv_heads, s.heads,
                       s.window, pool_.size(), plans_[k]);
        const std::size_t floats =
            static_cast<std::size_t>(plans_[k].states) * state_floats(s.head_dim);
        if (partial_states_.size() < floats) partial_states_.resize(floats);
    }
}

void Model::forward(const Step& step, LevelSpec level) {
    reserve(step);
    begin_step(step);
    pool_.run([&](int thread) {
        run_layers(level, thread);
        run_head(level, thread);
    });
}

std::vector<Drawn> Model::forward_sample(const Step& step, LevelSpec level,
                                         const std::vector<Sampling>& sampling) {
    reserve(step);
    begin_step(step);
    std::vector<Drawn> out(step.num_logit_rows);
    pool_.run([&](int thread) {
        run_layers(level, thread);
        run_head(level, thread);
        sample_rows(sampling, out, thread);
    });
    return out;
}

}  // namespace halfbyte
