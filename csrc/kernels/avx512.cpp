// The kernel table of the avx512 tier; CMakeLists.txt compiles this file with that tier's
// instructions.
#include "kernels/kernel_table-inl.h"
#include "kernels/linear_planes_avx512.h"
#include "kernels/vec_avx512.h"

namespace halfbyte {

const Kernels& kernels_avx512() {
    static constexpr Kernels kTable = kernel_table<avx512::F32x16>("avx512", avx512::linear);
    return kTable;
}

}  // namespace halfbyte
