#include "model/attention_plan.h"

#include <algorithm>

#include "kernels/kernels.h"

namespace halfbyte {

void plan_attention(int sequences, const std::int32_t* row_starts, const std::int32_t* positions,
                    int kv_heads, int heads, int window, int threads, AttentionPlan& plan) {
    plan.items.clear();
    plan.row_state.clear();
    plan.row_chunks.clear();
    plan.states = 0;
    int blocks = 0;
    bool several_chunks = false;
    for (int b = 0; b < sequences; ++b) {
        const int rows = row_starts[b + 1] - row_starts[b];
        blocks += (rows + kRowBlock - 1) / kRowBlock;
    }
    for (int m = 0; m < row_starts[sequences]; ++m)
        several_chunks |= positions[m] >= kAttentionChunk;
    // Few blocks leave threads idle or badly balanced; many need no splitting.
    plan.split = threads > 1 && several_chunks && blocks < 4 * threads;
    for (int b = 0; b < sequences; ++b) {
        for (int m = row_starts[b]; m < row_starts[b + 1]; m += kRowBlock) {
            const int end = std::min<int>(m + kRowBlock, row_starts[b + 1]);
            // Ascending in a sequence's plain rows, in any order in a tree's.
            const auto [low, high] = std::minmax_element(positions + m, positions + end);
            const int c0 = window_begin(*low, window) / kAttentionChunk;
            const int c1 = *high / kAttentionChunk + 1;
            if (!plan.split) {
                for (int h = 0; h < kv_heads; ++h) plan.items.push_back({b, h, m, end, c0, c1, 0});
                continue;
            }
            const int chunks = c1 - c0;
            for (int r = m; r < end; ++r) {
                plan.row_state.push_back(plan.states + (r - m) * heads * chunks);
                plan.row_chunks.push_back(chunks);
            }
            for (int h = 0; h < kv_heads; ++h)
                for (int c = c0; c < c1; ++c)
                    plan.items.push_back({b, h, m, end, c, c + 1, plan.states + (c - c0)});
            plan.states += (end - m) * heads * chunks;
        }
    }
}

}  // namespace halfbyte
