// The kernel table of the amx tier: AVX-512 with tile products for steps of many rows.
#include "kernels/kernels.h"
#include "kernels/linear_planes_amx.h"

namespace halfbyte {

const Kernels& kernels_amx() {
    static const Kernels kTable = [] {
        Kernels table = kernels_avx512();
        table.name = "amx";
        table.linear = amx::linear;
        return table;
    }();
    return kTable;
}

}  // namespace halfbyte
