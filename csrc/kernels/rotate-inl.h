// Rotations of a layer's input (docs/numerics.md), over any tier's F32x16.
//
// A row is `core` blocks of `width` floats. First the blocks are mixed by the core matrix, then,
// where the stride is 1, each mixed block by a Walsh-Hadamard transform:
//
//     y[to] = H (sum over from of C[to][from] x[from]) * scale
//
// Mixing first lets a thread make some blocks of a row and never touch the others: it needs the
// row as it was, and no barrier in between. Every sum has one order, so any thread may compute it.
#pragma once
#include "kernels/kernels.h"

namespace halfbyte {

// R output blocks x L vectors of 16 floats. matrix: the first of R rows; x, y: at the first vector.
template <class V, int R, int L>
inline void mix_tile(const float* x, const float* matrix, int core, int width, float* y) {
    V sums[R][L];
    for (int r = 0; r < R; ++r)
        for (int l = 0; l < L; ++l)
            sums[r][l] = V::all(matrix[static_cast<std::size_t>(r) * core]) * V::load(x + 16 * l);
    for (int from = 1; from < core; ++from) {
        V in[L];
        for (int l = 0; l < L; ++l)
            in[l] = V::load(x + static_cast<std::size_t>(from) * width + 16 * l);
        for (int r = 0; r < R; ++r) {
            const V entry = V::all(matrix[static_cast<std::size_t>(r) * core + from]);
            for (int l = 0; l < L; ++l) sums[r][l] = fma(entry, in[l], sums[r][l]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int l = 0; l < L; ++l)
            sums[r][l].store(y + static_cast<std::size_t>(r) * width + 16 * l);
}

template <class V, int R>
inline void mix_rows(const float* x, const float* matrix, int core, int width, float* y) {
    int at = 0;
    for (; at + 32 <= width; at += 32) mix_tile<V, R, 2>(x + at, matrix, core, width, y + at);
    if (at < width) mix_tile<V, R, 1>(x + at, matrix, core, width, y + at);
}

// Walsh-Hadamard transform of a block in place, not normed: (a + b, a - b) at distances 1, 2, 4 …
template <class V>
inline void hadamard(float* x, int block) {
    for (int i = 0; i < block; i += 16) V::load(x + i).hadamard().store(x + i);
    for (int half = 16; half < block; half *= 2) {
        for (int i = 0; i < block; i += 2 * half) {
            for (int j = i; j < i + half; j += 16) {
                const V a = V::load(x + j), b = V::load(x + j + half);
                (a + b).store(x + j);
                (a - b).store(x + j + half);
            }
        }
    }
}

// Blocks [begin, end) of a row; x and y at its first block.
template <class V>
void rotate(const float* x, const Rotation& r, int begin, int end, float* y) {
    const int width = r.block * r.stride;
    for (int b = begin; b < end;) {
        const int to = b % r.core, rest = (r.core - to < end - b) ? r.core - to : end - b;
        const int n = rest >= 4 ? 4 : 1;
        const float* from = x + static_cast<std::size_t>(b - to) * width;
        const float* matrix = r.matrix + static_cast<std::size_t>(to) * r.core;
        float* out = y + static_cast<std::size_t>(b) * width;
        if (n == 4)
            mix_rows<V, 4>(from, matrix, r.core, width, out);
        else
            mix_rows<V, 1>(from, matrix, r.core, width, out);
        if (r.block > 1)
            for (int i = 0; i < n; ++i) hadamard<V>(out + i * r.block, r.block);
        for (int i = 0; i < n * width; i += 16) (V::load(out + i) * V::all(r.scale)).store(out + i);
        b += n;
    }
}

}  // namespace halfbyte
