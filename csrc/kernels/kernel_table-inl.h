// The kernel table of a tier, from its F32x16 and its quantized linear layer.
#pragma once
#include "kernels/attention-inl.h"
#include "kernels/kernels.h"
#include "kernels/linear_dense-inl.h"
#include "kernels/rotate-inl.h"
#include "kernels/rowops-inl.h"

namespace halfbyte {

template <class V>
constexpr Kernels kernel_table(const char* name, decltype(Kernels::linear) linear) {
    return {
        .name = name,
        .linear = linear,
        .linear_dense = linear_dense<V>,
        .rmsnorm = rmsnorm<V>,
        .quantize = quantize<V>,
        .rotate = rotate<V>,
        .rope = rope<V>,
        .narrow = narrow<V>,
        .attend = attend<V>,
        .merge = merge<V>,
        .finish = finish<V>,
        .scale_logits = scale_logits<V>,
        .softmax_stats = softmax_stats<V>,
    };
}

}  // namespace halfbyte
