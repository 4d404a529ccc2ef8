// The kernel table of the scalar tier; CMakeLists.txt compiles this file with that tier's
// instructions.
#include "kernels/kernel_table-inl.h"
#include "kernels/linear_planes_scalar.h"
#include "kernels/vec_scalar.h"

namespace halfbyte {

const Kernels& kernels_scalar() {
    static constexpr Kernels kTable = kernel_table<scalar::F32x16>("scalar", scalar::linear);
    return kTable;
}

}  // namespace halfbyte
