// What happens to the 32 outputs of a panel for a few rows.
#pragma once
#include "kernels/kernels.h"
#include "kernels/math-inl.h"

namespace halfbyte {

// values: [rows][32] for rows row0 .. row0 + rows - 1 of panel p.
template <class V>
inline void apply_epilogue(const Epilogue& e, int p, int row0, int rows, const float* values) {
    for (int r = 0; r < rows; ++r) {
        const V a = V::load(values + r * kPanel), b = V::load(values + r * kPanel + 16);
        float* row = e.out + static_cast<std::size_t>(row0 + r) * e.stride;
        if (e.kind == Epilogue::Kind::kSiluMul) {  // tile 0: gate, tile 1: up
            (silu(a) * b).store(row + p * 16);
            continue;
        }
        float* to = row + p * kPanel;
        if (e.kind == Epilogue::Kind::kAdd) {
            (V::load(to) + a).store(to);
            (V::load(to + 16) + b).store(to + 16);
        } else if (e.bias) {
            (a + V::load(e.bias + p * kPanel)).store(to);
            (b + V::load(e.bias + p * kPanel + 16)).store(to + 16);
        } else {
            a.store(to);
            b.store(to + 16);
        }
    }
}

}  // namespace halfbyte
