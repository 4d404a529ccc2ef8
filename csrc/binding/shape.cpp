// What Python says of a model's shape, checked.
#include <cmath>

#include "binding/binding.h"

namespace halfbyte {
namespace {

Activation activation_of(const std::string& name) {
    if (name == "silu") return Activation::kSilu;
    if (name == "gelu-tanh") return Activation::kGeluTanh;
    if (name == "clamped-swiglu") return Activation::kClampedSwiglu;
    refuse("no activation named " + name);
}

bool finite_at_least_0(float x) { return std::isfinite(x) && x >= 0; }

Rotary checked_rotary(const RotaryFields& f) {
    const std::size_t pairs = f.inverse_frequencies.shape(0);
    expect(pairs > 0 && pairs <= kMostHeadDim / 2, "a rotary turns 1..256 pairs");
    const float* first = f.inverse_frequencies.data();
    return {{first, first + pairs}, f.factor};
}

ExpertsShape checked_experts(const LayerFields& f) {
    if (!f.experts) return {};
    expect(f.experts > 0 && f.experts <= 1 << 12, "experts must be at most 4096");
    expect(f.top_k > 0 && f.top_k <= f.experts, "top_k must be 1..experts");
    expect(f.shared_size >= 0 && f.shared_size % 16 == 0 && f.shared_size <= 1 << 20,
           "a shared expert's size must be a multiple of 16, at most 1048576");
    expect(!f.shared_gate || f.shared_size, "a gate of no shared expert");
    return {.count = f.experts,
            .top_k = f.top_k,
            .sigmoid = f.sigmoid,
            .normalized = f.normalized,
            .scale = f.routing_scale,
            .shared = {f.shared_size, activation_of(f.shared_activation), f.shared_limit},
            .shared_gate = f.shared_gate};
}

LayerShape checked_layer(const LayerFields& f, const std::vector<Rotary>& rotaries) {
    expect(f.head_dim > 0 && f.head_dim % 16 == 0 && f.head_dim <= kMostHeadDim,
           "head_dim must be 16..512, a multiple of 16");
    expect(f.kv_heads > 0 && f.heads > 0 && f.heads <= 1 << 10 && f.heads % f.kv_heads == 0 &&
               f.heads / f.kv_heads <= kMostGroup,
           "num_heads must be a multiple of num_kv_heads, at most 64 to one, at most 1024");
    expect(f.heads * f.head_dim <= 1 << 18, "heads must be at most 262144 wide together");
    expect(f.window >= 0, "window must be a number of positions, or 0");
    expect(f.rotary >= -1 && f.rotary < static_cast<int>(rotaries.size()), "no such rotary");
    expect(f.rotary < 0 || 2 * rotaries[f.rotary].pairs() <= f.head_dim,
           "a rotary turns more than a head");
    expect(finite_at_least_0(f.softcap), "softcap must be at least 0");
    expect(finite_at_least_0(f.position_scale) && f.original_context > 0,
           "position_scale must be at least 0, of a context of 1 or more");
    expect(f.size > 0 && f.size % 16 == 0 && f.size <= 1 << 20,
           "a feed-forward's size must be a multiple of 16, at most 1048576");
    return {.attention = {.heads = f.heads,
                          .kv_heads = f.kv_heads,
                          .head_dim = f.head_dim,
                          .window = f.window,
                          .rotary = f.rotary,
                          .scale = f.scale,
                          .softcap = f.softcap,
                          .whole_norm = f.whole_norm,
                          .position_scale = f.position_scale,
                          .original_context = f.original_context},
            .inner = {f.size, activation_of(f.activation), f.limit},
            .experts = checked_experts(f),
            .norm_before = f.norm_before,
            .norm_after = f.norm_after,
            .residual_multiplier = f.residual_multiplier};
}

}  // namespace

// The bounds are far above any model's, and keep every product of sizes below 2^63.
ModelShape checked_shape(const ShapeFields& f) {
    expect(f.vocab > 0 && f.vocab <= 1 << 24, "vocab must be 1..16777216");
    expect(f.hidden > 0 && f.hidden % 16 == 0 && f.hidden <= 1 << 18,
           "hidden_size must be a multiple of 16, at most 262144");
    expect(!f.order.empty() && f.order.size() <= 1 << 12, "layers must be 1..4096");
    expect(!f.kinds.empty() && f.kinds.size() <= 64, "kinds of layers must be 1..64");
    for (const int kind : f.order)
        expect(kind >= 0 && kind < static_cast<int>(f.kinds.size()), "no such kind of layer");
    expect(f.embedding_rows >= 0 && f.embedding_rows <= 1 << 24,
           "embedding_rows must be 0..16777216");
    expect(f.features >= 0 && f.features % f.hidden == 0 && f.features / f.hidden <= 8 &&
               (f.features > 0 || (!f.wide && !f.embedding_rows)) &&
               (f.features == 0 || f.wide || f.features == f.hidden),
           "features must be hidden_size, or of a wide head up to 8 times that");
    expect(finite_at_least_0(f.logit_softcap), "logit_softcap must be at least 0");
    ModelShape shape{.vocab = f.vocab,
                     .hidden = f.hidden,
                     .norm_eps = f.norm_eps,
                     .tied_head = f.tied_head,
                     .embedding_multiplier = f.embedding_multiplier,
                     .logit_multiplier = f.logit_multiplier,
                     .logit_softcap = f.logit_softcap,
                     .kinds = {},
                     .order = f.order,
                     .rotaries = {},
                     .features = f.features,
                     .embedding_rows = f.embedding_rows,
                     .wide = f.wide};
    for (const RotaryFields& rotary : f.rotaries) shape.rotaries.push_back(checked_rotary(rotary));
    for (const LayerFields& kind : f.kinds) {
        expect(!kind.experts || f.hidden % kPanel == 0,
               "experts need a hidden_size that is a multiple of 32");
        expect(std::int64_t{kind.experts} * kind.size <= 1 << 24 &&
                   std::int64_t{kind.experts} * f.hidden <= 1 << 24,
               "experts have at most 16777216 rows together");
        shape.kinds.push_back(checked_layer(kind, shape.rotaries));
    }
    return shape;
}

}  // namespace halfbyte
