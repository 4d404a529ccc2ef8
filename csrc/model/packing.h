// From the checkpoint's row-major tensors to the runtime's panels (kernels.h draws them), and back
// for single rows (embedding look-up).
#pragma once
#include <cstdint>
#include <vector>

#include "host/arena.h"
#include "host/pool.h"
#include "kernels/kernels.h"

namespace halfbyte {

// One output row of a quantized matrix as the checkpoint stores it; hi == null is a padding row.
struct PlaneRow {
    const std::uint8_t* hi = nullptr;  // [K/2]
    const std::uint8_t* lo = nullptr;  // [lo_k * lo_bits / 8], of the last inputs, or null
    int lo_k = 0, lo_bits = 4;
    const void* scale = nullptr;   // [K/G] f16, int8 with a unit
    const void* offset = nullptr;  // [K/G] f32, int8 with a unit, or null
    const float* unit = nullptr;   // of the row, or null
};

// rows.size() must be a multiple of 32. Planes or offsets that only some rows have are filled with
// zeros; those that have a unit, and those of `lo` in two bits, must be all.
PackedPlanes pack_planes(const std::vector<PlaneRow>& rows, int k, int group, int wide,
                         Arena& arena, Pool& pool);

// rows: one pointer to K values each (null: padding).
PackedDense pack_dense(const std::vector<const void*>& rows, int k, PackedDense::Type type,
                       Arena& arena, Pool& pool);

// Some rows of a packed matrix as one of their own, padded to whole panels.
PackedPlanes gather_rows(const PackedPlanes& w, const std::vector<std::int32_t>& rows,
                         Arena& arena);
PackedDense gather_rows(const PackedDense& w, const std::vector<std::int32_t>& rows, Arena& arena);

// Panels [first, first + count), where they stand.
PackedPlanes panels_of(const PackedPlanes& w, int first, int count);
PackedDense panels_of(const PackedDense& w, int first, int count);

// Row `row` with every plane stored: w = s * (hi + lo/16) + z, one rounding, with a unit that of
// the product with it.
void unpack_row(const PackedPlanes& w, int row, float* out);
void unpack_row(const PackedDense& w, int row, float* out);

// Bytes a forward reads of the matrix.
std::size_t bytes_read(const PackedPlanes& w, int bits);
std::size_t bytes_read(const PackedDense& w);

}  // namespace halfbyte
