// A decoder-only transformer, its layers as shape.h describes them, and its KV pages. One call runs
// a whole step on every thread of the pool: embedding to logits to tokens.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "host/arena.h"
#include "host/pool.h"
#include "kernels/kernels.h"
#include "model/attention_plan.h"
#include "model/expert_groups.h"
#include "model/packing.h"
#include "model/sampling.h"
#include "model/shape.h"

namespace halfbyte {

struct LevelSpec {
    int weight_bits;  // 4, 8, or 32: dense
    int act_bits;     // 4, 8, 16, 32
    int head_bits;    // 4, 8, 32
};

struct Linear {
    bool dense = false;
    PackedPlanes planes;
    PackedDense matrix;
    Transform transform;  // of the input
    int panels() const { return (dense ? matrix.n : planes.n) / kPanel; }
    int k() const { return dense ? matrix.k : planes.k; }
    std::size_t bytes(int bits) const;
    // Panels [first, first + count) as a matrix.
    Linear part(int first, int count) const;
};

// Of all experts of a layer, one after another, where it has any.
struct FeedForward {
    Linear gate_up, down;
    const float *gate_up_bias = nullptr, *down_bias = nullptr;  // in the order of the panels
};

struct Layer {
    Linear qkv, o;
    FeedForward inner, shared;
    Linear router;  // [experts, and one for the gate of the shared one]
    const float *router_bias = nullptr, *choice_bias = nullptr;
    const float *qkv_bias = nullptr, *o_bias = nullptr;
    const float *attn_norm = nullptr, *mlp_norm = nullptr;  // before; null: none
    const float *attn_norm_after = nullptr, *mlp_norm_after = nullptr;
    const float *q_norm = nullptr, *k_norm = nullptr;
    const float* sinks = nullptr;  // [H] states of one position that holds nothing
};

// The output head over part of the vocabulary, for drafts: they read that much less
// (FR-Spec, arXiv 2502.14856).
struct ReducedHead {
    Linear head;
    std::vector<std::int32_t> ids;  // [n] ascending: the token each row scores
};

// Rows of one step. Row m of sequence b stands at position first[b] + m - row_starts[b], and in the
// slot of that number; or, in a token tree, at first[b] + depth, its path being the slots past
// first[b] that hold its ancestors from the root, and itself.
struct Step {
    int rows = 0, sequences = 0;
    const std::int32_t* tokens = nullptr;      // [M]
    const std::int32_t* row_starts = nullptr;  // [B + 1]
    const std::int32_t* first = nullptr;       // [B]
    const std::int32_t* pages = nullptr;       // [B][page_columns]
    int page_columns = 0;
    const std::int32_t* logit_rows = nullptr;  // [R]
    int num_logit_rows = 0;
    const std::int32_t* paths = nullptr;  // [M][path_width], -1 past the end; null: no trees
    int path_width = 0;
    const float* features = nullptr;  // draft heads: [M][feature_width]
    int feature_width = 0;
    const ReducedHead* reduced = nullptr;  // null: the whole head
};

// The most likely tokens of some rows, best first (ties: the lower id).
struct Best {
    std::vector<std::int32_t> tokens;  // [R][k]
    std::vector<float> logprobs;       // [R][k]
};

// What one layer read at its linears and returned, for calibration: [M][width] each.
struct LayerRows {
    float *qkv, *o, *gate_up, *down, *out;
};

// How sequences are drafted for from their roots.
struct DraftRun {
    LevelSpec level;
    std::vector<std::int32_t> lengths;             // [B] tokens at most
    float min_confidence = 0;                      // a token less likely ends its draft
    const ReducedHead* reduced = nullptr;          // null: the whole head
    const std::atomic<bool>* interrupt = nullptr;  // true: end after the forward under way
};

struct Draft {
    std::vector<std::int32_t> tokens;  // [B][most]
    std::vector<float> logprobs;       // [B][most]
    std::vector<std::int32_t> counts;  // [B]
};

// What each sequence got of a draft and its verify: the drafted tokens that the target sampled too,
// and one more of its own.
struct Speculation {
    std::vector<std::vector<std::int32_t>> tokens;  // [B]
    std::vector<std::vector<float>> logprobs;       // [B]
    std::vector<std::int32_t> proposed;             // [B]
    int forwards = 0;                               // of the draft
    double draft_seconds = 0;
};

// Rows that a thread can prepare alone (layers.cpp).
constexpr int kRedundantRows = 8;

constexpr int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

class Model {
  public:
    Model(ModelShape shape, const Kernels& kernels, int threads, int max_rows);

    const ModelShape& shape() const { return shape_; }
    const Kernels& kernels() const { return kernels_; }
    Pool& pool() { return pool_; }
    Arena& weights() { return weights_; }
    int max_rows() const { return max_rows_; }

    // Set by the loader (binding/load.cpp), then never changed.
    std::vector<Layer> layers;
    Linear embed, head;
    const float* final_norm = nullptr;
    Linear fuse;  // of a draft head, like the next line; the norms are optional
    const float *fuse_bias = nullptr, *embed_norm = nullptr, *feature_norm = nullptr;

    // A second head over the tokens of `ids` (ascending). It lives as long as the model.
    const ReducedHead* reduce_head(std::vector<std::int32_t> ids);

    void allocate_kv(int pages, int page_size, KvType type);
    KvType kv_type() const { return kv_type_; }
    int pages() const { return pages_; }
    int page_size() const { return page_size_; }
    std::size_t page_elements(int layer) const;
    const void* page(int layer, int page) const;
    // Copies K and V of every layer from slots to slots of one sequence, all read before any write.
    void copy_kv(const std::int32_t* pages, const std::int32_t* sources,
                 const std::int32_t* targets, int count);

    // From now on every forward keeps, beside the KV of a row, the residual stream entering each of
    // `taps`, or the final norm's output for a tap equal to the number of layers.
    void keep_features(std::vector<int> taps);
    const std::vector<int>& taps() const { return taps_; }
    int kept_width() const { return static_cast<int>(taps_.size()) * shape_.hidden; }
    const float* kept(int page, int slot) const {
        return kept_base_ + (static_cast<std::size_t>(page) * page_size_ + slot) * kept_width();
    }

    // Writes KV of every row; logits of the rows asked for are left in logits().
    void forward(const Step& step, LevelSpec level);
    std::vector<Drawn> forward_sample(const Step& step, LevelSpec level,
                                      const std::vector<Sampling>& sampling);
    // `roots` has one row per sequence; sampling[b].position is that of the first token drafted.
    Draft draft(const Step& roots, const DraftRun& run, std::vector<Sampling> sampling);
    // `draft`, then `forward_sample` at `target` of the roots and what was drafted after each.
    Speculation draft_and_verify(const Step& roots, const DraftRun& run, LevelSpec target,
                                 const std::vector<Sampling>& sampling);

    // Runs layer l over rows x [M][hidden] of the residual stream in place of embedded tokens.
    void capture_layer(const Step& step, LevelSpec level, int l, const float* x,
                       const LayerRows& out);
    // A draft head's forward: the k best tokens of the logit rows, whose hidden states go to
    // hidden [R][hidden].
    Best forward_best(const Step& step, LevelSpec level, int k, float* hidden);

    const float* logits(int row) const {
        return logits_.data() + static_cast<std::size_t>(row) * logit_stride_;
    }
    std::size_t bytes_read(LevelSpec level, const ReducedHead* reduced = nullptr) const;

  private:
    // What a linear layer reads: integers, or float rows at the dense level.
    struct Input {
        Activations codes;
        float* dense = nullptr;  // [M][stride]
        std::size_t stride = 0;
    };
    struct Slice {
        int begin, end;
    };
    // What a mixer or a feed-forward adds to the residual stream: multiplier * norm(product +
    // bias).
    struct Branch {
        const float* bias;  // or null
        const float* norm;  // or null
        float multiplier;
    };
    // One attention call: what AttentionArgs points to, and the states of its queries.
    struct QueryBlock {
        AttentionArgs args;
        const float* queries[kMostQueries];
        float* states[kMostQueries];  // of one chunk
        float* folded[kMostQueries];  // of the chunks so far; plans that are not split
        int first[kMostQueries], last[kMostQueries];
        const std::int32_t* paths[kMostQueries];
    };

    void reserve(const Step& step);
    void begin_step(const Step& step);
    auto normed(const float* weight) const;
    void run_layers(LevelSpec level, int thread);
    void run_layer(int l, LevelSpec level, int thread);
    void run_mixer(int l, LevelSpec level, int thread);
    void run_feed_forward(int l, LevelSpec level, int thread);
    void run_experts(int l, LevelSpec level, int thread);
    void route_rows(int l, int thread);
    void mix_experts(int l, LevelSpec level, const Input& hidden, const Input& shared, int thread);
    Input row_input(const Linear& w, const Input& in, int row) const;
    Input rows_input(const Linear& w, const Input& in, const std::int32_t* rows, int count,
                     int thread);
    void add_branch(const Linear& w, LevelSpec level, const Input& in, const Branch& branch,
                    int thread);
    void add_normed(const Branch& branch, int thread);
    void run_head(LevelSpec level, int thread);
    void embed_rows(int thread);
    void rotary_angles(int thread);
    void capture(const float* from, std::size_t stride, int width, const Transform& t, float* to,
                 int thread) const;
    void capture_normed(const float* norm, const Transform& t, float* to, int thread) const;
    void fuse_features(LevelSpec level, int thread);
    void keep_tap(int layer, int thread);
    char* key_block(int layer, int page, int kv_head) const;  // its V block follows
    void norm_whole(const Layer& layer, const AttentionShape& s, int thread);
    float* rotated(const AttentionShape& s, int m, int head, const float* norm, float factor);
    float position_factor(const AttentionShape& s, int m) const;
    void write_kv(const Layer& layer, int index, int thread);
    const void* first_keys(int layer, const AttentionItem& item, int chunk) const;
    const AttentionPlan& plan_of(int layer) const { return plans_[shape_.order[layer]]; }
    void set_queries(const AttentionShape& s, const AttentionPlan& plan, const AttentionItem& item,
                     int thread, QueryBlock& block);
    void finish_head(int layer, int m, int h, float* state);
    void attention(int layer, int thread);
    void merge_pieces(int layer, int thread);
    template <typename Row>
    Input prepare(const Linear& linear, int rows, LevelSpec level, int thread, Row&& row);
    void linear(const Linear& w, int bits, const Input& in, int rows, const Epilogue& e, Slice s,
                int thread);
    void quantize(const PackedPlanes& w, LevelSpec level, const float* x, int row, int g0, int g1,
                  const Activations& out) const;
    void transform(const Transform& t, const float* x, int begin, int end, float* y) const;
    // What a feed-forward makes between its products, and the same as `down` reads it.
    struct Hidden {
        float* rows = nullptr;  // [M][size]
        Input input;
    };
    Slice hidden_slice(const FeedForward& inner, int size, int thread) const;
    void make_hidden(const FeedForward& inner, const FeedForwardShape& s, LevelSpec level,
                     const Input& in, int rows, Slice made, float* out, int thread);
    Input hidden_input(const Linear& down, LevelSpec level, Slice made, int rows,
                       const Hidden& hidden, int thread);
    void scale_scores(Slice part, int rows, int vocab);
    Slice slice(int panels, int unit, int thread) const;
    Input make_input(std::size_t rows);
    void sample_rows(const std::vector<Sampling>& sampling, std::vector<Drawn>& out, int thread);
    KvView kv_view(int layer) const;
    Vocabulary step_vocabulary() const {
        if (!step_.reduced) return {shape_.vocab, nullptr};
        return {static_cast<int>(step_.reduced->ids.size()), step_.reduced->ids.data()};
    }
    // The path of row m; null: a plain row.
    const std::int32_t* path_of(int m) const {
        const std::int32_t* path =
            step_.paths ? step_.paths + static_cast<std::size_t>(m) * step_.path_width : nullptr;
        return path && path[0] >= 0 ? path : nullptr;
    }

    ModelShape shape_;
    const Kernels& kernels_;
    Pool pool_;
    Arena weights_, buffers_, kv_;
    std::vector<std::unique_ptr<ReducedHead>> reduced_heads_;
    int max_rows_;
    int qkv_width_, widest_input_, logit_stride_;  // of the widest layer

    char* kv_base_ = nullptr;
    int pages_ = 0, page_size_ = 0;
    KvType kv_type_ = KvType::kF16;
    std::vector<std::size_t> kv_begin_;  // [layers] elements before the layer's pages
    std::vector<int> taps_;
    float* kept_base_ = nullptr;  // [P][S][kept_width]

    // Buffers of a step, [max_rows] rows each.
    float *x_ = nullptr, *qkv_ = nullptr, *attended_ = nullptr;
    float* branch_ = nullptr;        // where norms come after, and of experts
    std::vector<float*> cos_, sin_;  // of each rotary: [M][R/2]
    float* embedded_ = nullptr;      // draft heads
    Input shared_;
    Hidden hidden_, shared_hidden_;  // hidden_: of [M][top_k] rows where there are experts
    float *scores_ = nullptr, *gates_ = nullptr, *shares_ = nullptr;  // of experts
    std::int32_t* chosen_ = nullptr;                                  // [M][top_k]
    int score_stride_ = 0;
    struct PerThread {
        Input input;     // for steps of few rows: no barrier needed
        Input gathered;  // rows of one expert
        ExpertGroups groups;
        float* row = nullptr;            // [widest]
        float* untransformed = nullptr;  // [widest]
        std::uint8_t* panel = nullptr;   // kernel scratch
        float* scores = nullptr;
        float* states = nullptr;
        SamplingScratch sampling;
    };
    std::vector<PerThread> threads_;
    std::vector<float> partial_states_;
    std::vector<float> logits_;
    std::vector<ChunkStats> chunk_stats_;  // [R][chunks]

    Step step_;
    const LayerRows* captured_ = nullptr;  // set while a layer runs alone
    std::vector<std::int32_t> position_;   // [M]
    std::vector<std::int32_t> slot_;       // [M]
    std::vector<std::int32_t> sequence_;   // [M]
    std::vector<AttentionPlan> plans_;     // of each kind of layer
};

}  // namespace halfbyte
