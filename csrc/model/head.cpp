// What only draft heads and their targets need: features kept beside the KV, the best tokens of a
// row.
#include <algorithm>
#include <stdexcept>

#include "model/model.h"

namespace halfbyte {

void Model::keep_features(std::vector<int> taps) {
    if (taps == taps_) return;
    if (!taps_.empty()) throw std::invalid_argument("other features are kept already");
    taps_ = std::move(taps);
    kept_base_ = kv_.array<float>(static_cast<std::size_t>(pages_) * page_size_ * kept_width());
}

Best Model::forward_best(const Step& step, LevelSpec level, int k, float* hidden) {
    reserve(step);
    begin_step(step);
    const std::size_t R = step.num_logit_rows, H = shape_.hidden;
    Best best;
    best.tokens.resize(R * k);
    best.logprobs.resize(R * k);
    std::vector<Sampling> tops(R);
    for (std::size_t r = 0; r < R; ++r) {
        tops[r].tops = k;
        tops[r].top_ids = best.tokens.data() + r * k;
        tops[r].top_logprobs = best.logprobs.data() + r * k;
    }
    std::vector<Drawn> first(R);
    pool_.run([&](int thread) {
        run_layers(level, thread);
        run_head(level, thread);
        sample_rows(tops, first, thread);
        for (std::size_t r = thread; r < R; r += pool_.size())
            std::copy_n(x_ + static_cast<std::size_t>(step.logit_rows[r]) * round_up(H, kPanel), H,
                        hidden + r * H);
    });
    return best;
}

}  // namespace halfbyte
