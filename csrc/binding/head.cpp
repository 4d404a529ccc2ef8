// Draft heads of a NativeModel: what they share with their target, the features they read, their
// own step.
#include <algorithm>

#include "binding/binding.h"

namespace halfbyte {

void NativeModel::share(const NativeModel& other, bool with_head) {
    expect(&other != this, "a head shares with its target, not with itself");
    const std::scoped_lock lock(mutex_, other.mutex_);
    expect_open("share");
    const Model& from = *other.model_;
    const ModelShape &s = model_->shape(), &t = from.shape();
    expect(s.hidden == t.hidden && s.tokens() == t.vocab && from.embed.k(),
           "a head reads the embedding of its own target only");
    expect(!with_head || s.vocab == t.vocab, "the target's head scores the whole vocabulary");
    model_->embed = from.embed;
    if (with_head) model_->head = from.head;
}

int NativeModel::reduce_head(Array<std::int32_t, 1> ids) {
    const std::size_t n = ids.shape(0);
    expect_running();
    expect(n > 0 && ids(0) >= 0 && ids(n - 1) < model_->shape().vocab,
           "reduce_head: ids of the vocabulary");
    for (std::size_t i = 1; i < n; ++i) expect(ids(i - 1) < ids(i), "reduce_head: ids must rise");
    std::vector<std::int32_t> copied(ids.data(), ids.data() + n);
    const ReducedHead* made;
    {
        const Call call(mutex_);
        made = model_->reduce_head(std::move(copied));
    }
    reduced_.push_back(made);
    return static_cast<int>(reduced_.size());
}

void NativeModel::keep_features(std::vector<int> taps) {
    const std::lock_guard lock(mutex_);
    expect_running();
    expect(!taps.empty() && taps.size() <= 8, "1 to 8 taps");
    for (const int tap : taps)
        expect(tap >= 0 && tap <= model_->shape().layers(), "a tap is 0..layers");
    model_->keep_features(std::move(taps));
}

Result<float> NativeModel::read_features(Array<std::int32_t, 1> pages,
                                         Array<std::int32_t, 1> positions) {
    expect_running();
    const int S = model_->page_size(), W = model_->kept_width();
    expect(W > 0, "no features are kept");
    const std::size_t n = positions.shape(0);
    std::vector<float> out(n * W);
    for (std::size_t i = 0; i < n; ++i) {
        const std::int64_t column = positions(i) / S;
        expect(positions(i) >= 0 && column < static_cast<std::int64_t>(pages.shape(0)) &&
                   pages(column) >= 0 && pages(column) < model_->pages(),
               "read_features: a position outside the page table");
    }
    {
        const Call call(mutex_);
        for (std::size_t i = 0; i < n; ++i)
            std::copy_n(model_->kept(pages(positions(i) / S), positions(i) % S), W,
                        out.data() + i * W);
    }
    return to_numpy(std::move(out), {n, static_cast<std::size_t>(W)});
}

std::tuple<Result<std::int32_t>, Result<float>, Result<float>> NativeModel::forward_best(
    const BatchArrays& batch, LevelBits level, Array<std::int32_t, 1> logit_rows,
    Array<float, 2> features, int k) {
    Step step = checked(batch, logit_rows, nullptr, true);
    const LevelSpec at = checked_level(level);
    const ModelShape& s = model_->shape();
    const std::size_t width = features.shape(1), R = step.num_logit_rows, H = s.hidden;
    expect(s.features > 0 && features.shape(0) == batch.tokens.shape(0) &&
               (width == static_cast<std::size_t>(s.features) || width == H),
           "a draft head needs the features of every row");
    expect(k > 0 && k <= s.vocab && R * k <= kMostTops,
           "k must be 1..vocabulary, and fewer than 2^28 in all rows");
    step.features = features.data();
    step.feature_width = static_cast<int>(width);
    std::vector<float> hidden(R * H);
    Best best;
    {
        const Call call(mutex_);
        best = model_->forward_best(step, at, k, hidden.data());
    }
    const std::size_t count = k;
    return {to_numpy(std::move(best.tokens), {R, count}),
            to_numpy(std::move(best.logprobs), {R, count}), to_numpy(std::move(hidden), {R, H})};
}

}  // namespace halfbyte
