// The kernel table of the avx2 tier; CMakeLists.txt compiles this file with that tier's
// instructions.
#include "attention-inl.h"
#include "kernels.h"
#include "linear_dense-inl.h"
#include "linear_planes_avx2.h"
#include "rowops-inl.h"
#include "vec_avx2.h"

namespace halfbyte {

const Kernels& kernels_avx2() {
    using V = avx2::F32x16;
    static constexpr Kernels kTable = {
        .name = "avx2",
        .linear = avx2::linear,
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
