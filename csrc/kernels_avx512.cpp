// The kernel table of the avx512 tier; CMakeLists.txt compiles this file with that tier's
// instructions.
#include "attention-inl.h"
#include "kernels.h"
#include "linear_dense-inl.h"
#include "linear_planes_avx512.h"
#include "rowops-inl.h"
#include "vec_avx512.h"

namespace halfbyte {

const Kernels& kernels_avx512() {
    using V = avx512::F32x16;
    static constexpr Kernels kTable = {
        .name = "avx512",
        .linear = avx512::linear,
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
