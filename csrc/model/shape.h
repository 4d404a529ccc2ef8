// What a model is, in numbers: halfbyte/config as the native step needs it.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels/kernels.h"

namespace halfbyte {

// A rotary embedding: the pairs (i, i + R/2) of the first R dimensions of a head turn.
struct Rotary {
    std::vector<float> inverse_frequencies;  // [R/2]
    float factor = 1;                        // cosines and sines are times this

    int pairs() const { return static_cast<int>(inverse_frequencies.size()); }
};

struct AttentionShape {
    int heads = 0, kv_heads = 0, head_dim = 0;
    int window = 0;           // positions a row sees; 0: all
    int rotary = -1;          // of ModelShape::rotaries; -1: none
    float scale = 1;          // queries are times this
    float softcap = 0;        // 0: none
    bool whole_norm = false;  // norms of q and k are over all heads together
    // Queries are times 1 + position_scale * ln(1 + floor(position / original_context)) as well.
    float position_scale = 0;
    int original_context = 1;

    int group() const { return heads / kv_heads; }
    int width() const { return heads * head_dim; }
    int kv_width() const { return kv_heads * head_dim; }
};

struct FeedForwardShape {
    int size = 0;
    Activation activation = Activation::kSilu;
    float limit = 0;  // kClampedSwiglu
};

// A mixture of experts: what routes, and one that every row runs.
struct ExpertsShape {
    int count = 0;  // 0: a dense feed-forward
    int top_k = 0;
    bool sigmoid = false;    // scores become their sigmoids; shares are a softmax otherwise
    bool normalized = true;  // shares of a row sum to `scale`
    float scale = 1;
    FeedForwardShape shared;   // size 0: none
    bool shared_gate = false;  // the shared one is times the sigmoid of one more score
};

struct LayerShape {
    AttentionShape attention;
    FeedForwardShape inner;  // of each expert, where there are any
    ExpertsShape experts;
    bool norm_before = true, norm_after = false;
    float residual_multiplier = 1;
};

struct ModelShape {
    int vocab, hidden;
    float norm_eps;
    bool tied_head;
    float embedding_multiplier = 1, logit_multiplier = 1;
    float logit_softcap = 0;  // 0: none
    std::vector<LayerShape> kinds;
    std::vector<int> order;  // [layers] the kind of each
    std::vector<Rotary> rotaries;
    // Of a draft head (head.cpp) only:
    int features = 0;        // width of the target's features; 0: a model of its own
    int embedding_rows = 0;  // tokens it reads; 0: `vocab`, the tokens it scores
    bool wide = false;       // q, k and v read [embedding; hidden] (EAGLE-3), not hidden (EAGLE)

    int layers() const { return static_cast<int>(order.size()); }
    const LayerShape& layer(int l) const { return kinds[order[l]]; }
    int tokens() const { return embedding_rows ? embedding_rows : vocab; }
    int qkv_inputs() const { return wide ? 2 * hidden : hidden; }

    // The largest `size(kind)` of all kinds.
    template <typename Size>
    int widest(Size&& size) const {
        int most = 0;
        for (const LayerShape& kind : kinds) most = std::max<int>(most, size(kind));
        return most;
    }
};

}  // namespace halfbyte
