#include "packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "vec_scalar.h"

namespace halfbyte {

namespace {

// Eight nibbles in input order -> four bytes with input j low and input 4 + j high.
inline std::uint32_t interleave(std::uint32_t in) {
    std::uint32_t low = in & 0xffffu, high = in >> 16;
    low = (low | low << 8) & 0x00ff00ffu;
    low = (low | low << 4) & 0x0f0f0f0fu;
    high = (high | high << 8) & 0x00ff00ffu;
    high = (high | high << 4) & 0x0f0f0f0fu;
    return low | high << 4;
}

constexpr std::uint32_t kZeroCodes = 0x88888888u;  // nibble 8 is code 0

// k inputs of one row of a panel, of which `in` has the last in_k.
void pack_plane_row(const std::uint8_t* in, int in_k, int k, int row, std::uint8_t* panel) {
    std::uint8_t* to = panel + (row / 16) * 64 + (row % 16) * 4;
    const int missing = in ? (k - in_k) / 8 : k / 8;
    for (int kb = 0; kb < k / 8; ++kb) {
        std::uint32_t word = kZeroCodes;
        if (kb >= missing) std::memcpy(&word, in + (kb - missing) * 4, 4);
        word = interleave(word);
        std::memcpy(to + kb * 128, &word, 4);
    }
}

// Row `from` of packed nibbles of k inputs, as row `to` of another matrix.
void copy_plane_row(const std::uint8_t* in, int from, int k, std::uint8_t* out, int to) {
    const auto place = [k](int row) {
        return static_cast<std::size_t>(row / kPanel) * k * (kPanel / 2) +
               (row % kPanel / 16) * 64 + row % 16 * 4;
    };
    for (int kb = 0; kb < k / 8; ++kb)
        std::memcpy(out + place(to) + kb * 128, in + place(from) + kb * 128, 4);
}

}  // namespace

PackedPlanes pack_planes(const std::vector<PlaneRow>& rows, int k, int group, int wide,
                         Arena& arena, Pool& pool) {
    const int panels = static_cast<int>(rows.size()) / kPanel, groups = k / group;
    int lo_k = 0;
    bool any_offset = false;
    for (const PlaneRow& r : rows) {
        lo_k = std::max(lo_k, r.lo ? r.lo_k : 0);
        any_offset |= r.offset != nullptr;
    }
    const std::size_t plane_bytes = static_cast<std::size_t>(panels) * k * (kPanel / 2);
    const std::size_t lo_bytes = static_cast<std::size_t>(panels) * lo_k * (kPanel / 2);
    const std::size_t entries = static_cast<std::size_t>(panels) * groups * kPanel;
    auto* hi = arena.array<std::uint8_t>(plane_bytes);
    auto* lo = lo_k ? arena.array<std::uint8_t>(lo_bytes) : nullptr;
    auto* scale = arena.array<std::uint16_t>(entries);
    auto* offset = any_offset ? arena.array<float>(entries) : nullptr;
    pool.run([&](int thread) {
        const int begin = panels * thread / pool.size(), end = panels * (thread + 1) / pool.size();
        for (int p = begin; p < end; ++p) {
            const PlaneRow* panel = &rows[static_cast<std::size_t>(p) * kPanel];
            std::uint8_t* hi_panel = hi + static_cast<std::size_t>(p) * k * (kPanel / 2);
            std::uint8_t* lo_panel =
                lo ? lo + static_cast<std::size_t>(p) * lo_k * (kPanel / 2) : nullptr;
            for (int r = 0; r < kPanel; ++r) {
                pack_plane_row(panel[r].hi, k, k, r, hi_panel);
                if (lo) pack_plane_row(panel[r].lo, panel[r].lo_k, lo_k, r, lo_panel);
                for (int g = 0; g < groups; ++g) {
                    const std::size_t to = (static_cast<std::size_t>(p) * groups + g) * kPanel + r;
                    scale[to] = panel[r].hi ? panel[r].scale[g] : 0;
                    if (offset) offset[to] = panel[r].offset ? panel[r].offset[g] : 0.0f;
                }
            }
        }
    });
    return {hi, lo, scale, offset, panels * kPanel, k, group, lo_k, wide};
}

PackedDense pack_dense(const std::vector<const void*>& rows, int k, PackedDense::Type type,
                       Arena& arena, Pool& pool) {
    const int panels = static_cast<int>(rows.size()) / kPanel;
    const std::size_t width = type == PackedDense::Type::kF32 ? 4 : 2;
    auto* out =
        static_cast<char*>(arena.allocate(static_cast<std::size_t>(panels) * k * kPanel * width));
    pool.run([&](int thread) {
        const int begin = panels * thread / pool.size(), end = panels * (thread + 1) / pool.size();
        for (int p = begin; p < end; ++p) {
            char* panel = out + static_cast<std::size_t>(p) * k * kPanel * width;
            for (int r = 0; r < kPanel; ++r) {
                const auto* in =
                    static_cast<const char*>(rows[static_cast<std::size_t>(p) * kPanel + r]);
                for (int i = 0; i < k; ++i) {
                    char* to = panel + (static_cast<std::size_t>(i) * kPanel + r) * width;
                    if (in)
                        std::memcpy(to, in + i * width, width);
                    else
                        std::memset(to, 0, width);
                }
            }
        }
    });
    return {out, type, panels * kPanel, k};
}

// Arenas hand out zeroed memory: rows of padding have no scale.
PackedPlanes gather_rows(const PackedPlanes& w, const std::vector<std::int32_t>& rows,
                         Arena& arena) {
    const int count = static_cast<int>(rows.size()), panels = (count + kPanel - 1) / kPanel;
    const int groups = w.k / w.group;
    const std::size_t half_panels = static_cast<std::size_t>(panels) * (kPanel / 2);
    const std::size_t entries = static_cast<std::size_t>(panels) * groups * kPanel;
    auto* hi = arena.array<std::uint8_t>(half_panels * w.k);
    auto* lo = w.lo ? arena.array<std::uint8_t>(half_panels * w.lo_k) : nullptr;
    auto* scale = arena.array<std::uint16_t>(entries);
    auto* offset = w.offset ? arena.array<float>(entries) : nullptr;
    const auto entry = [groups](int row, int g) {
        return (static_cast<std::size_t>(row / kPanel) * groups + g) * kPanel + row % kPanel;
    };
    for (int to = 0; to < count; ++to) {
        copy_plane_row(w.hi, rows[to], w.k, hi, to);
        if (lo) copy_plane_row(w.lo, rows[to], w.lo_k, lo, to);
        for (int g = 0; g < groups; ++g) {
            scale[entry(to, g)] = w.scale[entry(rows[to], g)];
            if (offset) offset[entry(to, g)] = w.offset[entry(rows[to], g)];
        }
    }
    PackedPlanes gathered = w;
    gathered.hi = hi;
    gathered.lo = lo;
    gathered.scale = scale;
    gathered.offset = offset;
    gathered.n = panels * kPanel;
    return gathered;
}

PackedDense gather_rows(const PackedDense& w, const std::vector<std::int32_t>& rows, Arena& arena) {
    const int count = static_cast<int>(rows.size()), panels = (count + kPanel - 1) / kPanel;
    const std::size_t width = w.type == PackedDense::Type::kF32 ? 4 : 2;
    auto* out = arena.array<char>(static_cast<std::size_t>(panels) * w.k * kPanel * width);
    const auto place = [&](int row, int i) {
        return ((static_cast<std::size_t>(row / kPanel) * w.k + i) * kPanel + row % kPanel) * width;
    };
    for (int to = 0; to < count; ++to)
        for (int i = 0; i < w.k; ++i)
            std::memcpy(out + place(to, i), static_cast<const char*>(w.values) + place(rows[to], i),
                        width);
    return {out, w.type, panels * kPanel, w.k};
}

void unpack_row(const PackedPlanes& w, int row, float* out) {
    const int p = row / kPanel, r = row % kPanel, groups = w.k / w.group;
    const std::size_t place = static_cast<std::size_t>(r / 16) * 64 + (r % 16) * 4;
    const std::uint8_t* hi_row = w.hi + static_cast<std::size_t>(p) * w.k * (kPanel / 2) + place;
    const std::uint8_t* lo_row =
        w.lo ? w.lo + static_cast<std::size_t>(p) * w.lo_k * (kPanel / 2) + place : nullptr;
    const int first_lo = w.k - w.lo_k;
    for (int i = 0; i < w.k; ++i) {
        const std::size_t byte = static_cast<std::size_t>(i / 8) * 128 + i % 4;
        const int shift = i % 8 < 4 ? 0 : 4;
        const std::size_t at = (static_cast<std::size_t>(p) * groups + i / w.group) * kPanel + r;
        const float s = scalar::f16_to_f32(w.scale[at]);
        const int hi = ((hi_row[byte] >> shift) & 15) - 8;
        const int lo =
            i < first_lo ? 0 : ((lo_row[byte - first_lo * (kPanel / 2)] >> shift) & 15) - 8;
        // s has 11 significant bits and the code 8, so the product is exact.
        const float value = s * 0.0625f * static_cast<float>(16 * hi + lo);
        out[i] = w.offset ? value + w.offset[at] : value;
    }
}

void unpack_row(const PackedDense& w, int row, float* out) {
    const std::size_t base = static_cast<std::size_t>(row / kPanel) * w.k * kPanel + row % kPanel;
    for (int i = 0; i < w.k; ++i) {
        const std::size_t at = base + static_cast<std::size_t>(i) * kPanel;
        if (w.type == PackedDense::Type::kF32) {
            out[i] = static_cast<const float*>(w.values)[at];
        } else {
            const std::uint16_t bits = static_cast<const std::uint16_t*>(w.values)[at];
            out[i] = w.type == PackedDense::Type::kF16
                         ? scalar::f16_to_f32(bits)
                         : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
        }
    }
}

std::size_t bytes_read(const PackedPlanes& w, int bits) {
    const std::size_t weights = static_cast<std::size_t>(w.n) * w.k;
    const std::size_t per_group = 2 + (w.offset ? 4 : 0);
    const std::size_t low = w.bits(bits) == 8 ? w.k : w.wide * w.group;
    return weights / 2 + w.n * low / 2 + weights / w.group * per_group;
}

std::size_t bytes_read(const PackedDense& w) {
    return static_cast<std::size_t>(w.n) * w.k * (w.type == PackedDense::Type::kF32 ? 4 : 2);
}

}  // namespace halfbyte
