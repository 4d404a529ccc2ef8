// The kernel table of the scalar tier; CMakeLists.txt compiles this file with that tier's
// instructions.
#include "attention-inl.h"
#include "kernels.h"
#include "linear_dense-inl.h"
#include "linear_planes_scalar.h"
#include "rowops-inl.h"
#include "vec_scalar.h"

namespace halfbyte {

const Kernels& kernels_scalar() {
    using V = scalar::F32x16;
    static constexpr Kernels kTable = {
        .name = "scalar",
        .linear = scalar::linear,
        .linear_dense = linear_dense<V>,
        .rmsnorm = rmsnorm<V>,
        .quantize = quantize<V>,
        .rope = rope<V>,
        .narrow = narrow<V>,
        .attend = attend<V>,
        .merge = merge<V>,
        .finish = finish<V>,
        .softmax_stats = softmax_stats<V>,
    };
    return kTable;
}

}  // namespace halfbyte
