// What happens to the 32 outputs of a panel for a few rows.
#pragma once
#include "kernels/kernels.h"
#include "kernels/math-inl.h"

namespace halfbyte {

template <class V>
inline V gated(const Epilogue& e, V gate, V up) {
    switch (e.activation) {
        case Activation::kSilu:
            return silu(gate) * up;
        case Activation::kGeluTanh:
            return gelu_tanh(gate) * up;
        case Activation::kClampedSwiglu:
            return clamped_swiglu(gate, up, V::all(e.limit));
    }
    __builtin_unreachable();
}

// values: [rows][32] for rows row0 .. row0 + rows - 1 of panel p.
template <class V>
inline void apply_epilogue(const Epilogue& e, int p, int row0, int rows, const float* values) {
    for (int r = 0; r < rows; ++r) {
        V a = V::load(values + r * kPanel), b = V::load(values + r * kPanel + 16);
        if (e.bias) {
            a = a + V::load(e.bias + p * kPanel);
            b = b + V::load(e.bias + p * kPanel + 16);
        }
        const int m = row0 + r;
        float* row = e.out + static_cast<std::size_t>(e.rows ? e.rows[m] : m) * e.stride;
        float* to = row + p * kPanel;
        if (e.kind == Epilogue::Kind::kGated) {
            gated(e, a, b).store(row + p * 16);
        } else if (e.kind == Epilogue::Kind::kAdd) {
            const V factor = V::all(e.factor);
            (V::load(to) + a * factor).store(to);
            (V::load(to + 16) + b * factor).store(to + 16);
        } else if (e.kind == Epilogue::Kind::kMix) {
            const V share = V::all(e.shares ? e.shares[m] : 1.0f);
            fma(share, a, V::load(to)).store(to);
            fma(share, b, V::load(to + 16)).store(to + 16);
        } else {
            a.store(to);
            b.store(to + 16);
        }
    }
}

}  // namespace halfbyte
