// exp over any tier's F32x16. Relative error under 2e-7; below -87 it is exactly zero.
#pragma once

namespace halfbyte {

template <class V>
inline V exp(V x) {
    const V lowest = V::all(-87.0f);
    const V clamped = min(max(x, lowest), V::all(88.0f));
    const V n = (clamped * V::all(1.44269504f)).round();
    // ln 2 in two parts, the first with few bits so that n * high is exact.
    V r = fma(n, V::all(-0.693359375f), clamped);
    r = fma(n, V::all(2.12194440e-4f), r);
    V p = V::all(1.0f / 5040.0f);
    p = fma(p, r, V::all(1.0f / 720.0f));
    p = fma(p, r, V::all(1.0f / 120.0f));
    p = fma(p, r, V::all(1.0f / 24.0f));
    p = fma(p, r, V::all(1.0f / 6.0f));
    p = fma(p, r, V::all(0.5f));
    p = fma(p, r, V::all(1.0f));
    p = fma(p, r, V::all(1.0f));
    return (p * n.exp2i()).zero_unless_ge(x, lowest);
}

template <class V>
inline V silu(V x) {
    return x / (V::all(1.0f) + exp(V::zero() - x));
}

// Absolute error under 2e-7.
template <class V>
inline V tanh(V x) {
    return V::all(1.0f) - V::all(2.0f) / (V::all(1.0f) + exp(x + x));
}

// cap * tanh(x / cap).
template <class V>
inline V capped(V x, V cap) {
    return cap * tanh(x / cap);
}

template <class V>
inline V gelu_tanh(V x) {
    const V inner = V::all(0.79788456f) * (x + V::all(0.044715f) * (x * x * x));
    return V::all(0.5f) * x * (V::all(1.0f) + tanh(inner));
}

// x * sigmoid(1.702 x) * (up + 1), x at most `limit` and `up` within it.
template <class V>
inline V clamped_swiglu(V x, V up, V limit) {
    x = min(x, limit);
    up = max(min(up, limit), V::zero() - limit);
    return x / (V::all(1.0f) + exp(V::all(-1.702f) * x)) * (up + V::all(1.0f));
}

}  // namespace halfbyte
