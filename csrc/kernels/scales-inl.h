// Scales and offsets of a packed matrix one at a time, as floats (in the row's unit if there is
// one).
#pragma once
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/vec_scalar.h"

namespace halfbyte::scalar {

inline float scale_at(const PackedPlanes& w, std::size_t entry) {
    if (w.unit) return static_cast<float>(static_cast<const std::int8_t*>(w.scale)[entry]);
    return f16_to_f32(static_cast<const std::uint16_t*>(w.scale)[entry]);
}

inline float offset_at(const PackedPlanes& w, std::size_t entry) {
    if (!w.unit) return static_cast<const float*>(w.offset)[entry];
    return static_cast<float>(kOffsetStep * static_cast<const std::int8_t*>(w.offset)[entry]);
}

}  // namespace halfbyte::scalar
