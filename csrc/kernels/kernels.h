// The kernels of one ISA tier. Every tier fills this table; the model calls through it and never
// knows the tier. Letters: M rows, K inputs, N outputs, G group, D head size, S page size.
#pragma once
#include <cstddef>
#include <cstdint>

namespace halfbyte {

// clang-format off
constexpr int kPanel = 32;            // output rows of a packed panel: two tiles of 16
constexpr int kAttentionChunk = 256;  // positions reduced together; part of the numbers, docs/numerics.md
constexpr int kRowBlock = 8;          // rows that share one pass over K and V
constexpr int kMostGroup = 64;        // query heads that share a KV head
constexpr int kMostHeadDim = 512;
constexpr int kMostQueries = kRowBlock * kMostGroup;  // of one attention call
constexpr int kLogitChunk = 1024;     // vocabulary entries reduced together, likewise
// clang-format on

// How scales and offsets are stored: as f16 and f32, or both as int8, counted in a unit of the row.
enum class Scales { kF16, kF16Offset, kInt8, kInt8Offset };
constexpr bool has_offset(Scales s) { return s == Scales::kF16Offset || s == Scales::kInt8Offset; }
constexpr bool has_unit(Scales s) { return s == Scales::kInt8 || s == Scales::kInt8Offset; }
constexpr int kOffsetStep = 8;  // units that an int8 offset counts in

// A quantized matrix in the runtime's order. Panel p holds outputs 32p .. 32p+31; for each 8 inputs
// it has 128 bytes, and byte (tile*64 + 4*row + j) holds input j of the 8 in its low nibble and
// input 4+j in its high nibble:
//
//     inputs k .. k+7          tile 0: rows 0..15            tile 1: rows 16..31
//     [ r0: 0|4 1|5 2|6 3|7 ][ r1: ... ] ... [ r15 ] [ r16 ] ... [ r31 ]
//
// So a 64-byte register is 16 outputs x 4 inputs after one AND or shift, and nothing is summed
// across lanes.
//
// `lo` is there for the last `lo_k` inputs of a row: all, none, or those of the last `wide` groups,
// which run with both planes at every level. Where it has all and none is wide, it may be stored as
// pairs of bits (`lo_bits` 2), the upper two of nibbles whose others are zero. A byte then holds
// those of the bytes at its place in two blocks of 8 inputs, [N/32][K/16][128]:
//
//     bits     7 6              5 4              3 2              1 0
//     holds    even block 4+j   odd block 4+j    even block j     odd block j
struct PackedPlanes {
    const std::uint8_t* hi = nullptr;  // [N/32][K/8][128]
    const std::uint8_t* lo = nullptr;  // [N/32][lo_k/8][128], or null
    const void* scale = nullptr;       // [N/32][K/G][32], as `scales()` says
    const void* offset = nullptr;      // [N/32][K/G][32], likewise, or null
    const float* unit = nullptr;       // [N/32][32] with int8 scales, or null
    int n = 0, k = 0, group = 0;       // n is a multiple of 32 (padded with zero scales)
    int lo_k = 0, lo_bits = 4, wide = 0;

    // Weight bits that groups which are not wide have at a level of `level_bits`.
    int bits(int level_bits) const { return lo_k == k ? level_bits : 4; }
    int first_wide() const { return k / group - wide; }
    // Bytes of a panel's `lo`.
    std::size_t lo_panel() const { return static_cast<std::size_t>(lo_k) * kPanel * lo_bits / 8; }
    // Bytes of a scale and of an offset.
    int scale_width() const { return unit ? 1 : 2; }
    int offset_width() const { return unit ? 1 : 4; }
    Scales scales() const {
        if (unit) return offset ? Scales::kInt8Offset : Scales::kInt8;
        return offset ? Scales::kF16Offset : Scales::kF16;
    }
};

// Dense weights: panel p, input k: 32 values.
struct PackedDense {
    enum class Type { kF32, kF16, kBF16 };
    const void* values = nullptr;  // [N/32][K][32]
    Type type = Type::kF32;
    int n = 0, k = 0;
};

// Quantized activations of M rows.
struct Activations {
    std::int8_t* codes = nullptr;  // [M][planes][K]; with two planes: 256 * plane 0 + plane 1
    float* scale = nullptr;        // [M][K/G], already times 1/16 when the weights are 8-bit codes
    float* sum = nullptr;          // [M][K/G]: xs * sum of codes, for offsets
    std::int32_t* bias = nullptr;  // [M][K/G]: -(code offset) * sum of codes
    int planes = 1;
};

// Calls f.template operator()<X, F>() with the activation planes and the kind of scales as
// constants.
template <typename Product>
void with_operands(const PackedPlanes& w, const Activations& x, Product&& f) {
    const auto with_scales = [&]<Scales F>() {
        return x.planes == 2 ? f.template operator()<2, F>() : f.template operator()<1, F>();
    };
    switch (w.scales()) {
        case Scales::kF16:
            return with_scales.template operator()<Scales::kF16>();
        case Scales::kF16Offset:
            return with_scales.template operator()<Scales::kF16Offset>();
        case Scales::kInt8:
            return with_scales.template operator()<Scales::kInt8>();
        case Scales::kInt8Offset:
            return with_scales.template operator()<Scales::kInt8Offset>();
    }
}

// act(gate) * up: g sigmoid(g) u, gelu(g) u in its tanh form, or g sigmoid(1.702 g) (u + 1) with g
// at most a limit and u within it.
enum class Activation { kSilu, kGeluTanh, kClampedSwiglu };

// What is done with the outputs of a panel, each a product and its bias.
struct Epilogue {
    enum class Kind {
        kStore,  // out = value
        kAdd,    // out += factor * value
        kMix,    // out = fma(share of the row, value, out), in the row of `out` that `rows` names
        kGated   // out = activation(tile 0, tile 1), half as wide
    };
    Kind kind = Kind::kStore;
    const float* bias = nullptr;  // [N] in the order of the panels, or null
    float* out = nullptr;         // [M][stride]
    std::size_t stride = 0;
    float factor = 1.0f;
    Activation activation = Activation::kSilu;
    float limit = 0.0f;                  // of kClampedSwiglu
    const std::int32_t* rows = nullptr;  // [M] of kMix; null: row m is its own
    const float* shares = nullptr;       // [M] of kMix; null: all 1
};

// Input viewed as [..][core][block * stride], times (C (x) H_block) * scale
// (formats/transforms.py).
struct Rotation {
    const float* matrix = nullptr;  // [core][core]
    int core = 0, block = 1, stride = 1;
    float scale = 1.0f;
};

// What is done to a layer's input before the product: a rotation, a gather or nothing.
struct Transform {
    Rotation rotation;                      // core 0: none
    const std::int32_t* indices = nullptr;  // [K] input j of the product is input indices[j]
    explicit operator bool() const { return rotation.core > 0 || indices; }
    // Outputs that are made together.
    int unit() const { return indices ? 16 : rotation.block * rotation.stride; }
};

enum class KvType { kF16, kBF16, kF32 };
constexpr int kv_bytes(KvType type) { return type == KvType::kF32 ? 4 : 2; }

struct KvView {
    const void* base = nullptr;   // this layer: [P][Hkv][ K: D*S | V: S*D ]
    std::size_t page_stride = 0;  // in elements
    int page_size = 0;
    KvType type = KvType::kF16;
};

struct AttentionArgs {
    KvView kv;
    const std::int32_t* pages = nullptr;  // of the sequence
    int kv_head = 0, head_dim = 0;
    int queries = 0;                  // rows * heads of the KV head's group
    const float* const* q = nullptr;  // [queries] -> [D], scaled
    const int* first = nullptr;       // [queries] first and last position attended to
    const int* last = nullptr;
    // Rows of a token tree: position base + j of query i stands in slot base + paths[i][j].
    const std::int32_t* const* paths = nullptr;  // [queries]; null: every position is its own slot
    int base = 0;
    float softcap = 0;            // scores become cap * tanh(score / cap); 0: they stay
    const void* after = nullptr;  // block of KV that is read next, fetched ahead; or null
};

// State of one query's online softmax, D + 2 floats: [max, sum, o_0 .. o_{D-1}], o not yet divided
// by sum.
constexpr int state_floats(int head_dim) { return head_dim + 2; }

struct Kernels {
    const char* name;

    // Panels [p0, p1) of out = x W^T. bits: 4 or 8, of groups not wide. scratch: K * 32 bytes,
    // 64-byte aligned.
    void (*linear)(const PackedPlanes& w, int bits, const Activations& x, int rows,
                   const Epilogue& epilogue, int p0, int p1, std::uint8_t* scratch);
    void (*linear_dense)(const PackedDense& w, const float* x, std::size_t x_stride, int rows,
                         const Epilogue& epilogue, int p0, int p1);
    // y = x / rms(x) * weight; K a multiple of 16.
    void (*rmsnorm)(const float* x, const float* weight, float eps, int k, float* y);
    // Quantizes groups [g0, g1) of one row. act_bits 4, 8 or 16; weight_bits tells scale and bias.
    void (*quantize)(const float* x, int k, int group, int act_bits, int weight_bits, int row,
                     int g0, int g1, const Activations& out);
    // Blocks [begin, end) of block * stride floats of a rotated row; x, y: the row's beginning.
    void (*rotate)(const float* x, const Rotation& r, int begin, int end, float* y);
    // Rotates one head in place by (cos, sin) [D/2] and multiplies by `factor`.
    void (*rope)(float* x, const float* cos, const float* sin, int head_dim, float factor);
    // x -> KV elements.
    void (*narrow)(const float* x, int count, KvType type, void* out);
    // One chunk of positions [c0, c1) for all queries, the state of query i at states[i].
    // A query with no position in the chunk gets max = -inf, sum = 0 and zeros.
    // scratch: queries * kAttentionChunk floats, twice that with paths.
    void (*attend)(const AttentionArgs& a, int c0, int c1, float* const* states, float* scratch);
    // into = merge(into, from): the earlier chunk first.
    void (*merge)(float* into, const float* from, int head_dim);
    // out = o / sum.
    void (*finish)(const float* state, int head_dim, float* out);
    // x = x * factor, then cap * tanh(x / cap) unless cap is 0.
    void (*scale_logits)(float* x, int count, float factor, float cap);
    // Largest logit (lowest index on a tie), and the sum of exp(logit - max), of `count` logits.
    void (*softmax_stats)(const float* logits, int count, int* argmax, float* max, float* sum);
};

const Kernels& kernels_scalar();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_amx();

}  // namespace halfbyte
