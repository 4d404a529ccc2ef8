// The only file that sees Python. Checks every shape, type and index before anything native runs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "machine.h"
#include "model.h"
#include "packing.h"
#include "rounding.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace halfbyte {
namespace {

template <typename T, int N>
using Array = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Result = nb::ndarray<nb::numpy, T>;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void expect(bool ok, const std::string& what) {
    if (!ok) refuse(what);
}

template <typename T>
Result<T> to_numpy(std::vector<T> values, std::vector<std::size_t> shape) {
    auto* owned = new std::vector<T>(std::move(values));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Result<T>(owned->data(), shape.size(), shape.data(), owner);
}

using PlanePart = std::tuple<Array<std::uint8_t, 2>, std::optional<Array<std::uint8_t, 2>>,
                             Array<std::uint16_t, 2>, std::optional<Array<float, 2>>>;

// starts [R + 1], ids, adds, factors, subtracts [E], mask_rows [R], masks [K][V / 32]: see
// halfbyte/runtime/protocol.py.
using AdjustmentArrays =
    std::tuple<Array<std::int32_t, 1>, Array<std::int32_t, 1>, Array<float, 1>, Array<float, 1>,
               Array<float, 1>, Array<std::int32_t, 1>, Array<std::uint32_t, 2>>;

// Loads one model. Not thread-safe: the Python side holds one lock per runtime.
class NativeModel {
  public:
    NativeModel(int vocab, int hidden, int intermediate, int layers, int heads, int kv_heads,
                int head_dim, float norm_eps, int sliding_window, bool tied_head,
                Array<float, 1> inverse_frequencies, const std::string& tier, int threads,
                int max_rows, int features, int embedding_rows, bool wide) {
        expect(vocab > 0 && layers > 0 && threads > 0 && threads <= 1024, "sizes must be positive");
        expect(hidden > 0 && hidden % 16 == 0, "hidden_size must be a multiple of 16");
        expect(intermediate > 0 && intermediate % 16 == 0,
               "intermediate_size must be a multiple of 16");
        expect(head_dim > 0 && head_dim % 16 == 0 && head_dim <= 256,
               "head_dim must be 16..256, a multiple of 16");
        expect(kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && heads / kv_heads <= 64,
               "num_heads must be a multiple of num_kv_heads, at most 64 to one");
        expect(max_rows > 0 && max_rows <= 1 << 16, "max_rows must be 1..65536");
        expect(features >= 0 && features % hidden == 0 && features / hidden <= 8 &&
                   embedding_rows >= 0 && (features > 0 || (!wide && !embedding_rows)) &&
                   (features == 0 || wide || features == hidden),
               "features must be hidden_size, or of a wide head up to 8 times that");
        expect(static_cast<int>(inverse_frequencies.shape(0)) == head_dim / 2,
               "inverse_frequencies must have head_dim / 2 values");
        const Kernels* kernels = find_kernels(tier);
        expect(kernels != nullptr, "tier " + tier + " cannot run on this processor");
        std::vector<float> frequencies(inverse_frequencies.data(),
                                       inverse_frequencies.data() + head_dim / 2);
        model_ = std::make_unique<Model>(
            ModelShape{vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, norm_eps,
                       sliding_window, tied_head, std::move(frequencies), features, embedding_rows,
                       wide},
            *kernels, threads, max_rows);
        model_->layers.resize(layers);
    }

    // The last `wide` groups need `lo` at every level; parts may have it for those alone.
    void set_planes(const std::string& slot, int layer, std::vector<PlanePart> parts, int group,
                    int wide) {
        expect(group == 32 || group == 64 || group == 128, "group must be 32, 64 or 128");
        const auto [n, k] = expected(slot);
        expect(k % group == 0, slot + ": inputs must be a multiple of the group");
        expect(wide >= 0 && wide <= k / group, slot + ": more wide groups than groups");
        const std::size_t wide_bytes = static_cast<std::size_t>(wide) * group / 2;
        std::vector<PlaneRow> rows;
        std::vector<std::size_t> sizes;
        for (const auto& [hi, lo, scale, offset] : parts) {
            const std::size_t count = hi.shape(0), groups = k / group;
            expect(static_cast<int>(hi.shape(1)) == k / 2, slot + ".hi has the wrong width");
            expect(scale.shape(0) == count && scale.shape(1) == groups,
                   slot + ".scale has the wrong shape");
            if (lo)
                expect(lo->shape(0) == count &&
                           (lo->shape(1) == hi.shape(1) || (wide && lo->shape(1) == wide_bytes)),
                       slot + ".lo has the wrong shape");
            expect(lo || !wide, slot + ".lo is missing where groups are wide");
            const std::size_t low = lo ? lo->shape(1) : 0;
            if (offset)
                expect(offset->shape(0) == count && offset->shape(1) == groups,
                       slot + ".offset has the wrong shape");
            for (std::size_t r = 0; r < count; ++r)
                rows.push_back({hi.data() + r * (k / 2), lo ? lo->data() + r * low : nullptr,
                                static_cast<int>(2 * low), scale.data() + r * groups,
                                offset ? offset->data() + r * groups : nullptr});
            sizes.push_back(count);
        }
        expect(static_cast<int>(rows.size()) == n, slot + " has the wrong number of rows");
        arrange(slot, sizes, rows);
        Linear& target = find(slot, layer);
        nb::gil_scoped_release release;
        target.dense = false;
        target.planes = pack_planes(rows, k, group, wide, model_->weights(), model_->pool());
        finish(slot);
    }

    void set_dense(
        const std::string& slot, int layer,
        std::vector<nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>> parts,
        const std::string& type) {
        const auto [n, k] = expected(slot);
        const PackedDense::Type t = type == "f32"   ? PackedDense::Type::kF32
                                    : type == "f16" ? PackedDense::Type::kF16
                                                    : PackedDense::Type::kBF16;
        const std::size_t width = t == PackedDense::Type::kF32 ? 4 : 2;
        std::vector<const void*> rows;
        std::vector<std::size_t> sizes;
        for (const auto& part : parts) {
            expect(part.itemsize() == width && static_cast<int>(part.shape(1)) == k,
                   slot + " has the wrong type or width");
            for (std::size_t r = 0; r < part.shape(0); ++r)
                rows.push_back(static_cast<const char*>(part.data()) + r * k * width);
            sizes.push_back(part.shape(0));
        }
        expect(static_cast<int>(rows.size()) == n, slot + " has the wrong number of rows");
        arrange(slot, sizes, rows);
        Linear& target = find(slot, layer);
        nb::gil_scoped_release release;
        target.dense = true;
        target.matrix = pack_dense(rows, k, t, model_->weights(), model_->pool());
        finish(slot);
    }

    // The input of a layer's matrix is viewed as [..][core][block * stride] (kernels.h).
    void set_rotation(const std::string& slot, int layer, Array<float, 2> matrix, int block,
                      int stride, float scale) {
        const std::size_t core = matrix.shape(0);
        expect(core > 0 && core <= 1024 && matrix.shape(1) == core, "core must be 1..1024 square");
        const bool along_row = stride == 1 && block >= 16 && block <= 1 << 20;
        const bool across = block == 1 && stride > 0 && stride % 16 == 0 && stride <= 1 << 20;
        expect((along_row && (block & (block - 1)) == 0) || across,
               "a rotation has block 16, 32, .. and stride 1, or block 1 and stride 16, 32, ..");
        expect(expected(slot).second % (core * block * stride) == 0,
               slot + ": the rotation must divide the inputs");
        float* copy = model_->weights().array<float>(core * core);
        std::copy_n(matrix.data(), core * core, copy);
        layer_matrix(slot, layer).transform = {
            .rotation = {copy, static_cast<int>(core), block, stride, scale}};
    }

    void set_gather(const std::string& slot, int layer, Array<std::int32_t, 1> indices) {
        const int k = expected(slot).second;
        expect(static_cast<int>(indices.shape(0)) == k, slot + ": one index an input");
        std::int32_t* copy = model_->weights().array<std::int32_t>(k);
        for (int i = 0; i < k; ++i) {
            expect(indices(i) >= 0 && indices(i) < k, slot + ": index outside the inputs");
            copy[i] = indices(i);
        }
        layer_matrix(slot, layer).transform = {.rotation = {}, .indices = copy};
    }

    void set_vector(const std::string& slot, int layer, Array<float, 1> values) {
        const ModelShape& s = model_->shape();
        const bool bias = slot == "qkv_bias";
        expect(s.features > 0 ||
                   (slot != "fuse_bias" && slot != "embed_norm" && slot != "feature_norm"),
               slot + " belongs to a draft head");
        const int want = bias ? (s.heads + 2 * s.kv_heads) * s.head_dim
                         : slot == "q_norm" || slot == "k_norm" ? s.head_dim
                                                                : s.hidden;
        expect(static_cast<int>(values.shape(0)) == want, slot + " has the wrong length");
        float* copy = model_->weights().array<float>((want + kPanel - 1) / kPanel * kPanel);
        std::memcpy(copy, values.data(), want * sizeof(float));
        const float** outer = slot == "final_norm"     ? &model_->final_norm
                              : slot == "fuse_bias"    ? &model_->fuse_bias
                              : slot == "embed_norm"   ? &model_->embed_norm
                              : slot == "feature_norm" ? &model_->feature_norm
                                                       : nullptr;
        if (outer) {
            *outer = copy;
            return;
        }
        Layer& l = model_->layers.at(layer);
        if (bias)
            l.qkv_bias = copy;
        else if (slot == "attn_norm")
            l.attn_norm = copy;
        else if (slot == "mlp_norm")
            l.mlp_norm = copy;
        else if (slot == "q_norm")
            l.q_norm = copy;
        else if (slot == "k_norm")
            l.k_norm = copy;
        else
            refuse("no vector named " + slot);
    }

    void allocate_kv(int pages, int page_size, const std::string& dtype) {
        expect(dtype == "f16" || dtype == "bf16" || dtype == "f32", "KV must be f16, bf16 or f32");
        expect(pages > 0 && pages <= 1 << 22, "pages must be 1..4194304");
        expect(page_size == 16 || page_size == 32 || page_size == 64 || page_size == 128 ||
                   page_size == 256,
               "page_size must be 16, 32, 64, 128 or 256");
        const bool draft = model_->shape().features > 0, wide = model_->shape().wide;
        for (const Layer& l : model_->layers)
            expect(l.qkv.k() && l.o.k() && l.gate_up.k() && l.down.k() && (l.attn_norm || draft) &&
                       l.mlp_norm,
                   "a layer's weights are not all set");
        expect(model_->embed.k() && model_->head.k() && (model_->final_norm || draft),
               "embedding, head or final norm not set");
        expect(!draft || model_->fuse.k(), "a draft head's fuse matrix is not set");
        expect(!wide || (model_->embed_norm && model_->feature_norm),
               "a wide head's norms are not set");
        model_->allocate_kv(pages, page_size,
                            dtype == "f32"    ? KvType::kF32
                            : dtype == "bf16" ? KvType::kBF16
                                              : KvType::kF16);
    }

    Result<float> forward(Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> row_starts,
                          Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages,
                          int weight_bits, int act_bits, int head_bits,
                          Array<std::int32_t, 1> logit_rows,
                          std::optional<Array<std::int32_t, 2>> paths) {
        const Step step = checked(tokens, row_starts, first, pages, logit_rows, paths);
        const LevelSpec level = checked_level(weight_bits, act_bits, head_bits);
        {
            nb::gil_scoped_release release;
            model_->forward(step, level);
        }
        const std::size_t V = model_->shape().vocab, R = step.num_logit_rows;
        std::vector<float> out(R * V);
        for (std::size_t r = 0; r < R; ++r) std::copy_n(model_->logits(r), V, out.data() + r * V);
        return to_numpy(std::move(out), {R, V});
    }

    std::tuple<Result<std::int32_t>, Result<float>, Result<std::int32_t>, Result<float>>
    forward_sample(Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> row_starts,
                   Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages, int weight_bits,
                   int act_bits, int head_bits, Array<std::int32_t, 1> logit_rows,
                   Array<float, 1> temperatures, Array<std::int32_t, 1> top_ks,
                   Array<float, 1> top_ps, Array<float, 1> min_ps, Array<std::uint64_t, 1> seeds,
                   Array<std::int32_t, 1> positions, std::optional<Array<std::int32_t, 2>> paths,
                   const std::optional<AdjustmentArrays>& adjustments,
                   const std::optional<Array<std::int32_t, 1>>& forced,
                   const std::optional<Array<std::int32_t, 1>>& tops) {
        const Step step = checked(tokens, row_starts, first, pages, logit_rows, paths);
        const LevelSpec level = checked_level(weight_bits, act_bits, head_bits);
        const std::size_t R = step.num_logit_rows;
        auto sampling = sampling_rows(R, temperatures, top_ks, top_ps, min_ps, seeds, positions);
        if (adjustments) adjust_rows(*adjustments, sampling);
        if (forced) force_rows(*forced, sampling);
        const std::size_t N = tops ? most_tops(*tops, R) : 0;
        std::vector<std::int32_t> top_ids(R * N, -1);
        std::vector<float> top_logprobs(R * N);
        for (std::size_t r = 0; N && r < R; ++r) {
            sampling[r].tops = (*tops)(r);
            sampling[r].top_ids = top_ids.data() + r * N;
            sampling[r].top_logprobs = top_logprobs.data() + r * N;
        }
        std::vector<Choice> chosen;
        {
            nb::gil_scoped_release release;
            chosen = model_->forward_sample(step, level, sampling);
        }
        std::vector<std::int32_t> ids(R);
        std::vector<float> logprobs(R);
        for (std::size_t r = 0; r < R; ++r) {
            ids[r] = chosen[r].token;
            logprobs[r] = chosen[r].logprob;
        }
        return {to_numpy(std::move(ids), {R}), to_numpy(std::move(logprobs), {R}),
                to_numpy(std::move(top_ids), {R, N}), to_numpy(std::move(top_logprobs), {R, N})};
    }

    std::tuple<Result<std::int32_t>, Result<std::int32_t>> draft(
        Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages,
        int weight_bits, int act_bits, int head_bits, Array<std::int32_t, 1> lengths,
        Array<float, 1> temperatures, Array<std::int32_t, 1> top_ks, Array<float, 1> top_ps,
        Array<float, 1> min_ps, Array<std::uint64_t, 1> seeds, Array<std::int32_t, 1> positions,
        const std::optional<AdjustmentArrays>& adjustments, float min_confidence, int head) {
        const std::size_t B = tokens.shape(0);
        expect(B > 0 && lengths.shape(0) == B, "draft: one length a sequence");
        int most = 0;
        for (std::size_t b = 0; b < B; ++b) {
            expect(lengths(b) >= 0 && lengths(b) <= 4096, "draft lengths must be 0..4096");
            most = std::max(most, lengths(b));
        }
        std::vector<std::int32_t> starts(B + 1);
        for (std::size_t b = 0; b <= B; ++b) starts[b] = static_cast<std::int32_t>(b);
        const std::size_t shape[1] = {B + 1};
        const Array<std::int32_t, 1> row_starts(starts.data(), 1, shape);
        const Array<std::int32_t, 1> rows(starts.data(), 1, &B);
        Step step = checked(tokens, row_starts, first, pages, rows, std::nullopt, lengths.data());
        step.reduced = reduced_head(head);
        const LevelSpec level = checked_level(weight_bits, act_bits, head_bits);
        auto sampling = sampling_rows(B, temperatures, top_ks, top_ps, min_ps, seeds, positions);
        if (adjustments) adjust_rows(*adjustments, sampling);
        Draft drafted;
        if (most == 0) {
            drafted.counts.assign(B, 0);
        } else {
            nb::gil_scoped_release release;
            drafted = model_->draft(step, level, {lengths.data(), lengths.data() + B},
                                    std::move(sampling), min_confidence);
        }
        return {to_numpy(std::move(drafted.tokens), {B, static_cast<std::size_t>(most)}),
                to_numpy(std::move(drafted.counts), {B})};
    }

    void copy_kv(Array<std::int32_t, 1> pages, Array<std::int32_t, 1> sources,
                 Array<std::int32_t, 1> targets) {
        const std::size_t count = sources.shape(0);
        expect(targets.shape(0) == count, "copy_kv: as many targets as sources");
        for (const auto* slots : {&sources, &targets})
            for (std::size_t i = 0; i < count; ++i) {
                const std::int64_t column = (*slots)(i) / model_->page_size();
                expect((*slots)(i) >= 0 && column < static_cast<std::int64_t>(pages.shape(0)) &&
                           pages(column) >= 0 && pages(column) < model_->pages(),
                       "copy_kv: a slot outside the page table");
            }
        nb::gil_scoped_release release;
        model_->copy_kv(pages.data(), sources.data(), targets.data(), static_cast<int>(count));
    }

    // x [M, hidden] -> what the layer's linears read (qkv, o, gate_up, down) and what it returns.
    std::tuple<Result<float>, Result<float>, Result<float>, Result<float>, Result<float>>
    capture_layer(int layer, Array<float, 2> x, Array<std::int32_t, 1> row_starts,
                  Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages, int weight_bits,
                  int act_bits) {
        const ModelShape& s = model_->shape();
        const std::size_t M = x.shape(0), hidden = s.hidden, inner = s.intermediate;
        const std::size_t attended = static_cast<std::size_t>(s.heads) * s.head_dim;
        expect(layer >= 0 && layer < s.layers, "capture_layer: no such layer");
        expect(x.shape(1) == hidden, "capture_layer: rows of the wrong width");
        const std::vector<std::int32_t> tokens(M, 0);
        const std::size_t none = 0;
        const Array<std::int32_t, 1> no_rows(tokens.data(), 1, &none);
        const Step step = checked(Array<std::int32_t, 1>(tokens.data(), 1, &M), row_starts, first,
                                  pages, no_rows, std::nullopt);
        const LevelSpec level = checked_level(weight_bits, act_bits, weight_bits);
        std::vector<float> qkv(M * hidden), o(M * attended), gate_up(M * hidden), down(M * inner),
            out(M * hidden);
        {
            nb::gil_scoped_release release;
            model_->capture_layer(step, level, layer, x.data(),
                                  {qkv.data(), o.data(), gate_up.data(), down.data(), out.data()});
        }
        return {to_numpy(std::move(qkv), {M, hidden}), to_numpy(std::move(o), {M, attended}),
                to_numpy(std::move(gate_up), {M, hidden}), to_numpy(std::move(down), {M, inner}),
                to_numpy(std::move(out), {M, hidden})};
    }

    // Copies are of pointers: `other` must outlive this model.
    void share(const NativeModel& other, bool with_head) {
        const Model& from = *other.model_;
        const ModelShape &s = model_->shape(), &t = from.shape();
        expect(s.hidden == t.hidden && s.tokens() == t.vocab && from.embed.k(),
               "a head reads the embedding of its own target only");
        expect(!with_head || s.vocab == t.vocab, "the target's head scores the whole vocabulary");
        model_->embed = from.embed;
        if (with_head) model_->head = from.head;
    }

    void keep_features(std::vector<int> taps) {
        expect(model_->pages() > 0, "allocate_kv comes before keep_features");
        expect(!taps.empty() && taps.size() <= 8, "1 to 8 taps");
        for (const int tap : taps)
            expect(tap >= 0 && tap <= model_->shape().layers, "a tap is 0..layers");
        model_->keep_features(std::move(taps));
    }

    Result<float> read_features(Array<std::int32_t, 1> pages, Array<std::int32_t, 1> positions) {
        const int S = model_->page_size(), W = model_->kept_width();
        expect(W > 0, "no features are kept");
        const std::size_t n = positions.shape(0);
        std::vector<float> out(n * W);
        for (std::size_t i = 0; i < n; ++i) {
            const std::int64_t column = positions(i) / S;
            expect(positions(i) >= 0 && column < static_cast<std::int64_t>(pages.shape(0)) &&
                       pages(column) >= 0 && pages(column) < model_->pages(),
                   "read_features: a position outside the page table");
            std::copy_n(model_->kept(pages(column), positions(i) % S), W, out.data() + i * W);
        }
        return to_numpy(std::move(out), {n, static_cast<std::size_t>(W)});
    }

    std::tuple<Result<std::int32_t>, Result<float>, Result<float>> forward_best(
        Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> row_starts,
        Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages, int weight_bits, int act_bits,
        int head_bits, Array<std::int32_t, 1> logit_rows,
        std::optional<Array<std::int32_t, 2>> paths, Array<float, 2> features, int k) {
        Step step = checked(tokens, row_starts, first, pages, logit_rows, paths, nullptr, true);
        const LevelSpec level = checked_level(weight_bits, act_bits, head_bits);
        const ModelShape& s = model_->shape();
        const std::size_t width = features.shape(1), R = step.num_logit_rows, H = s.hidden;
        expect(s.features > 0 && features.shape(0) == tokens.shape(0) &&
                   (width == static_cast<std::size_t>(s.features) || width == H),
               "a draft head needs the features of every row");
        expect(k > 0 && k <= s.vocab, "k must be 1..vocabulary");
        step.features = features.data();
        step.feature_width = static_cast<int>(width);
        std::vector<float> hidden(R * H);
        Best best;
        {
            nb::gil_scoped_release release;
            best = model_->forward_best(step, level, k, hidden.data());
        }
        const std::size_t count = k;
        return {to_numpy(std::move(best.tokens), {R, count}),
                to_numpy(std::move(best.logprobs), {R, count}),
                to_numpy(std::move(hidden), {R, H})};
    }

    // Raw bytes: K [Hkv, D, S * width], V [Hkv, S, D * width].
    std::tuple<Result<std::uint8_t>, Result<std::uint8_t>> read_kv(int layer, int page) {
        const ModelShape& s = model_->shape();
        expect(layer >= 0 && layer < s.layers && page >= 0 && page < model_->pages(),
               "read_kv: no such page");
        const std::size_t width = kv_bytes(model_->kv_type());
        const std::size_t H = s.kv_heads, D = s.head_dim, S = model_->page_size();
        const std::size_t half = D * S * width;
        const auto* base = static_cast<const std::uint8_t*>(model_->page(layer, page));
        std::vector<std::uint8_t> k, v;
        for (std::size_t h = 0; h < H; ++h) {
            k.insert(k.end(), base + 2 * h * half, base + (2 * h + 1) * half);
            v.insert(v.end(), base + (2 * h + 1) * half, base + (2 * h + 2) * half);
        }
        return {to_numpy(std::move(k), {H, D, S * width}),
                to_numpy(std::move(v), {H, S, D * width})};
    }

    // The number of a second head over ascending ids; 0 is the whole head.
    int reduce_head(Array<std::int32_t, 1> ids) {
        const std::size_t n = ids.shape(0);
        expect(model_->head.k() > 0, "the head is not set");
        expect(n > 0 && ids(0) >= 0 && ids(n - 1) < model_->shape().vocab,
               "reduce_head: ids of the vocabulary");
        for (std::size_t i = 1; i < n; ++i)
            expect(ids(i - 1) < ids(i), "reduce_head: ids must rise");
        std::vector<std::int32_t> copied(ids.data(), ids.data() + n);
        nb::gil_scoped_release release;
        reduced_.push_back(model_->reduce_head(std::move(copied)));
        return static_cast<int>(reduced_.size());
    }

    std::size_t bytes_read(int weight_bits, int act_bits, int head_bits, int head) {
        return model_->bytes_read(checked_level(weight_bits, act_bits, head_bits),
                                  reduced_head(head));
    }
    std::size_t memory_bytes() { return model_->weights().bytes(); }
    bool has_lo() const {
        const Layer& l = model_->layers[0];
        const auto whole = [](const Linear& w) { return w.planes.lo_k == w.planes.k; };
        return !l.qkv.dense && whole(l.qkv) && whole(l.o) && whole(l.gate_up) && whole(l.down);
    }
    bool dense() const { return model_->layers[0].qkv.dense; }

  private:
    std::pair<int, int> expected(const std::string& slot) const {
        const ModelShape& s = model_->shape();
        const int attended = s.heads * s.head_dim;
        if (slot == "qkv") return {attended + 2 * s.kv_heads * s.head_dim, s.qkv_inputs()};
        if (slot == "fuse" && s.features) return {s.hidden, s.wide ? s.features : 2 * s.hidden};
        if (slot == "o") return {s.hidden, attended};
        if (slot == "gate_up") return {2 * s.intermediate, s.hidden};
        if (slot == "down") return {s.hidden, s.intermediate};
        if (slot == "embed") return {s.tokens(), s.hidden};
        if (slot == "head") return {s.vocab, s.hidden};
        refuse("no matrix named " + slot);
    }

    Linear& layer_matrix(const std::string& slot, int layer) {
        expect(slot == "qkv" || slot == "o" || slot == "gate_up" || slot == "down",
               slot + " takes no transform");
        return find(slot, layer);
    }

    Linear& find(const std::string& slot, int layer) {
        if (slot == "embed") return model_->embed;
        if (slot == "head") return model_->head;
        if (slot == "fuse") return model_->fuse;
        Layer& l = model_->layers.at(layer);
        return slot == "qkv" ? l.qkv : slot == "o" ? l.o : slot == "gate_up" ? l.gate_up : l.down;
    }

    void finish(const std::string& slot) {
        if (slot == "embed" && model_->shape().tied_head) model_->head = model_->embed;
    }

    // Panels of gate_up hold 16 gate rows and the 16 up rows they multiply; all are padded to whole
    // panels.
    template <typename Row>
    static void arrange(const std::string& slot, const std::vector<std::size_t>& sizes,
                        std::vector<Row>& rows) {
        if (slot == "gate_up") {
            expect(sizes.size() == 2 && sizes[0] == sizes[1],
                   "gate_up needs two parts of one size");
            std::vector<Row> mixed;
            for (std::size_t i = 0; i < sizes[0]; i += 16)
                for (std::size_t part : {std::size_t{0}, sizes[0]})
                    for (std::size_t j = 0; j < 16; ++j) mixed.push_back(rows[part + i + j]);
            rows = std::move(mixed);
        }
        while (rows.size() % kPanel) rows.push_back({});
    }

    // forwards[b]: steps of one row that sequence b goes on for (a draft); null: this one only.
    Step checked(const Array<std::int32_t, 1>& tokens, const Array<std::int32_t, 1>& row_starts,
                 const Array<std::int32_t, 1>& first, const Array<std::int32_t, 2>& pages,
                 const Array<std::int32_t, 1>& logit_rows,
                 const std::optional<Array<std::int32_t, 2>>& paths,
                 const std::int32_t* forwards = nullptr, bool head = false) const {
        const std::size_t M = tokens.shape(0), B = first.shape(0);
        expect(model_->pages() > 0, "allocate_kv comes before forward");
        expect(model_->shape().features == 0 || head, "a draft head runs forward_best only");
        expect(M > 0 && M <= static_cast<std::size_t>(model_->max_rows()),
               "rows must be 1..max_rows");
        expect(row_starts.shape(0) == B + 1 && pages.shape(0) == B && row_starts(0) == 0 &&
                   row_starts(B) == static_cast<std::int32_t>(M),
               "row_starts must run from 0 to M over B sequences");
        for (std::size_t m = 0; m < M; ++m)
            expect(tokens(m) >= 0 && tokens(m) < model_->shape().tokens(),
                   "token id outside the vocabulary");
        expect(!paths || (paths->shape(0) == M && paths->shape(1) > 0), "paths must be [M, W]");
        for (std::size_t b = 0; b < B; ++b) {
            const std::int64_t rows = row_starts(b + 1) - row_starts(b);
            expect(rows > 0 && first(b) >= 0, "every sequence needs rows and a position");
            std::int64_t beyond = 0, last = first(b) + (forwards ? forwards[b] : rows) - 1;
            if (paths && checked_paths(*paths, row_starts(b), row_starts(b + 1), beyond))
                last = first(b) + beyond;
            const std::int64_t columns = last < 0 ? 0 : last / model_->page_size() + 1;
            expect(columns <= static_cast<std::int64_t>(pages.shape(1)),
                   "page table too short for the positions");
            for (std::int64_t c = 0; c < columns; ++c)
                expect(pages(b, c) >= 0 && pages(b, c) < model_->pages(),
                       "page table names no page");
        }
        for (std::size_t r = 0; r < logit_rows.shape(0); ++r)
            expect(logit_rows(r) >= 0 && logit_rows(r) < static_cast<std::int32_t>(M),
                   "logit row outside the step");
        return {static_cast<int>(M),
                static_cast<int>(B),
                tokens.data(),
                row_starts.data(),
                first.data(),
                pages.data(),
                static_cast<int>(pages.shape(1)),
                logit_rows.data(),
                static_cast<int>(logit_rows.shape(0)),
                paths ? paths->data() : nullptr,
                paths ? static_cast<int>(paths->shape(1)) : 0};
    }

    // Whether rows [begin, end), all of one sequence, are a tree; `last`: its last slot past base.
    static bool checked_paths(const Array<std::int32_t, 2>& paths, std::int64_t begin,
                              std::int64_t end, std::int64_t& last) {
        std::vector<std::int32_t> own;
        for (std::int64_t m = begin; m < end; ++m) {
            std::size_t length = 0;
            for (; length < paths.shape(1) && paths(m, length) >= 0; ++length)
                last = std::max<std::int64_t>(last, paths(m, length));
            if (length > 0) own.push_back(paths(m, length - 1));
        }
        expect(own.empty() || static_cast<std::int64_t>(own.size()) == end - begin,
               "either every row of a sequence has a path or none");
        std::sort(own.begin(), own.end());
        expect(std::adjacent_find(own.begin(), own.end()) == own.end(),
               "two rows of a tree share a slot");
        return !own.empty();
    }

    const ReducedHead* reduced_head(int number) const {
        expect(number >= 0 && number <= static_cast<int>(reduced_.size()), "no such head");
        return number ? reduced_[number - 1] : nullptr;
    }

    LevelSpec checked_level(int weight_bits, int act_bits, int head_bits) const {
        const bool dense = model_->layers[0].qkv.dense;
        expect(dense == (weight_bits == 32), "f32 needs dense weights, the other levels planes");
        expect(dense || weight_bits == 4 || (weight_bits == 8 && has_lo()),
               "this model has no planes for that level");
        expect(act_bits == 4 || act_bits == 8 || act_bits == 16 || act_bits == 32,
               "act_bits must be 4, 8, 16 or 32");
        return {weight_bits, act_bits, head_bits};
    }

    static std::vector<SamplingRow> sampling_rows(
        std::size_t R, const Array<float, 1>& temperatures, const Array<std::int32_t, 1>& top_ks,
        const Array<float, 1>& top_ps, const Array<float, 1>& min_ps,
        const Array<std::uint64_t, 1>& seeds, const Array<std::int32_t, 1>& positions) {
        expect(temperatures.shape(0) == R && top_ks.shape(0) == R && top_ps.shape(0) == R &&
                   min_ps.shape(0) == R && seeds.shape(0) == R && positions.shape(0) == R,
               "sampling needs one entry a row");
        std::vector<SamplingRow> rows(R);
        for (std::size_t r = 0; r < R; ++r)
            rows[r] = {temperatures(r), top_ks(r), top_ps(r), min_ps(r), seeds(r), positions(r)};
        return rows;
    }

    void adjust_rows(const AdjustmentArrays& arrays, std::vector<SamplingRow>& rows) const {
        const auto& [starts, ids, adds, factors, subtracts, mask_rows, masks] = arrays;
        const std::size_t R = rows.size(), E = ids.shape(0), K = masks.shape(0);
        const std::size_t vocab = model_->shape().vocab, words = (vocab + 31) / 32;
        expect(starts.shape(0) == R + 1 && mask_rows.shape(0) == R, "adjustments: one entry a row");
        expect(adds.shape(0) == E && factors.shape(0) == E && subtracts.shape(0) == E,
               "adjustments: one value of each kind for each id");
        expect(starts(0) == 0 && starts(R) == static_cast<std::int32_t>(E),
               "adjustments: starts must run from 0 to the number of ids");
        expect(K == 0 || masks.shape(1) == words, "masks: one bit a token");
        for (std::size_t e = 0; e < E; ++e)
            expect(ids(e) >= 0 && static_cast<std::size_t>(ids(e)) < vocab && factors(e) > 0.0f,
                   "adjustments: token id outside the vocabulary, or a factor that is not above 0");
        for (std::size_t r = 0; r < R; ++r) {
            expect(starts(r) <= starts(r + 1), "adjustments: starts must not fall");
            const std::size_t at = starts(r);
            rows[r].adjust = {ids.data() + at,
                              adds.data() + at,
                              factors.data() + at,
                              subtracts.data() + at,
                              static_cast<std::size_t>(starts(r + 1) - starts(r)),
                              nullptr};
            if (mask_rows(r) < 0) continue;
            expect(static_cast<std::size_t>(mask_rows(r)) < K, "mask_rows names no mask");
            rows[r].adjust.mask = masks.data() + mask_rows(r) * words;
            expect(allows_any(rows[r].adjust.mask, vocab), "a mask allows no token");
        }
    }

    static bool allows_any(const std::uint32_t* mask, std::size_t vocab) {
        for (std::size_t w = 0; w < vocab / 32; ++w)
            if (mask[w]) return true;
        return vocab % 32 && (mask[vocab / 32] & ((1u << vocab % 32) - 1));
    }

    void force_rows(const Array<std::int32_t, 1>& forced, std::vector<SamplingRow>& rows) const {
        expect(forced.shape(0) == rows.size(), "forced: one entry a row");
        for (std::size_t r = 0; r < rows.size(); ++r) {
            expect(forced(r) < model_->shape().vocab, "forced token outside the vocabulary");
            rows[r].forced = forced(r);
        }
    }

    std::size_t most_tops(const Array<std::int32_t, 1>& tops, std::size_t rows) const {
        expect(tops.shape(0) == rows, "tops: one entry a row");
        std::int32_t most = 0;
        for (std::size_t r = 0; r < rows; ++r) {
            expect(tops(r) >= 0 && tops(r) <= model_->shape().vocab, "tops must be 0..vocabulary");
            most = std::max(most, tops(r));
        }
        return most;
    }

    std::unique_ptr<Model> model_;
    std::vector<const ReducedHead*> reduced_;
};

// One group of inputs rounded with every scale; see rounding.h for the shapes.
std::tuple<Result<std::int16_t>, Result<float>, Result<float>> round_group_of(
    Array<float, 2> weights, Array<float, 3> goals, Array<float, 2> feed, Array<float, 1> costs,
    Array<float, 3> scales, float lo_weight) {
    const std::size_t G = weights.shape(0), n = weights.shape(1), levels = goals.shape(0);
    expect(G > 0 && G <= kMostRoundingInputs && n > 0 && n < 1 << 30, "a group has 1..128 inputs");
    expect((levels == 1 || levels == 2) && goals.shape(1) == G && goals.shape(2) == n,
           "goals must be [1 or 2, inputs, rows]");
    expect(feed.shape(0) == G && feed.shape(1) == G && costs.shape(0) == G,
           "feed and costs must be those of the group");
    expect(scales.shape(0) > 0 && scales.shape(0) < 1024 && scales.shape(2) == n &&
               (scales.shape(1) == 1 || scales.shape(1) == G),
           "scales must be [candidates, 1 or inputs, rows]");
    std::vector<std::int16_t> codes(G * n);
    std::vector<float> scale(n), errors(levels * G * n);
    {
        nb::gil_scoped_release release;
        round_group({static_cast<int>(G), static_cast<int>(n), static_cast<int>(levels),
                     static_cast<int>(scales.shape(0)), static_cast<int>(scales.shape(1)),
                     weights.data(), goals.data(), feed.data(), costs.data(), scales.data(),
                     lo_weight, codes.data(), scale.data(), errors.data()});
    }
    return {to_numpy(std::move(codes), {G, n}), to_numpy(std::move(scale), {n}),
            to_numpy(std::move(errors), {levels, G, n})};
}

}  // namespace
}  // namespace halfbyte

NB_MODULE(_native, m) {
    using namespace halfbyte;
    m.def("tiers", &available_tiers);
    m.def("physical_cores", &physical_cores);
    m.def("read_bandwidth", &read_bandwidth, "threads"_a, "bytes"_a,
          nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "linear_rate",
        [](int threads, const std::string& tier) {
            const Kernels* kernels = find_kernels(tier);
            if (!kernels)
                throw std::invalid_argument("tier " + tier + " cannot run on this processor");
            nb::gil_scoped_release release;
            return linear_rate(threads, *kernels);
        },
        "threads"_a, "tier"_a);
    m.def("round_group", &round_group_of, "weights"_a, "goals"_a, "feed"_a, "costs"_a, "scales"_a,
          "lo_weight"_a);
    nb::class_<NativeModel>(m, "NativeModel")
        .def(nb::init<int, int, int, int, int, int, int, float, int, bool, Array<float, 1>,
                      const std::string&, int, int, int, int, bool>(),
             "vocab"_a, "hidden"_a, "intermediate"_a, "layers"_a, "heads"_a, "kv_heads"_a,
             "head_dim"_a, "norm_eps"_a, "sliding_window"_a, "tied_head"_a, "inverse_frequencies"_a,
             "tier"_a, "threads"_a, "max_rows"_a, "features"_a = 0, "embedding_rows"_a = 0,
             "wide"_a = false)
        .def("set_planes", &NativeModel::set_planes, "slot"_a, "layer"_a, "parts"_a, "group"_a,
             "wide"_a)
        .def("set_rotation", &NativeModel::set_rotation, "slot"_a, "layer"_a, "matrix"_a, "block"_a,
             "stride"_a, "scale"_a)
        .def("set_gather", &NativeModel::set_gather, "slot"_a, "layer"_a, "indices"_a)
        .def("set_dense", &NativeModel::set_dense, "slot"_a, "layer"_a, "parts"_a, "dtype"_a)
        .def("set_vector", &NativeModel::set_vector, "slot"_a, "layer"_a, "values"_a)
        .def("allocate_kv", &NativeModel::allocate_kv, "pages"_a, "page_size"_a, "dtype"_a)
        .def("forward", &NativeModel::forward)
        .def("forward_sample", &NativeModel::forward_sample)
        .def("draft", &NativeModel::draft)
        .def("copy_kv", &NativeModel::copy_kv)
        .def("capture_layer", &NativeModel::capture_layer)
        .def("share", &NativeModel::share, nb::keep_alive<1, 2>(), "other"_a, "with_head"_a)
        .def("keep_features", &NativeModel::keep_features)
        .def("read_features", &NativeModel::read_features)
        .def("forward_best", &NativeModel::forward_best)
        .def("read_kv", &NativeModel::read_kv, "layer"_a, "page"_a)
        .def("reduce_head", &NativeModel::reduce_head)
        .def("bytes_read", &NativeModel::bytes_read, "weight_bits"_a, "act_bits"_a, "head_bits"_a,
             "head"_a = 0)
        .def("memory_bytes", &NativeModel::memory_bytes)
        .def_prop_ro("has_lo", &NativeModel::has_lo)
        .def_prop_ro("dense", &NativeModel::dense);
}
