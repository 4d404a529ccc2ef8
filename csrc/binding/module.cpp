// The native module: what Python sees, by name.
#include <system_error>

#include "binding/binding.h"
#include "host/machine.h"
#include "host/rounding.h"

using namespace nanobind::literals;

namespace halfbyte {
namespace {

// One group of inputs rounded with every scale; see rounding.h for the shapes.
std::tuple<Result<std::int16_t>, Result<float>, Result<float>, Result<float>> round_group_of(
    Array<float, 2> weights, Array<float, 3> goals, Array<float, 2> feed, Array<float, 1> costs,
    Array<float, 3> scales, Array<float, 3> offsets, float lo_weight) {
    const std::size_t G = weights.shape(0), n = weights.shape(1), levels = goals.shape(0);
    expect(G > 0 && G <= kMostRoundingInputs && n > 0 && n < 1 << 30, "a group has 1..128 inputs");
    expect((levels == 1 || levels == 2) && goals.shape(1) == G && goals.shape(2) == n,
           "goals must be [1 or 2, inputs, rows]");
    expect(feed.shape(0) == G && feed.shape(1) == G && costs.shape(0) == G,
           "feed and costs must be those of the group");
    expect(scales.shape(0) > 0 && scales.shape(0) < 1024 && scales.shape(2) == n &&
               (scales.shape(1) == 1 || scales.shape(1) == G),
           "scales must be [candidates, 1 or inputs, rows]");
    for (int axis = 0; axis < 3; ++axis)
        expect(offsets.shape(axis) == scales.shape(axis), "offsets must be as many as scales");
    std::vector<std::int16_t> codes(G * n);
    std::vector<float> scale(n), offset(n), errors(levels * G * n);
    {
        const Call call;
        round_group({static_cast<int>(G), static_cast<int>(n), static_cast<int>(levels),
                     static_cast<int>(scales.shape(0)), static_cast<int>(scales.shape(1)),
                     weights.data(), goals.data(), feed.data(), costs.data(), scales.data(),
                     offsets.data(), lo_weight, codes.data(), scale.data(), offset.data(),
                     errors.data()});
    }
    return {to_numpy(std::move(codes), {G, n}), to_numpy(std::move(scale), {n}),
            to_numpy(std::move(offset), {n}), to_numpy(std::move(errors), {levels, G, n})};
}

// What the machine did not give is a halfbyte.errors.MachineError.
void register_errors() {
    nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
        const auto refused = [](const char* what, const char* got, const char* fix) {
            const nb::object kind = nb::module_::import_("halfbyte.errors").attr("MachineError");
            const nb::object error =
                kind(what, "got"_a = got, "expected"_a = "all of it", "fix"_a = fix);
            PyErr_SetObject(kind.ptr(), error.ptr());
        };
        try {
            std::rethrow_exception(thrown);
        } catch (const std::system_error& error) {
            refused("threads of the native core", error.what(),
                    "ask for fewer threads, or raise the limits of processes (ulimit -u) and of "
                    "memory (ulimit -v)");
        } catch (const std::bad_alloc&) {
            refused("memory of the native core", "no more from the system",
                    "free memory or raise its limit (ulimit -v), or take a smaller model or fewer "
                    "num_tokens");
        }
    });
}

}  // namespace
}  // namespace halfbyte

NB_MODULE(_native, m) {
    using namespace halfbyte;
    register_end_of_calls();
    register_errors();
    m.def("tiers", &available_tiers);
    m.def("physical_cores", &physical_cores);
    m.def(
        "read_bandwidth",
        [](int threads, std::size_t bytes) {
            expect(threads > 0 && threads <= kMostThreads, "threads must be 1..1024");
            expect(bytes >= kLeastBandwidthBytes * threads && bytes <= memory_size() / 2,
                   "bytes must be at least 4096 per thread, at most half the memory");
            const Call call;
            return read_bandwidth(threads, bytes);
        },
        "threads"_a, "bytes"_a);
    m.def(
        "linear_rate",
        [](int threads, const std::string& tier) {
            expect(threads > 0 && threads <= kMostThreads, "threads must be 1..1024");
            const Kernels* kernels = find_kernels(tier);
            expect(kernels != nullptr, "tier " + tier + " cannot run on this processor");
            const Call call;
            return linear_rate(threads, *kernels);
        },
        "threads"_a, "tier"_a);
    m.def("round_group", &round_group_of, "weights"_a, "goals"_a, "feed"_a, "costs"_a, "scales"_a,
          "offsets"_a, "lo_weight"_a);
    bind_suffixes(m);
    nb::class_<NativeModel>(m, "NativeModel")
        .def(nb::init<const ShapeFields&, const std::string&, int, int>(), "shape"_a, "tier"_a,
             "threads"_a, "max_rows"_a)
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
        .def("decode", &NativeModel::decode)
        .def("draft_and_verify", &NativeModel::draft_and_verify)
        .def("interrupt", &NativeModel::interrupt, "wanted"_a)
        .def("copy_kv", &NativeModel::copy_kv)
        .def("capture_layer", &NativeModel::capture_layer)
        .def("share", &NativeModel::share, nb::keep_alive<1, 2>(), "other"_a, "with_head"_a)
        .def("keep_features", &NativeModel::keep_features)
        .def("read_features", &NativeModel::read_features)
        .def("forward_best", &NativeModel::forward_best)
        .def("read_kv", &NativeModel::read_kv, "layer"_a, "page"_a)
        .def("reduce_head", &NativeModel::reduce_head)
        .def("bytes_read", &NativeModel::bytes_read, "level"_a, "head"_a = 0)
        .def("memory_bytes", &NativeModel::memory_bytes)
        .def_prop_ro("has_lo", &NativeModel::has_lo)
        .def_prop_ro("dense", &NativeModel::dense);
}
