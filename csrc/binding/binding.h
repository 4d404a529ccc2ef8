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

// starts [R + 1], ids, adds, factors, subtracts [E], mask_rows [R], masks [K][V / 32]: see
// halfbyte/runtime/protocol.py.
using AdjustmentArrays =
    std::tuple<Array<std::int32_t, 1>, Array<std::int32_t, 1>, Array<float, 1>, Array<float, 1>,
               Array<float, 1>, Array<std::int32_t, 1>, Array<std::uint32_t, 2>>;

// Weight, activation and head bits.
using LevelBits = std::tuple<int, int, int>;

// temperatures, top_ks, top_ps, min_ps, seeds, positions [R].
using SamplingArrays = std::tuple<Array<float, 1>, Array<std::int32_t, 1>, Array<float, 1>,
                                  Array<float, 1>, Array<std::uint64_t, 1>, Array<std::int32_t, 1>>;

using Speculated =
    std::tuple<std::vector<std::vector<std::int32_t>>, std::vector<std::vector<float>>,
               std::vector<std::int32_t>, int, double>;

constexpr std::size_t kMostTops = 1 << 28;  // most likely tokens that a call may ask for

std::vector<SamplingRow> sampling_rows(std::size_t R, const SamplingArrays& arrays);

void bind_suffixes(nb::module_& m);

// One model. First its weights are set, then `allocate_kv` closes that and the rest may be called.
// From any thread: a call waits for the one under way.
class NativeModel {
  public:
    NativeModel(int vocab, int hidden, int intermediate, int layers, int heads, int kv_heads,
                int head_dim, float norm_eps, int sliding_window, bool tied_head,
                Array<float, 1> inverse_frequencies, const std::string& tier, int threads,
                int max_rows, int features, int embedding_rows, bool wide);
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

    Result<float> forward(Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> row_starts,
                          Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages,
                          LevelBits level, Array<std::int32_t, 1> logit_rows,
                          std::optional<Array<std::int32_t, 2>> paths);
    std::tuple<Result<std::int32_t>, Result<float>, Result<std::int32_t>, Result<float>>
    forward_sample(Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> row_starts,
                   Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages, LevelBits level,
                   Array<std::int32_t, 1> logit_rows, const SamplingArrays& sampling,
                   std::optional<Array<std::int32_t, 2>> paths,
                   const std::optional<AdjustmentArrays>& adjustments,
                   const std::optional<Array<std::int32_t, 1>>& forced,
                   const std::optional<Array<std::int32_t, 1>>& tops);
    std::tuple<Result<std::int32_t>, Result<std::int32_t>> draft(
        Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages,
        LevelBits level, Array<std::int32_t, 1> lengths, const SamplingArrays& sampling,
        const std::optional<AdjustmentArrays>& adjustments, float min_confidence, int head);
    // `length` tokens of each sequence and their logprobs; it may be interrupted.
    std::tuple<Result<std::int32_t>, Result<float>> decode(Array<std::int32_t, 1> tokens,
                                                           Array<std::int32_t, 1> first,
                                                           Array<std::int32_t, 2> pages,
                                                           LevelBits level, int length,
                                                           const SamplingArrays& sampling);
    // A draft at one level and the verify of it at another: tokens and logprobs of each sequence,
    // how many it proposed, the draft's forwards and seconds.
    Speculated draft_and_verify(Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> first,
                                Array<std::int32_t, 2> pages, LevelBits level,
                                Array<std::int32_t, 1> lengths, LevelBits target,
                                const SamplingArrays& sampling, float min_confidence, int head);
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
        Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> row_starts,
        Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages, LevelBits level,
        Array<std::int32_t, 1> logit_rows, std::optional<Array<std::int32_t, 2>> paths,
        Array<float, 2> features, int k);

    std::size_t bytes_read(LevelBits level, int head);
    std::size_t memory_bytes();
    bool has_lo() const;                   // the first layer
    bool dense() const { return dense_; }  // every layer

  private:
    void expect_open(const std::string& slot) const;
    void expect_running() const;
    void expect_all_set() const;
    std::pair<int, int> expected(const std::string& slot) const;
    Linear& layer_matrix(const std::string& slot, int layer);
    Linear& find(const std::string& slot, int layer);
    void finish(const std::string& slot);

    // forwards[b]: steps of one row that sequence b goes on for (a draft); null: this one only.
    Step checked(const Array<std::int32_t, 1>& tokens, const Array<std::int32_t, 1>& row_starts,
                 const Array<std::int32_t, 1>& first, const Array<std::int32_t, 2>& pages,
                 const Array<std::int32_t, 1>& logit_rows,
                 const std::optional<Array<std::int32_t, 2>>& paths,
                 const std::int32_t* forwards = nullptr, bool head = false) const;
    // One row per sequence; `starts` is 0 .. B and outlives the step, `forwards` as above.
    Step checked_roots(const Array<std::int32_t, 1>& tokens, const Array<std::int32_t, 1>& first,
                       const Array<std::int32_t, 2>& pages, const std::vector<std::int32_t>& starts,
                       const std::vector<std::int32_t>& forwards) const;
    const ReducedHead* reduced_head(int number) const;
    // `reduced`: the head that is used, null for the whole one.
    LevelSpec checked_level(LevelBits level, const ReducedHead* reduced = nullptr) const;
    void adjust_rows(const AdjustmentArrays& arrays, std::vector<SamplingRow>& rows) const;
    void force_rows(const Array<std::int32_t, 1>& forced, std::vector<SamplingRow>& rows) const;
    std::size_t most_tops(const Array<std::int32_t, 1>& tops, std::size_t rows) const;

    std::unique_ptr<Model> model_;
    std::vector<const ReducedHead*> reduced_;
    bool dense_ = false;        // as of allocate_kv
    mutable std::mutex mutex_;  // of the model, for a Call or with the GIL held
    Interrupt interrupt_;
};

}  // namespace halfbyte
