// KV of a step's rows, and their attention.
#include <cmath>
#include <cstring>

#include "model/model.h"

namespace halfbyte {

namespace {
// One position of a K block [D][S].
template <typename T>
void store_column(char* block, const char* values, int head_dim, int page_size, int slot) {
    T* to = reinterpret_cast<T*>(block) + slot;
    for (int d = 0; d < head_dim; ++d, to += page_size)
        std::memcpy(to, values + d * sizeof(T), sizeof(T));
}
}  // namespace

// Norms of q and k over all heads together; every other norm of theirs is of a head and is made
// where the head is rotated.
void Model::norm_whole(const Layer& layer, const AttentionShape& s, int thread) {
    const int parts = 2 * step_.rows, T = pool_.size();
    for (int i = parts * thread / T; i < parts * (thread + 1) / T; ++i) {
        const bool key = i % 2;
        float* x = qkv_ + static_cast<std::size_t>(i / 2) * qkv_width_ + (key ? s.width() : 0);
        kernels_.rmsnorm(x, key ? layer.k_norm : layer.q_norm, shape_.norm_eps,
                         key ? s.kv_width() : s.width(), x);
    }
    pool_.barrier();
}

// One head of q or k: norm, angles, factor, in place.
float* Model::rotated(const AttentionShape& s, int m, int head, const float* norm, float factor) {
    float* x = qkv_ + static_cast<std::size_t>(m) * qkv_width_ + head * s.head_dim;
    if (norm) kernels_.rmsnorm(x, norm, shape_.norm_eps, s.head_dim, x);
    int turned = 0;
    if (s.rotary >= 0) {
        const int pairs = shape_.rotaries[s.rotary].pairs();
        const std::size_t row = static_cast<std::size_t>(m) * pairs;
        turned = 2 * pairs;
        kernels_.rope(x, cos_[s.rotary] + row, sin_[s.rotary] + row, turned, factor);
    }
    for (int d = turned; d < s.head_dim; ++d) x[d] *= factor;
    return x;
}

// How much longer the queries of a row are for its position.
float Model::position_factor(const AttentionShape& s, int m) const {
    const double texts = position_[m] / s.original_context;
    return static_cast<float>(1 + s.position_scale * std::log1p(texts));
}

// Norms, rotates and stores: q in place, k and v into their page.
void Model::write_kv(const Layer& layer, int index, int thread) {
    const AttentionShape& s = shape_.layer(index).attention;
    const int D = s.head_dim, S = page_size_, rows = step_.rows, T = pool_.size();
    if (s.whole_norm) norm_whole(layer, s, thread);
    const float *q_norm = s.whole_norm ? nullptr : layer.q_norm,
                *k_norm = s.whole_norm ? nullptr : layer.k_norm;
    const int queries = rows * s.heads;
    for (int i = queries * thread / T; i < queries * (thread + 1) / T; ++i) {
        const int m = i / s.heads, h = i % s.heads;
        if (s.position_scale == 0) {
            rotated(s, m, h, q_norm, s.scale);
            continue;
        }
        float* x = rotated(s, m, h, q_norm, position_factor(s, m));
        for (int d = 0; d < D; ++d) x[d] *= s.scale;
    }

    const std::size_t width = kv_bytes(kv_type_);
    alignas(64) char narrow[kMostHeadDim * 4];
    // Head by head: rows next to each other share the cache lines of K, and two threads that write
    // to one line wait for each other.
    const int keys = rows * s.kv_heads;
    for (int i = keys * thread / T; i < keys * (thread + 1) / T; ++i) {
        const int m = i % rows, kv_head = i / rows, slot = slot_[m] % S;
        const float* x = rotated(s, m, s.heads + kv_head, k_norm, 1.0f);
        const int page_id =
            step_.pages[static_cast<std::size_t>(sequence_[m]) * step_.page_columns + slot_[m] / S];
        char* k = key_block(index, page_id, kv_head);
        kernels_.narrow(x, D, kv_type_, narrow);
        if (width == 2)
            store_column<std::uint16_t>(k, narrow, D, S, slot);
        else
            store_column<float>(k, narrow, D, S, slot);
        kernels_.narrow(x + s.kv_heads * D, D, kv_type_,
                        k + static_cast<std::size_t>(D) * (S + slot) * width);
    }
}

// The block of K that a chunk of an item begins with.
const void* Model::first_keys(int layer, const AttentionItem& item, int chunk) const {
    const int page = step_.pages[static_cast<std::size_t>(item.sequence) * step_.page_columns +
                                 chunk * kAttentionChunk / page_size_];
    return key_block(layer, page, item.kv_head);
}

// Points `block` at the queries of an item and at the states they are added up in: those of the
// thread, or in a split plan the item's own.
void Model::set_queries(const AttentionShape& s, const AttentionPlan& plan,
                        const AttentionItem& item, int thread, QueryBlock& block) {
    const int D = s.head_dim, group = s.group(), floats = state_floats(D);
    AttentionArgs& a = block.args;
    a.pages = step_.pages + static_cast<std::size_t>(item.sequence) * step_.page_columns;
    a.kv_head = item.kv_head;
    a.paths = path_of(item.row_begin) ? block.paths : nullptr;
    a.base = step_.first[item.sequence];
    a.queries = (item.row_end - item.row_begin) * group;
    float* own = threads_[thread].states;
    for (int q = 0; q < a.queries; ++q) {
        const int m = item.row_begin + q / group, h = item.kv_head * group + q % group;
        block.queries[q] = qkv_ + static_cast<std::size_t>(m) * qkv_width_ + h * D;
        block.last[q] = position_[m];
        block.paths[q] = path_of(m);
        block.first[q] = window_begin(position_[m], s.window);
        if (plan.split) {
            const int state = plan.row_state[m] + h * plan.row_chunks[m] +
                              (item.state - plan.row_state[item.row_begin]);
            block.states[q] = partial_states_.data() + static_cast<std::size_t>(state) * floats;
        } else {
            block.states[q] = own + static_cast<std::size_t>(q) * floats;
            block.folded[q] = own + static_cast<std::size_t>(a.queries + q) * floats;
            block.folded[q][1] = 0.0f;
        }
    }
}

// All positions of row m in head h are in its state: the sink comes last.
void Model::finish_head(int layer, int m, int h, float* state) {
    const AttentionShape& s = shape_.layer(layer).attention;
    const int D = s.head_dim;
    if (const float* sinks = layers[layer].sinks)
        kernels_.merge(state, sinks + static_cast<std::size_t>(h) * state_floats(D), D);
    kernels_.finish(state, D, attended_ + static_cast<std::size_t>(m) * s.width() + h * D);
}

void Model::attention(int layer, int thread) {
    const AttentionShape& s = shape_.layer(layer).attention;
    const AttentionPlan& plan = plan_of(layer);
    const int D = s.head_dim, group = s.group();
    QueryBlock block;
    AttentionArgs& a = block.args;
    a = {.kv = kv_view(layer),
         .head_dim = D,
         .q = block.queries,
         .first = block.first,
         .last = block.last,
         .softcap = s.softcap};
    const int items = static_cast<int>(plan.items.size()), T = pool_.size();
    // Split pieces lie in context order: contiguous shares keep a thread on the same pages every
    // layer and step. Whole rows are dealt out in turn, since later rows see more context and cost
    // more.
    const int begin = plan.split ? items * thread / T : thread;
    const int end = plan.split ? items * (thread + 1) / T : items, stride = plan.split ? 1 : T;
    for (int i = begin; i < end; i += stride) {
        const AttentionItem& item = plan.items[i];
        set_queries(s, plan, item, thread, block);
        for (int c = item.chunk_begin; c < item.chunk_end; ++c) {
            a.after = nullptr;
            if (c + 1 < item.chunk_end) {
                a.after = first_keys(layer, item, c + 1);
            } else if (i + stride < end) {
                const AttentionItem& next = plan.items[i + stride];
                a.after = first_keys(layer, next, next.chunk_begin);
            }
            kernels_.attend(a, c * kAttentionChunk, (c + 1) * kAttentionChunk, block.states,
                            threads_[thread].scores);
            if (plan.split) continue;
            for (int q = 0; q < a.queries; ++q) kernels_.merge(block.folded[q], block.states[q], D);
        }
        if (plan.split) continue;
        for (int q = 0; q < a.queries; ++q)
            finish_head(layer, item.row_begin + q / group, item.kv_head * group + q % group,
                        block.folded[q]);
    }
    pool_.barrier();
    if (!plan.split) return;
    merge_pieces(layer, thread);
    pool_.barrier();
}

// The chunks of every row and head, in ascending order, to the row's attention.
void Model::merge_pieces(int layer, int thread) {
    const AttentionShape& s = shape_.layer(layer).attention;
    const AttentionPlan& plan = plan_of(layer);
    const int D = s.head_dim, H = s.heads, floats = state_floats(D), T = pool_.size();
    const int pieces = step_.rows * H;
    for (int i = pieces * thread / T; i < pieces * (thread + 1) / T; ++i) {
        const int m = i / H, h = i % H, chunks = plan.row_chunks[m];
        float* state = partial_states_.data() +
                       static_cast<std::size_t>(plan.row_state[m] + h * chunks) * floats;
        for (int c = 1; c < chunks; ++c) kernels_.merge(state, state + c * floats, D);
        finish_head(layer, m, h, state);
    }
}

}  // namespace halfbyte
