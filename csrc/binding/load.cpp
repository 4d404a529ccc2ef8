// The weights of a NativeModel: every matrix and vector is checked, packed and put in its slot.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "binding/binding.h"
#include "host/machine.h"
#include "model/packing.h"

namespace halfbyte {
namespace {

// Panels of gate_up hold 16 gate rows and the 16 up rows they multiply; all are padded to whole
// panels.
template <typename Row>
void arrange(const std::string& slot, const std::vector<std::size_t>& sizes,
             std::vector<Row>& rows) {
    if (slot.ends_with("gate_up")) {
        expect(sizes.size() == 2 && sizes[0] == sizes[1], "gate_up needs two parts of one size");
        std::vector<Row> mixed;
        for (std::size_t i = 0; i < sizes[0]; i += 16)
            for (std::size_t part : {std::size_t{0}, sizes[0]})
                for (std::size_t j = 0; j < 16; ++j) mixed.push_back(rows[part + i + j]);
        rows = std::move(mixed);
    }
    while (rows.size() % kPanel) rows.push_back({});
}

const void* row_of(const AnyMatrix& matrix, std::size_t row) {
    return static_cast<const char*>(matrix.data()) + row * matrix.shape(1) * matrix.itemsize();
}

// Scales are f16 and offsets f32; with a unit both are int8.
void check_scales(const std::string& slot, std::size_t count, std::size_t groups,
                  const AnyMatrix& scale, const std::optional<AnyMatrix>& offset,
                  const std::optional<Array<float, 1>>& unit) {
    const nb::dlpack::dtype scale_type =
        unit ? nb::dtype<std::int8_t>() : nb::dtype<std::uint16_t>();
    expect(scale.dtype() == scale_type, slot + ".scale must be f16 bits, int8 with a unit");
    expect(scale.shape(0) == count && scale.shape(1) == groups,
           slot + ".scale has the wrong shape");
    if (offset) {
        expect(offset->dtype() == (unit ? nb::dtype<std::int8_t>() : nb::dtype<float>()),
               slot + ".offset must be f32, int8 with a unit");
        expect(offset->shape(0) == count && offset->shape(1) == groups,
               slot + ".offset has the wrong shape");
    }
    if (!unit) return;
    expect(unit->shape(0) == count, slot + ".unit must have one value a row");
    expect(
        std::all_of(unit->data(), unit->data() + count, [](float u) { return std::isfinite(u); }),
        slot + ".unit must be finite");
}

// The matrices of a layer that are planes, or dense at the `f32` level.
std::vector<const Linear*> stored_matrices(const Layer& l) {
    std::vector<const Linear*> all{&l.qkv, &l.o, &l.inner.gate_up, &l.inner.down};
    if (l.shared.gate_up.k()) all.insert(all.end(), {&l.shared.gate_up, &l.shared.down});
    return all;
}

const float*& layer_vector(Layer& l, const std::string& slot) {
    if (slot == "qkv_bias") return l.qkv_bias;
    if (slot == "o_bias") return l.o_bias;
    if (slot == "gate_up_bias") return l.inner.gate_up_bias;
    if (slot == "down_bias") return l.inner.down_bias;
    if (slot == "shared_gate_up_bias") return l.shared.gate_up_bias;
    if (slot == "shared_down_bias") return l.shared.down_bias;
    if (slot == "router_bias") return l.router_bias;
    if (slot == "choice_bias") return l.choice_bias;
    if (slot == "attn_norm") return l.attn_norm;
    if (slot == "mlp_norm") return l.mlp_norm;
    if (slot == "attn_norm_after") return l.attn_norm_after;
    if (slot == "mlp_norm_after") return l.mlp_norm_after;
    if (slot == "q_norm") return l.q_norm;
    if (slot == "k_norm") return l.k_norm;
    refuse("no vector named " + slot);
}

}  // namespace

NativeModel::NativeModel(const ShapeFields& shape, const std::string& tier, int threads,
                         int max_rows) {
    ModelShape checked = checked_shape(shape);
    expect(threads > 0 && threads <= kMostThreads, "threads must be 1..1024");
    expect(max_rows > 0 && max_rows <= 1 << 16, "max_rows must be 1..65536");
    const Kernels* kernels = find_kernels(tier);
    expect(kernels != nullptr, "tier " + tier + " cannot run on this processor");
    const int layers = checked.layers();
    model_ = std::make_unique<Model>(std::move(checked), *kernels, threads, max_rows);
    model_->layers.resize(layers);
}

void NativeModel::set_planes(const std::string& slot, int layer, std::vector<PlanePart> parts,
                             int group, int wide) {
    expect_open(slot);
    expect(group == 32 || group == 64 || group == 128, "group must be 32, 64 or 128");
    const auto [n, k] = expected(slot, layer);
    expect(k % group == 0, slot + ": inputs must be a multiple of the group");
    expect(wide >= 0 && wide <= k / group, slot + ": more wide groups than groups");
    const std::size_t groups = k / group, wide_bytes = static_cast<std::size_t>(wide) * group / 2;
    std::vector<PlaneRow> rows;
    std::vector<std::size_t> sizes;
    for (const auto& [hi, lo, scale, offset, unit] : parts) {
        const std::size_t count = hi.shape(0);
        expect(static_cast<int>(hi.shape(1)) == k / 2, slot + ".hi has the wrong width");
        if (lo)
            expect(lo->shape(0) == count &&
                       (lo->shape(1) == hi.shape(1) || (wide && lo->shape(1) == wide_bytes) ||
                        (!wide && lo->shape(1) == hi.shape(1) / 2)),
                   slot + ".lo has the wrong shape");
        expect(lo || !wide, slot + ".lo is missing where groups are wide");
        check_scales(slot, count, groups, scale, offset, unit);
        const std::size_t low = lo ? lo->shape(1) : 0;
        const int lo_bits = lo && !wide && low < hi.shape(1) ? 2 : 4;
        for (std::size_t r = 0; r < count; ++r)
            rows.push_back({.hi = hi.data() + r * (k / 2),
                            .lo = lo ? lo->data() + r * low : nullptr,
                            .lo_k = static_cast<int>(8 * low) / lo_bits,
                            .lo_bits = lo_bits,
                            .scale = row_of(scale, r),
                            .offset = offset ? row_of(*offset, r) : nullptr,
                            .unit = unit ? unit->data() + r : nullptr});
        sizes.push_back(count);
    }
    expect(static_cast<int>(rows.size()) == n, slot + " has the wrong number of rows");
    const PlaneRow* with_lo = nullptr;
    for (const PlaneRow& r : rows) {
        expect(!r.unit == !rows[0].unit, slot + ": all parts have a unit, or none");
        if (r.lo && !with_lo) with_lo = &r;
        expect(!r.lo || r.lo_bits == with_lo->lo_bits, slot + ": parts with lo of 2 and of 4 bits");
    }
    arrange(slot, sizes, rows);
    Linear& target = find(slot, layer);
    const Call call(mutex_);
    target.dense = false;
    target.planes = pack_planes(rows, k, group, wide, model_->weights(), model_->pool());
    finish(slot);
}

void NativeModel::set_dense(const std::string& slot, int layer, std::vector<AnyMatrix> parts,
                            const std::string& type) {
    expect_open(slot);
    const auto [n, k] = expected(slot, layer);
    expect(type == "f32" || type == "f16" || type == "bf16", "dtype must be f32, f16 or bf16");
    const PackedDense::Type t = type == "f32"   ? PackedDense::Type::kF32
                                : type == "f16" ? PackedDense::Type::kF16
                                                : PackedDense::Type::kBF16;
    const bool whole = t == PackedDense::Type::kF32;
    const auto stored = whole ? nb::dtype<float>() : nb::dtype<std::uint16_t>();
    const std::size_t width = whole ? sizeof(float) : sizeof(std::uint16_t);
    std::vector<const void*> rows;
    std::vector<std::size_t> sizes;
    for (const auto& part : parts) {
        expect(part.dtype() == stored && static_cast<int>(part.shape(1)) == k,
               slot + " has the wrong type or width");
        for (std::size_t r = 0; r < part.shape(0); ++r)
            rows.push_back(static_cast<const char*>(part.data()) + r * k * width);
        sizes.push_back(part.shape(0));
    }
    expect(static_cast<int>(rows.size()) == n, slot + " has the wrong number of rows");
    arrange(slot, sizes, rows);
    Linear& target = find(slot, layer);
    const Call call(mutex_);
    target.dense = true;
    target.matrix = pack_dense(rows, k, t, model_->weights(), model_->pool());
    finish(slot);
}

// The input of a layer's matrix is viewed as [..][core][block * stride] (kernels.h).
void NativeModel::set_rotation(const std::string& slot, int layer, Array<float, 2> matrix,
                               int block, int stride, float scale) {
    const std::lock_guard lock(mutex_);
    expect_open(slot);
    const std::size_t core = matrix.shape(0);
    expect(core > 0 && core <= 1024 && matrix.shape(1) == core, "core must be 1..1024 square");
    const bool along_row = stride == 1 && block >= 16 && block <= 1 << 20;
    const bool across = block == 1 && stride > 0 && stride % 16 == 0 && stride <= 1 << 20;
    expect((along_row && (block & (block - 1)) == 0) || across,
           "a rotation has block 16, 32, .. and stride 1, or block 1 and stride 16, 32, ..");
    expect(expected(slot, layer).second % (core * block * stride) == 0,
           slot + ": the rotation must divide the inputs");
    float* copy = model_->weights().array<float>(core * core);
    std::copy_n(matrix.data(), core * core, copy);
    layer_matrix(slot, layer).transform = {
        .rotation = {copy, static_cast<int>(core), block, stride, scale}};
}

void NativeModel::set_gather(const std::string& slot, int layer, Array<std::int32_t, 1> indices) {
    const std::lock_guard lock(mutex_);
    expect_open(slot);
    const int k = expected(slot, layer).second;
    expect(static_cast<int>(indices.shape(0)) == k, slot + ": one index an input");
    std::int32_t* copy = model_->weights().array<std::int32_t>(k);
    for (int i = 0; i < k; ++i) {
        expect(indices(i) >= 0 && indices(i) < k, slot + ": index outside the inputs");
        copy[i] = indices(i);
    }
    layer_matrix(slot, layer).transform = {.rotation = {}, .indices = copy};
}

void NativeModel::set_vector(const std::string& slot, int layer, Array<float, 1> values) {
    const std::lock_guard lock(mutex_);
    expect_open(slot);
    const ModelShape& s = model_->shape();
    const std::size_t want = expected_length(slot, layer);
    expect(values.shape(0) == want, slot + " has the wrong length");
    const float** outer = slot == "final_norm"     ? &model_->final_norm
                          : slot == "fuse_bias"    ? &model_->fuse_bias
                          : slot == "embed_norm"   ? &model_->embed_norm
                          : slot == "feature_norm" ? &model_->feature_norm
                                                   : nullptr;
    Layer& l = model_->layers.at(layer);
    if (slot == "sinks") {
        const int floats = state_floats(s.layer(layer).attention.head_dim);
        float* states = model_->weights().array<float>(want * floats);
        for (std::size_t h = 0; h < want; ++h) {
            states[h * floats] = values(h);
            states[h * floats + 1] = 1;
        }
        l.sinks = states;
        return;
    }
    // The router may have a row more than experts.
    float* copy = model_->weights().array<float>((want + kPanel) / kPanel * kPanel);
    if (slot.ends_with("gate_up_bias"))
        for (std::size_t i = 0; i < want / 2; ++i) {
            float* panel = copy + i / 16 * kPanel + i % 16;
            panel[0] = values(i);
            panel[16] = values(want / 2 + i);
        }
    else
        std::memcpy(copy, values.data(), want * sizeof(float));
    (outer ? *outer : layer_vector(l, slot)) = copy;
}

void NativeModel::allocate_kv(int pages, int page_size, const std::string& dtype) {
    expect(dtype == "f16" || dtype == "bf16" || dtype == "f32", "KV must be f16, bf16 or f32");
    expect(pages > 0 && pages <= 1 << 22, "pages must be 1..4194304");
    expect(page_size == 16 || page_size == 32 || page_size == 64 || page_size == 128 ||
               page_size == 256,
           "page_size must be 16, 32, 64, 128 or 256");
    const std::lock_guard lock(mutex_);
    expect_open("allocate_kv");
    expect_all_set();
    dense_ = true;
    for (const Layer& l : model_->layers)
        for (const Linear* w : stored_matrices(l)) dense_ = dense_ && w->dense;
    model_->allocate_kv(pages, page_size,
                        dtype == "f32"    ? KvType::kF32
                        : dtype == "bf16" ? KvType::kBF16
                                          : KvType::kF16);
}

void NativeModel::expect_open(const std::string& slot) const {
    expect(model_->pages() == 0, slot + " comes before the KV is allocated");
}

void NativeModel::expect_running() const {
    expect(model_->pages() > 0, "the weights and allocate_kv come first");
}

void NativeModel::expect_all_set() const {
    const ModelShape& s = model_->shape();
    const bool draft = s.features > 0, wide = s.wide;
    for (int i = 0; i < s.layers(); ++i) {
        const Layer& l = model_->layers[i];
        const LayerShape& kind = s.layer(i);
        const bool experts = kind.experts.count, shared = kind.experts.shared.size;
        expect(l.qkv.k() && l.o.k() && l.inner.gate_up.k() && l.inner.down.k() &&
                   (!experts || l.router.k()) &&
                   (!shared || (l.shared.gate_up.k() && l.shared.down.k())) &&
                   (!kind.norm_before || ((l.attn_norm || draft) && l.mlp_norm)) &&
                   (!kind.norm_after || (l.attn_norm_after && l.mlp_norm_after)) &&
                   (!kind.attention.whole_norm || (l.q_norm && l.k_norm)),
               "a layer's weights are not all set");
    }
    expect(model_->embed.k() && model_->head.k() && (model_->final_norm || draft),
           "embedding, head or final norm not set");
    expect(!draft || model_->fuse.k(), "a draft head's fuse matrix is not set");
    expect(!wide || (model_->embed_norm && model_->feature_norm),
           "a wide head's norms are not set");
}

bool NativeModel::has_lo() const {
    const std::vector<const Linear*> all = stored_matrices(model_->layers[0]);
    return !dense_ && std::all_of(all.begin(), all.end(),
                                  [](const Linear* w) { return w->planes.lo_k == w->planes.k; });
}

std::size_t NativeModel::memory_bytes() {
    const std::lock_guard lock(mutex_);
    return model_->weights().bytes();
}

std::pair<int, int> NativeModel::expected(const std::string& slot, int layer) const {
    const ModelShape& s = model_->shape();
    expect(layer >= 0 && layer < s.layers(), slot + ": no such layer");
    const LayerShape& kind = s.layer(layer);
    const AttentionShape& a = kind.attention;
    const ExpertsShape& e = kind.experts;
    const int experts = std::max(e.count, 1);
    if (slot == "qkv") return {a.width() + 2 * a.kv_width(), s.qkv_inputs()};
    if (slot == "fuse" && s.features) return {s.hidden, s.wide ? s.features : 2 * s.hidden};
    if (slot == "o") return {s.hidden, a.width()};
    if (slot == "gate_up") return {experts * 2 * kind.inner.size, s.hidden};
    if (slot == "down") return {experts * s.hidden, kind.inner.size};
    if (slot == "router" && e.count) return {e.count + e.shared_gate, s.hidden};
    if (slot == "shared_gate_up" && e.shared.size) return {2 * e.shared.size, s.hidden};
    if (slot == "shared_down" && e.shared.size) return {s.hidden, e.shared.size};
    if (slot == "embed") return {s.tokens(), s.hidden};
    if (slot == "head") return {s.vocab, s.hidden};
    refuse("no matrix named " + slot);
}

int NativeModel::expected_length(const std::string& slot, int layer) const {
    const ModelShape& s = model_->shape();
    expect(layer >= 0 && layer < s.layers(), slot + ": no such layer");
    expect(
        s.features > 0 || (slot != "fuse_bias" && slot != "embed_norm" && slot != "feature_norm"),
        slot + " belongs to a draft head");
    const LayerShape& kind = s.layer(layer);
    const AttentionShape& a = kind.attention;
    if (slot == "qkv_bias") return a.width() + 2 * a.kv_width();
    if (slot == "q_norm") return a.whole_norm ? a.width() : a.head_dim;
    if (slot == "k_norm") return a.whole_norm ? a.kv_width() : a.head_dim;
    if (slot == "sinks") return a.heads;
    const ExpertsShape& e = kind.experts;
    const int experts = std::max(e.count, 1);
    if (slot == "gate_up_bias") return experts * 2 * kind.inner.size;
    if (slot == "down_bias") return experts * s.hidden;
    if (slot == "shared_gate_up_bias") return 2 * e.shared.size;
    if (slot == "router_bias" || slot == "choice_bias") return e.count;
    return s.hidden;
}

Linear& NativeModel::layer_matrix(const std::string& slot, int layer) {
    expect(slot == "qkv" || slot == "o" || slot == "gate_up" || slot == "down",
           slot + " takes no transform");
    return find(slot, layer);
}

Linear& NativeModel::find(const std::string& slot, int layer) {
    if (slot == "embed") return model_->embed;
    if (slot == "head") return model_->head;
    if (slot == "fuse") return model_->fuse;
    Layer& l = model_->layers.at(layer);
    if (slot == "qkv") return l.qkv;
    if (slot == "o") return l.o;
    if (slot == "router") return l.router;
    if (slot == "shared_gate_up") return l.shared.gate_up;
    if (slot == "shared_down") return l.shared.down;
    return slot == "gate_up" ? l.inner.gate_up : l.inner.down;
}

void NativeModel::finish(const std::string& slot) {
    if (slot == "embed" && model_->shape().tied_head) model_->head = model_->embed;
}

}  // namespace halfbyte
