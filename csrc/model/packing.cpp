#include "model/packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/scales-inl.h"
#include "kernels/vec_scalar.h"

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

// The four pairs of bits of a byte, the first lowest -> the lowest bits of four bytes.
inline std::uint32_t spread(std::uint32_t byte) {
    byte = (byte | byte << 12) & 0x000f000fu;
    return (byte | byte << 6) & 0x03030303u;
}

constexpr std::uint32_t kZeroPairs = 0xaaaaaaaau;  // pair 2 is code 0

// One row of a panel of pairs.
void pack_pair_row(const std::uint8_t* in, int k, int row, std::uint8_t* panel) {
    std::uint8_t* to = panel + (row / 16) * 64 + (row % 16) * 4;
    for (int kb = 0; kb < k / 16; ++kb) {
        std::uint32_t word = kZeroPairs;
        if (in) {
            const std::uint8_t* b = in + kb * 4;  // of two blocks of 8 inputs
            word = spread(b[0]) << 2 | spread(b[1]) << 6 | spread(b[2]) | spread(b[3]) << 4;
        }
        std::memcpy(to + kb * 128, &word, 4);
    }
}

// Where row `row` of a panel has entries [K/G], `width` bytes each; zeros if `in` is null.
void pack_entries(const void* in, int groups, int width, int row, char* panel) {
    for (int g = 0; g < groups; ++g) {
        char* to = panel + (g * kPanel + row) * width;
        if (in)
            std::memcpy(to, static_cast<const char*>(in) + g * width, width);
        else
            std::memset(to, 0, width);
    }
}

// Row `from` of packed nibbles of k inputs, or pairs of 2 * k, as row `to` of another matrix.
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
    PackedPlanes w{.n = panels * kPanel, .k = k, .group = group, .wide = wide};
    bool any_offset = false, any_unit = false;
    for (const PlaneRow& r : rows) {
        if (r.lo) w.lo_k = std::max(w.lo_k, r.lo_k), w.lo_bits = r.lo_bits;
        any_offset |= r.offset != nullptr;
        any_unit |= r.unit != nullptr;
    }
    auto* unit = any_unit ? arena.array<float>(rows.size()) : nullptr;
    w.unit = unit;  // tells the widths
    const int scale_width = w.scale_width(), offset_width = w.offset_width();
    const std::size_t plane_bytes = static_cast<std::size_t>(panels) * k * (kPanel / 2);
    const std::size_t entries = static_cast<std::size_t>(panels) * groups * kPanel;
    auto* hi = arena.array<std::uint8_t>(plane_bytes);
    auto* lo = w.lo_k ? arena.array<std::uint8_t>(panels * w.lo_panel()) : nullptr;
    auto* scale = arena.array<char>(entries * scale_width);
    auto* offset = any_offset ? arena.array<char>(entries * offset_width) : nullptr;
    pool.run([&](int thread) {
        const int begin = panels * thread / pool.size(), end = panels * (thread + 1) / pool.size();
        for (int p = begin; p < end; ++p) {
            const PlaneRow* panel = &rows[static_cast<std::size_t>(p) * kPanel];
            std::uint8_t* hi_panel = hi + static_cast<std::size_t>(p) * k * (kPanel / 2);
            std::uint8_t* lo_panel = lo ? lo + p * w.lo_panel() : nullptr;
            const std::size_t entry = static_cast<std::size_t>(p) * groups * kPanel;
            for (int r = 0; r < kPanel; ++r) {
                pack_plane_row(panel[r].hi, k, k, r, hi_panel);
                if (lo && w.lo_bits == 2)
                    pack_pair_row(panel[r].lo, k, r, lo_panel);
                else if (lo)
                    pack_plane_row(panel[r].lo, panel[r].lo_k, w.lo_k, r, lo_panel);
                pack_entries(panel[r].scale, groups, scale_width, r, scale + entry * scale_width);
                if (offset)
                    pack_entries(panel[r].offset, groups, offset_width, r,
                                 offset + entry * offset_width);
                if (unit) unit[p * kPanel + r] = panel[r].unit ? *panel[r].unit : 0.0f;
            }
        }
    });
    w.hi = hi;
    w.lo = lo;
    w.scale = scale;
    w.offset = offset;
    return w;
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
    auto* lo = w.lo ? arena.array<std::uint8_t>(panels * w.lo_panel()) : nullptr;
    auto* scale = arena.array<char>(entries * w.scale_width());
    auto* offset = w.offset ? arena.array<char>(entries * w.offset_width()) : nullptr;
    auto* unit = w.unit ? arena.array<float>(static_cast<std::size_t>(panels) * kPanel) : nullptr;
    const auto copy_entries = [groups](const void* in, int from, int width, char* out, int to) {
        const auto place = [&](int row, int g) {
            return ((static_cast<std::size_t>(row / kPanel) * groups + g) * kPanel + row % kPanel) *
                   width;
        };
        for (int g = 0; g < groups; ++g)
            std::memcpy(out + place(to, g), static_cast<const char*>(in) + place(from, g), width);
    };
    for (int to = 0; to < count; ++to) {
        copy_plane_row(w.hi, rows[to], w.k, hi, to);
        if (lo) copy_plane_row(w.lo, rows[to], w.lo_k * w.lo_bits / 4, lo, to);
        copy_entries(w.scale, rows[to], w.scale_width(), scale, to);
        if (offset) copy_entries(w.offset, rows[to], w.offset_width(), offset, to);
        if (unit) unit[to] = w.unit[rows[to]];
    }
    PackedPlanes gathered = w;
    gathered.hi = hi;
    gathered.lo = lo;
    gathered.scale = scale;
    gathered.offset = offset;
    gathered.unit = unit;
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

PackedPlanes panels_of(const PackedPlanes& w, int first, int count) {
    PackedPlanes part = w;
    const std::size_t p = first, entries = p * (w.k / w.group) * kPanel;
    part.n = count * kPanel;
    part.hi += p * w.k * (kPanel / 2);
    if (w.lo) part.lo += p * w.lo_panel();
    part.scale = static_cast<const char*>(w.scale) + entries * w.scale_width();
    if (w.offset) part.offset = static_cast<const char*>(w.offset) + entries * w.offset_width();
    if (w.unit) part.unit += p * kPanel;
    return part;
}

PackedDense panels_of(const PackedDense& w, int first, int count) {
    const std::size_t width = w.type == PackedDense::Type::kF32 ? 4 : 2;
    const std::size_t bytes = static_cast<std::size_t>(first) * w.k * kPanel * width;
    return {static_cast<const char*>(w.values) + bytes, w.type, count * kPanel, w.k};
}

void unpack_row(const PackedPlanes& w, int row, float* out) {
    const int p = row / kPanel, r = row % kPanel, groups = w.k / w.group;
    const std::size_t place = static_cast<std::size_t>(r / 16) * 64 + (r % 16) * 4;
    const std::uint8_t* hi_row = w.hi + static_cast<std::size_t>(p) * w.k * (kPanel / 2) + place;
    const std::uint8_t* lo_row = w.lo ? w.lo + p * w.lo_panel() + place : nullptr;
    const int first_lo = w.k - w.lo_k;
    const auto low = [&](int i) {
        if (i < first_lo) return 0;
        if (w.lo_bits == 4)
            return ((lo_row[(i - first_lo) / 8 * 128 + i % 4] >> (i % 8 < 4 ? 0 : 4)) & 15) - 8;
        constexpr int kShifts[] = {2, 6, 0, 4};  // of inputs 0-3, 4-7, 8-11 and 12-15
        return 4 * ((lo_row[i / 16 * 128 + i % 4] >> kShifts[i % 16 / 4]) & 3) - 8;
    };
    for (int i = 0; i < w.k; ++i) {
        const std::size_t byte = static_cast<std::size_t>(i / 8) * 128 + i % 4;
        const int shift = i % 8 < 4 ? 0 : 4;
        const std::size_t at = (static_cast<std::size_t>(p) * groups + i / w.group) * kPanel + r;
        const float s = scalar::scale_at(w, at);
        const int hi = ((hi_row[byte] >> shift) & 15) - 8;
        // s has 11 significant bits and the code 8, so the product is exact; with a unit, so is the
        // sum.
        float value = s * 0.0625f * static_cast<float>(16 * hi + low(i));
        if (w.offset) value += scalar::offset_at(w, at);
        out[i] = w.unit ? value * w.unit[row] : value;
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
    const std::size_t per_group = w.scale_width() + (w.offset ? w.offset_width() : 0);
    const std::size_t low = w.bits(bits) == 8 ? w.k : w.wide * w.group;
    return weights / 2 + w.n * low * w.lo_bits / 8 + weights / w.group * per_group +
           (w.unit ? w.n * sizeof(float) : 0);
}

std::size_t bytes_read(const PackedDense& w) {
    return static_cast<std::size_t>(w.n) * w.k * (w.type == PackedDense::Type::kF32 ? 4 : 2);
}

}  // namespace halfbyte
