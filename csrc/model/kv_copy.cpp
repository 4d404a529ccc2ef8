// Copies KV, and features kept beside it, between slots: an accepted path of a token tree becomes
// the next committed positions.
#include <algorithm>
#include <cstring>

#include "model/model.h"

namespace halfbyte {

void Model::copy_kv(const std::int32_t* pages, const std::int32_t* sources,
                    const std::int32_t* targets, int count) {
    // K [D][S]: a slot is a column; V [S][D]: a slot is a row.
    const int S = page_size_;
    const std::size_t width = kv_bytes(kv_type_);
    std::vector<char> held;
    const auto move = [&](char* block, int D, int slot, char* kept, bool in) {
        const std::size_t half = static_cast<std::size_t>(D) * S;
        for (int d = 0; d < D; ++d) {
            char* k = block + (static_cast<std::size_t>(d) * S + slot) * width;
            std::memcpy(in ? kept + d * width : k, in ? k : kept + d * width, width);
        }
        char* v = block + (half + static_cast<std::size_t>(slot) * D) * width;
        kept += D * width;
        std::memcpy(in ? kept : v, in ? v : kept, D * width);
    };
    std::vector<float> features(static_cast<std::size_t>(count) * kept_width());
    for (const bool in : {true, false}) {
        for (int i = 0; i < count && kept_width(); ++i) {
            const int slot = in ? sources[i] : targets[i];
            float* there = const_cast<float*>(kept(pages[slot / S], slot % S));
            float* own = features.data() + static_cast<std::size_t>(i) * kept_width();
            std::copy_n(in ? there : own, kept_width(), in ? own : there);
        }
    }
    for (int layer = 0; layer < shape_.layers(); ++layer) {
        const AttentionShape& s = shape_.layer(layer).attention;
        const int D = s.head_dim;
        held.resize(static_cast<std::size_t>(count) * 2 * D * width);
        for (int h = 0; h < s.kv_heads; ++h) {
            for (const bool in : {true, false}) {
                const std::int32_t* slots = in ? sources : targets;
                for (int i = 0; i < count; ++i)
                    move(key_block(layer, pages[slots[i] / S], h), D, slots[i] % S,
                         held.data() + static_cast<std::size_t>(i) * 2 * D * width, in);
            }
        }
    }
}

}  // namespace halfbyte
