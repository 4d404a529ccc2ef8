// Norm, activation quantization, RoPE, narrowing and logit statistics of one row, over any tier's
// F32x16.
#pragma once
#include <cmath>
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/math-inl.h"

namespace halfbyte {

template <class V>
void rmsnorm(const float* x, const float* weight, float eps, int k, float* y) {
    V squares = V::zero();
    for (int i = 0; i < k; i += 16) {
        const V v = V::load(x + i);
        squares = fma(v, v, squares);
    }
    const float mean = squares.reduce_add() / static_cast<float>(k);
    const V factor = V::all(1.0f / std::sqrt(mean + eps));
    for (int i = 0; i < k; i += 16) (V::load(x + i) * factor * V::load(weight + i)).store(y + i);
}

template <class V>
void quantize(const float* x, int k, int group, int act_bits, int weight_bits, int row, int g0,
              int g1, const Activations& out) {
    const float largest = act_bits == 4 ? 7.0f : act_bits == 8 ? 127.0f : 32512.0f;
    const int code_offset = weight_bits == 4 ? 8 : 136;
    const float weight_factor = weight_bits == 4 ? 1.0f : 0.0625f;
    const int groups = k / group;
    std::int8_t* codes = out.codes + static_cast<std::size_t>(row) * out.planes * k;
    for (int g = g0; g < g1; ++g) {
        const float* in = x + g * group;
        V top = V::zero();
        for (int i = 0; i < group; i += 16) top = max(V::load(in + i).abs(), top);
        const float amax = top.reduce_max();
        // Below this, largest / amax would overflow; such a group is zero in every precision that
        // matters.
        const bool live = amax >= 0x1p-100f;
        const V inverse = V::all(live ? largest / amax : 0.0f);
        typename V::Int sums = V::Int::zero();
        for (int i = 0; i < group; i += 16) {
            const typename V::Int q = (V::load(in + i) * inverse).to_i32();
            sums = sums + q;
            std::int8_t* to = codes + g * group + i;
            if (act_bits == 16) {
                const typename V::Int high = (q + V::Int::all(128)).shift_right(8);
                high.store_i8(to);
                (q - high.shift_left(8)).store_i8(to + k);
            } else {
                q.store_i8(to);
            }
        }
        const std::int32_t sum = sums.reduce_add();
        const std::size_t at = static_cast<std::size_t>(row) * groups + g;
        const float scale = live ? amax / largest : 0.0f;
        out.scale[at] = scale * weight_factor;
        out.sum[at] = scale * static_cast<float>(sum);
        // Through unsigned: a row of infinities or NaN gives codes that may overflow, and must not
        // trap.
        out.bias[at] = static_cast<std::int32_t>(-static_cast<std::uint32_t>(code_offset) *
                                                 static_cast<std::uint32_t>(sum));
    }
}

template <class V>
void rope(float* x, const float* cos, const float* sin, int head_dim, float factor) {
    const int half = head_dim / 2;
    const V f = V::all(factor);
    int i = 0;
    for (; i + 16 <= half; i += 16) {
        const V a = V::load(x + i), b = V::load(x + half + i);
        const V c = V::load(cos + i), s = V::load(sin + i);
        ((a * c - b * s) * f).store(x + i);
        ((b * c + a * s) * f).store(x + half + i);
    }
    // head_dim is a multiple of 16, so half of it may end in 8 pairs.
    for (; i < half; ++i) {
        const float a = x[i], b = x[half + i];
        x[i] = (a * cos[i] - b * sin[i]) * factor;
        x[half + i] = (b * cos[i] + a * sin[i]) * factor;
    }
}

template <class V>
void narrow(const float* x, int count, KvType type, void* out) {
    if (type == KvType::kF32) {
        __builtin_memcpy(out, x, static_cast<std::size_t>(count) * sizeof(float));
        return;
    }
    auto* to = static_cast<std::uint16_t*>(out);
    if (type == KvType::kF16) {
        for (int i = 0; i < count; i += 16) V::load(x + i).store_f16(to + i);
        return;
    }
    for (int i = 0; i < count; ++i) {
        std::uint32_t bits;
        __builtin_memcpy(&bits, x + i, 4);
        const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        bits = nan ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
        to[i] = static_cast<std::uint16_t>(bits >> 16);
    }
}

template <class V>
void scale_logits(float* x, int count, float factor, float cap) {
    int i = 0;
    for (; i + 16 <= count; i += 16) {
        V v = V::load(x + i) * V::all(factor);
        if (cap > 0.0f) v = capped(v, V::all(cap));
        v.store(x + i);
    }
    if (i == count) return;
    float tail[16] = {};
    for (int j = 0; i + j < count; ++j) tail[j] = x[i + j];
    scale_logits<V>(tail, 16, factor, cap);
    for (int j = 0; i + j < count; ++j) x[i + j] = tail[j];
}

template <class V>
void softmax_stats(const float* logits, int count, int* argmax, float* max_out, float* sum_out) {
    V top = V::all(-INFINITY);
    int i = 0;
    for (; i + 16 <= count; i += 16) top = max(V::load(logits + i), top);
    float best = top.reduce_max();
    for (; i < count; ++i) best = logits[i] > best ? logits[i] : best;
    int at = 0;
    while (at < count - 1 && !(logits[at] == best)) ++at;
    V sums = V::zero();
    const V shift = V::all(best);
    for (i = 0; i + 16 <= count; i += 16) sums = sums + exp(V::load(logits + i) - shift);
    if (i < count) {
        float tail[16];
        for (int j = 0; j < 16; ++j) tail[j] = i + j < count ? logits[i + j] : -INFINITY;
        sums = sums + exp(V::load(tail) - shift);
    }
    *argmax = at;
    *max_out = best;
    *sum_out = sums.reduce_add();
}

}  // namespace halfbyte
