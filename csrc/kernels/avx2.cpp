// The kernel table of the avx2 tier; CMakeLists.txt compiles this file with that tier's
// instructions.
#include "kernels/kernel_table-inl.h"
#include "kernels/linear_planes_avx2.h"
#include "kernels/vec_avx2.h"

namespace halfbyte {

const Kernels& kernels_avx2() {
    static constexpr Kernels kTable = kernel_table<avx2::F32x16>("avx2", avx2::linear);
    return kTable;
}

}  // namespace halfbyte
