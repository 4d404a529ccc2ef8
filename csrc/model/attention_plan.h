// How the attention of a step is cut into independent pieces. Which piece runs where, and whether
// chunks are merged as they come or afterwards, changes no bit: chunks always merge in ascending
// order.
#pragma once
#include <cstdint>
#include <vector>

namespace halfbyte {

struct AttentionItem {
    int sequence, kv_head;
    int row_begin, row_end;      // rows of the step, all of `sequence`
    int chunk_begin, chunk_end;  // in kAttentionChunk units
    int state;                   // split plans: first slot in the table of partial states
};

struct AttentionPlan {
    // false: an item covers every chunk of its rows and finishes them. true: one chunk per item, so
    // that one long row keeps every thread busy; partial states are merged after a barrier.
    bool split = false;
    std::vector<AttentionItem> items;
    std::vector<int> row_state;   // split: [M] first state of the row: [heads][chunks of the row]
    std::vector<int> row_chunks;  // split: [M] number of chunks of the row
    int states = 0;
};

// rows of sequence b: [row_starts[b], row_starts[b+1]), row m at positions[m]
void plan_attention(int sequences, const std::int32_t* row_starts, const std::int32_t* positions,
                    int kv_heads, int heads, int window, int threads, AttentionPlan& plan);

// First position a row at `position` attends to.
inline int window_begin(int position, int window) {
    return window > 0 && position >= window ? position - window + 1 : 0;
}

}  // namespace halfbyte
