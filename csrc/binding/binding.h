// What the files that see Python (binding/) share. They check every shape, type and index
// before anything native runs.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "binding/array.h"
#include "binding/call.h"
#include "binding/fields.h"
#include "model/model.h"

namespace halfbyte {

template <typename T>
using Result = nb::ndarray<nb::numpy, T>;

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument(what); }

inline void expect(bool ok, const std::string& what) {
    if (!ok) refuse(what);
}

template <typename T>
Result<T> to_numpy(std::vector<T> values, std::vector<std::size_t> shape) {
    auto* owned = new std::vector<T>(std::move(values));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Result<T>(owned->data(), shape.size(), shape.data(), owner);
}

// hi, lo, scale (f16 as its uint16 bits, or int8), offset (f32, or int8), unit [N].
using PlanePart = std::tuple<Array<std::uint8_t, 2>, std::optional<Array<std::uint8_t, 2>>,
                             AnyMatrix, std::optional<AnyMatrix>, std::optional<Array<float, 1>>>;

// Adjustments, Batch and DraftRun of halfbyte/runtime/protocol.py, which say what the arrays are.
struct AdjustmentArrays {
    Array<std::int32_t, 1> starts, ids;
    Array<float, 1> adds, factors, subtracts;
    Array<std::int32_t, 1> mask_rows;
    Array<std::uint32_t, 2> masks;
    static constexpr std::tuple kFields{std::pair{"starts", &AdjustmentArrays::starts},
                                        std::pair{"ids", &AdjustmentArrays::ids},
                                        std::pair{"adds", &AdjustmentArrays::adds},
                                        std::pair{"factors", &AdjustmentArrays::factors},
                                        std::pair{"subtracts", &AdjustmentArrays::subtracts},
                                        std::pair{"mask_rows", &AdjustmentArrays::mask_rows},
                                        std::pair{"masks", &AdjustmentArrays::masks}};
};

struct BatchArrays {
    Array<std::int32_t, 1> tokens, row_starts, first_positions;
    Array<std::int32_t, 2> page_tables;
    std::optional<Array<std::int32_t, 2>> paths;
    static constexpr std::tuple kFields{std::pair{"tokens", &BatchArrays::tokens},
                                        std::pair{"row_starts", &BatchArrays::row_starts},
                                        std::pair{"first_positions", &BatchArrays::first_positions},
                                        std::pair{"page_tables", &BatchArrays::page_tables},
                                        std::pair{"paths", &BatchArrays::paths}};
};

struct DraftArrays {
    Array<std::int32_t, 1> lengths;
    float min_confidence = 0;
    int head = 0;
    static constexpr std::tuple kFields{std::pair{"lengths", &DraftArrays::lengths},
                                        std::pair{"min_confidence", &DraftArrays::min_confidence},
                                        std::pair{"head", &DraftArrays::head}};
};

// CoreRotary, CoreLayer and CoreShape of halfbyte/runtime/native_shape.py.
struct RotaryFields {
    Array<float, 1> inverse_frequencies;
    float factor = 1;
    static constexpr std::tuple kFields{
        std::pair{"inverse_frequencies", &RotaryFields::inverse_frequencies},
        std::pair{"factor", &RotaryFields::factor}};
};

struct LayerFields {
    int heads = 0, kv_heads = 0, head_dim = 0, window = 0, rotary = 0;
    float scale = 0, softcap = 0;
    bool whole_norm = false;
    float position_scale = 0;
    int original_context = 0, size = 0;
    std::string activation;
    float limit = 0;
    bool norm_before = false, norm_after = false;
    float residual_multiplier = 1;
    int experts = 0, top_k = 0;
    bool sigmoid = false, normalized = false;
    float routing_scale = 1;
    int shared_size = 0;
    std::string shared_activation;
    float shared_limit = 0;
    bool shared_gate = false;
    static constexpr std::tuple kFields{
        std::pair{"heads", &LayerFields::heads},
        std::pair{"kv_heads", &LayerFields::kv_heads},
        std::pair{"head_dim", &LayerFields::head_dim},
        std::pair{"window", &LayerFields::window},
        std::pair{"rotary", &LayerFields::rotary},
        std::pair{"scale", &LayerFields::scale},
        std::pair{"softcap", &LayerFields::softcap},
        std::pair{"whole_norm", &LayerFields::whole_norm},
        std::pair{"position_scale", &LayerFields::position_scale},
        std::pair{"original_context", &LayerFields::original_context},
        std::pair{"size", &LayerFields::size},
        std::pair{"activation", &LayerFields::activation},
        std::pair{"limit", &LayerFields::limit},
        std::pair{"norm_before", &LayerFields::norm_before},
        std::pair{"norm_after", &LayerFields::norm_after},
        std::pair{"residual_multiplier", &LayerFields::residual_multiplier},
        std::pair{"experts", &LayerFields::experts},
        std::pair{"top_k", &LayerFields::top_k},
        std::pair{"sigmoid", &LayerFields::sigmoid},
        std::pair{"normalized", &LayerFields::normalized},
        std::pair{"routing_scale", &LayerFields::routing_scale},
        std::pair{"shared_size", &LayerFields::shared_size},
        std::pair{"shared_activation", &LayerFields::shared_activation},
        std::pair{"shared_limit", &LayerFields::shared_limit},
        std::pair{"shared_gate", &LayerFields::shared_gate}};
};

struct ShapeFields {
    int vocab = 0, hidden = 0;
    float norm_eps = 0;
    bool tied_head = false;
    float embedding_multiplier = 1, logit_multiplier = 1, logit_softcap = 0;
    std::vector<LayerFields> kinds;
    std::vector<int> order;
    std::vector<RotaryFields> rotaries;
    int features = 0, embedding_rows = 0;
    bool wide = false;
    static constexpr std::tuple kFields{
        std::pair{"vocab", &ShapeFields::vocab},
        std::pair{"hidden", &ShapeFields::hidden},
        std::pair{"norm_eps", &ShapeFields::norm_eps},
        std::pair{"tied_head", &ShapeFields::tied_head},
        std::pair{"embedding_multiplier", &ShapeFields::embedding_multiplier},
        std::pair{"logit_multiplier", &ShapeFields::logit_multiplier},
        std::pair{"logit_softcap", &ShapeFields::logit_softcap},
        std::pair{"kinds", &ShapeFields::kinds},
        std::pair{"order", &ShapeFields::order},
        std::pair{"rotaries", &ShapeFields::rotaries},
        std::pair{"features", &ShapeFields::features},
        std::pair{"embedding_rows", &ShapeFields::embedding_rows},
        std::pair{"wide", &ShapeFields::wide}};
};

// Throws unless the core can run it.
ModelShape checked_shape(const ShapeFields& fields);

// Weight, activation and head bits.
using LevelBits = std::tuple<int, int, int>;

// Records of SamplingRow, one per row, as their bytes.
using SamplingBytes = Array<std::uint8_t, 1>;

using Speculated =
    std::tuple<std::vector<std::vector<std::int32_t>>, std::vector<std::vector<float>>,
               std::vector<std::int32_t>, int, double>;

constexpr std::size_t kMostTops = 1 << 28;  // most likely tokens that a call may ask for

// How R rows are drawn.
std::vector<Sampling> sampling_rows(std::size_t R, const SamplingBytes& bytes);
// The same for roots, which report nothing and are held to nothing.
std::vector<Sampling> root_sampling(std::size_t R, const SamplingBytes& bytes);

void bind_suffixes(nb::module_& m);

// One model. First its weights are set, then `allocate_kv` closes that and the rest may be called.
// From any thread: a call waits for the one under way.
class NativeModel {
  public:
    NativeModel(const ShapeFields& shape, const std::string& tier, int threads, int max_rows);
    // The last `wide` groups need `lo` at every level; parts may have it for those alone.
    void set_planes(const std::string& slot, int layer, std::vector<PlanePart> parts, int group,
                    int wide);
    void set_dense(const std::string& slot, int layer, std::vector<AnyMatrix> parts,
                   const std::string& type);
    // The input of a layer's matrix is viewed as [..][core][block * stride] (kernels.h).
    void set_rotation(const std::string& slot, int layer, Array<float, 2> matrix, int block,
                      int stride, float scale);
    void set_gather(const std::string& slot, int layer, Array<std::int32_t, 1> indices);
    void set_vector(const std::string& slot, int layer, Array<float, 1> values);
    void allocate_kv(int pages, int page_size, const std::string& dtype);

    Result<float> forward(const BatchArrays& batch, LevelBits level,
                          Array<std::int32_t, 1> logit_rows);
    std::tuple<Result<std::int32_t>, Result<float>, Result<std::int32_t>, Result<float>>
    forward_sample(const BatchArrays& batch, LevelBits level, Array<std::int32_t, 1> logit_rows,
                   const SamplingBytes& sampling,
                   const std::optional<AdjustmentArrays>& adjustments);
    std::tuple<Result<std::int32_t>, Result<std::int32_t>> draft(
        const BatchArrays& roots, const DraftArrays& run, LevelBits level,
        const SamplingBytes& sampling, const std::optional<AdjustmentArrays>& adjustments);
    // `length` tokens of each sequence and their logprobs; it may be interrupted.
    std::tuple<Result<std::int32_t>, Result<float>> decode(const BatchArrays& roots,
                                                           LevelBits level, int length,
                                                           const SamplingBytes& sampling);
    // A draft at one level and the verify of it at another: tokens and logprobs of each sequence,
    // how many it proposed, the draft's forwards and seconds.
    Speculated draft_and_verify(const BatchArrays& roots, const DraftArrays& run, LevelBits level,
                                LevelBits target, const SamplingBytes& sampling);
    // True: a `decode` ends after the forward it is in, as does any from now on. Any thread.
    void interrupt(bool wanted) { interrupt_.wanted = wanted; }
    void copy_kv(Array<std::int32_t, 1> pages, Array<std::int32_t, 1> sources,
                 Array<std::int32_t, 1> targets);
    // x [M, hidden] -> what the layer's linears read (qkv, o, gate_up, down) and what it returns.
    std::tuple<Result<float>, Result<float>, Result<float>, Result<float>, Result<float>>
    capture_layer(int layer, Array<float, 2> x, Array<std::int32_t, 1> row_starts,
                  Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages, int weight_bits,
                  int act_bits);
    // Raw bytes: K [Hkv, D, S * width], V [Hkv, S, D * width].
    std::tuple<Result<std::uint8_t>, Result<std::uint8_t>> read_kv(int layer, int page);

    // Copies are of pointers: `other` must outlive this model.
    void share(const NativeModel& other, bool with_head);
    // The number of a second head over ascending ids; 0 is the whole head.
    int reduce_head(Array<std::int32_t, 1> ids);
    void keep_features(std::vector<int> taps);
    Result<float> read_features(Array<std::int32_t, 1> pages, Array<std::int32_t, 1> positions);
    std::tuple<Result<std::int32_t>, Result<float>, Result<float>> forward_best(
        const BatchArrays& batch, LevelBits level, Array<std::int32_t, 1> logit_rows,
        Array<float, 2> features, int k);

    std::size_t bytes_read(LevelBits level, int head);
    std::size_t memory_bytes();
    bool has_lo() const;                   // the first layer
    bool dense() const { return dense_; }  // every layer

  private:
    void expect_open(const std::string& slot) const;
    void expect_running() const;
    void expect_all_set() const;
    // Outputs and inputs of a matrix; the length of a vector.
    std::pair<int, int> expected(const std::string& slot, int layer) const;
    int expected_length(const std::string& slot, int layer) const;
    Linear& layer_matrix(const std::string& slot, int layer);
    Linear& find(const std::string& slot, int layer);
    void finish(const std::string& slot);

    // forwards[b]: steps of one row that sequence b goes on for (a draft); null: this one only.
    Step checked(const BatchArrays& batch, const Array<std::int32_t, 1>& logit_rows,
                 const std::int32_t* forwards = nullptr, bool head = false) const;
    // One row per sequence; `rows` is 0 .. B - 1 and outlives the step, `forwards` as above.
    Step checked_roots(const BatchArrays& roots, const std::vector<std::int32_t>& rows,
                       const std::vector<std::int32_t>& forwards) const;
    DraftRun checked_run(const DraftArrays& run, LevelBits level, std::size_t B) const;
    const ReducedHead* reduced_head(int number) const;
    // `reduced`: the head that is used, null for the whole one.
    LevelSpec checked_level(LevelBits level, const ReducedHead* reduced = nullptr) const;
    void adjust_rows(const AdjustmentArrays& arrays, std::vector<Sampling>& rows) const;
    void check_forced(const std::vector<Sampling>& rows) const;
    std::size_t most_tops(const std::vector<Sampling>& rows) const;

    std::unique_ptr<Model> model_;
    std::vector<const ReducedHead*> reduced_;
    bool dense_ = false;        // as of allocate_kv
    mutable std::mutex mutex_;  // of the model, for a Call or with the GIL held
    Interrupt interrupt_;
};

}  // namespace halfbyte

namespace nanobind::detail {
template <>
struct type_caster<halfbyte::AdjustmentArrays> : fields_caster<halfbyte::AdjustmentArrays> {};
template <>
struct type_caster<halfbyte::BatchArrays> : fields_caster<halfbyte::BatchArrays> {};
template <>
struct type_caster<halfbyte::DraftArrays> : fields_caster<halfbyte::DraftArrays> {};
template <>
struct type_caster<halfbyte::RotaryFields> : fields_caster<halfbyte::RotaryFields> {};
template <>
struct type_caster<halfbyte::LayerFields> : fields_caster<halfbyte::LayerFields> {};
template <>
struct type_caster<halfbyte::ShapeFields> : fields_caster<halfbyte::ShapeFields> {};
}  // namespace nanobind::detail
