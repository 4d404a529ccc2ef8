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

// Norms (Qwen3), rotates and stores: q in place, k and v into their page.
void Model::write_kv(const Layer& layer, int index, int thread) {
    const ModelShape& s = shape_;
    const int D = s.head_dim, half = D / 2, S = page_size_, rows = step_.rows, T = pool_.size();
    const auto rotated = [&](int m, int head, const float* norm, float factor) {
        float* x = qkv_ + static_cast<std::size_t>(m) * qkv_width_ + head * D;
        if (norm) kernels_.rmsnorm(x, norm, s.norm_eps, D, x);
        kernels_.rope(x, cos_ + static_cast<std::size_t>(m) * half,
                      sin_ + static_cast<std::size_t>(m) * half, D, factor);
        return x;
    };
    const float query_factor = 1.0f / std::sqrt(static_cast<float>(D));
    const int queries = rows * s.heads;
    for (int i = queries * thread / T; i < queries * (thread + 1) / T; ++i)
        rotated(i / s.heads, i % s.heads, layer.q_norm, query_factor);

    const std::size_t width = kv_bytes(kv_type_);
    alignas(64) char narrow[256 * 4];
    // Head by head: rows next to each other share the cache lines of K, and two threads that write
    // to one line wait for each other.
    const int keys = rows * s.kv_heads;
    for (int i = keys * thread / T; i < keys * (thread + 1) / T; ++i) {
        const int m = i % rows, kv_head = i / rows, slot = slot_[m] % S;
        const float* x = rotated(m, s.heads + kv_head, layer.k_norm, 1.0f);
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
void Model::set_queries(const AttentionItem& item, int thread, QueryBlock& block) {
    const ModelShape& s = shape_;
    const int D = s.head_dim, group = s.heads / s.kv_heads, floats = state_floats(D);
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
        block.first[q] = window_begin(position_[m], s.sliding_window);
        if (plan_.split) {
            const int state = plan_.row_state[m] + h * plan_.row_chunks[m] +
                              (item.state - plan_.row_state[item.row_begin]);
            block.states[q] = partial_states_.data() + static_cast<std::size_t>(state) * floats;
        } else {
            block.states[q] = own + static_cast<std::size_t>(q) * floats;
            block.folded[q] = own + static_cast<std::size_t>(a.queries + q) * floats;
            block.folded[q][1] = 0.0f;
        }
    }
}

// Where the attention of row m in head h goes.
float* Model::attended(int m, int h) const {
    return attended_ + (static_cast<std::size_t>(m) * shape_.heads + h) * shape_.head_dim;
}

void Model::attention(int layer, int thread) {
    const int D = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
    QueryBlock block;
    AttentionArgs& a = block.args;
    a = {.kv = kv_view(layer),
         .head_dim = D,
         .q = block.queries,
         .first = block.first,
         .last = block.last};
    const int items = static_cast<int>(plan_.items.size()), T = pool_.size();
    // Split pieces lie in context order: contiguous shares keep a thread on the same pages every
    // layer and step. Whole rows are dealt out in turn, since later rows see more context and cost
    // more.
    const int begin = plan_.split ? items * thread / T : thread;
    const int end = plan_.split ? items * (thread + 1) / T : items, stride = plan_.split ? 1 : T;
    for (int i = begin; i < end; i += stride) {
        const AttentionItem& item = plan_.items[i];
        set_queries(item, thread, block);
        for (int c = item.chunk_begin; c < item.chunk_end; ++c) {
            a.after = nullptr;
            if (c + 1 < item.chunk_end) {
                a.after = first_keys(layer, item, c + 1);
            } else if (i + stride < end) {
                const AttentionItem& next = plan_.items[i + stride];
                a.after = first_keys(layer, next, next.chunk_begin);
            }
            kernels_.attend(a, c * kAttentionChunk, (c + 1) * kAttentionChunk, block.states,
                            threads_[thread].scores);
            if (plan_.split) continue;
            for (int q = 0; q < a.queries; ++q) kernels_.merge(block.folded[q], block.states[q], D);
        }
        if (plan_.split) continue;
        for (int q = 0; q < a.queries; ++q)
            kernels_.finish(block.folded[q], D,
                            attended(item.row_begin + q / group, item.kv_head * group + q % group));
    }
    pool_.barrier();
    if (!plan_.split) return;
    merge_pieces(thread);
    pool_.barrier();
}

// The chunks of every row and head, in ascending order, to the row's attention.
void Model::merge_pieces(int thread) {
    const int D = shape_.head_dim, H = shape_.heads, floats = state_floats(D), T = pool_.size();
    const int pieces = step_.rows * H;
    for (int i = pieces * thread / T; i < pieces * (thread + 1) / T; ++i) {
        const int m = i / H, h = i % H, chunks = plan_.row_chunks[m];
        float* state = partial_states_.data() +
                       static_cast<std::size_t>(plan_.row_state[m] + h * chunks) * floats;
        for (int c = 1; c < chunks; ++c) kernels_.merge(state, state + c * floats, D);
        kernels_.finish(state, D, attended(m, h));
    }
}

}  // namespace halfbyte
