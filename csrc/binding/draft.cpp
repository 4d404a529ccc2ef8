// Calls of a NativeModel that are several forwards: a draft, plain decoding, a draft and its
// verify. What they are asked for is checked first, for all of them.
#include <algorithm>
#include <numeric>

#include "binding/binding.h"

namespace halfbyte {
namespace {

// The first `count` values as the array they would be.
Array<std::int32_t, 1> view(const std::vector<std::int32_t>& values, std::size_t count) {
    return Array<std::int32_t, 1>(values.data(), 1, &count);
}

// 0 .. B: where the rows of B sequences with one row each start, and which these are.
std::vector<std::int32_t> one_row_each(std::size_t B) {
    std::vector<std::int32_t> starts(B + 1);
    std::iota(starts.begin(), starts.end(), 0);
    return starts;
}

std::vector<std::int32_t> checked_lengths(const Array<std::int32_t, 1>& lengths, std::size_t B) {
    expect(B > 0 && lengths.shape(0) == B, "draft: one length a sequence");
    std::vector<std::int32_t> taken(lengths.data(), lengths.data() + B);
    for (const std::int32_t length : taken)
        expect(length >= 0 && length <= 4096, "draft lengths must be 0..4096");
    return taken;
}

}  // namespace

Step NativeModel::checked_roots(const Array<std::int32_t, 1>& tokens,
                                const Array<std::int32_t, 1>& first,
                                const Array<std::int32_t, 2>& pages,
                                const std::vector<std::int32_t>& starts,
                                const std::vector<std::int32_t>& forwards) const {
    const std::size_t B = starts.size() - 1;
    return checked(tokens, view(starts, B + 1), first, pages, view(starts, B), std::nullopt,
                   forwards.data());
}

std::tuple<Result<std::int32_t>, Result<std::int32_t>> NativeModel::draft(
    Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages,
    LevelBits level, Array<std::int32_t, 1> lengths, const SamplingArrays& sampling,
    const std::optional<AdjustmentArrays>& adjustments, float min_confidence, int head) {
    const std::size_t B = tokens.shape(0);
    const ReducedHead* reduced = reduced_head(head);
    const LevelSpec at = checked_level(level, reduced);
    const auto wanted = checked_lengths(lengths, B);
    const auto starts = one_row_each(B);
    Step roots = checked_roots(tokens, first, pages, starts, wanted);
    roots.reduced = reduced;
    auto how = sampling_rows(B, sampling);
    if (adjustments) adjust_rows(*adjustments, how);
    Draft drafted;
    {
        const Call call(mutex_);
        drafted = model_->draft(roots, at, wanted, std::move(how), min_confidence);
    }
    const std::size_t most = drafted.tokens.size() / B;
    return {to_numpy(std::move(drafted.tokens), {B, most}),
            to_numpy(std::move(drafted.counts), {B})};
}

std::tuple<Result<std::int32_t>, Result<float>> NativeModel::decode(
    Array<std::int32_t, 1> tokens, Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages,
    LevelBits level, int length, const SamplingArrays& sampling) {
    const std::size_t B = tokens.shape(0);
    expect(length > 0, "decode: at least one token");
    const LevelSpec at = checked_level(level);
    const std::vector<std::int32_t> each(B, length);
    const auto wanted = checked_lengths(view(each, B), B);
    const auto starts = one_row_each(B);
    const Step roots = checked_roots(tokens, first, pages, starts, wanted);
    auto how = sampling_rows(B, sampling);
    Draft decoded;
    {
        const Call call(mutex_);
        decoded = model_->draft(roots, at, wanted, std::move(how), 0, &interrupt_.wanted);
    }
    // All sequences end after the same number of tokens.
    const std::size_t n = static_cast<std::size_t>(decoded.counts[0]);
    std::vector<std::int32_t> ids(B * n);
    std::vector<float> logprobs(B * n);
    for (std::size_t b = 0; b < B; ++b) {
        std::copy_n(decoded.tokens.data() + b * length, n, ids.data() + b * n);
        std::copy_n(decoded.logprobs.data() + b * length, n, logprobs.data() + b * n);
    }
    return {to_numpy(std::move(ids), {B, n}), to_numpy(std::move(logprobs), {B, n})};
}

Speculated NativeModel::draft_and_verify(Array<std::int32_t, 1> tokens,
                                         Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages,
                                         LevelBits level, Array<std::int32_t, 1> lengths,
                                         LevelBits target, const SamplingArrays& sampling,
                                         float min_confidence, int head) {
    const std::size_t B = tokens.shape(0);
    const ReducedHead* reduced = reduced_head(head);
    const LevelSpec draft_level = checked_level(level, reduced);
    const LevelSpec target_level = checked_level(target);
    const auto wanted = checked_lengths(lengths, B);
    std::vector<std::int32_t> rows_of(wanted);
    std::int64_t most_rows = 0;
    for (std::int32_t& rows : rows_of) most_rows += ++rows;
    expect(most_rows <= model_->max_rows(), "rows must be 1..max_rows");
    const auto starts = one_row_each(B);
    Step roots = checked_roots(tokens, first, pages, starts, rows_of);
    roots.reduced = reduced;
    const auto how = sampling_rows(B, sampling);
    Speculation done;
    {
        const Call call(mutex_);
        done =
            model_->draft_and_verify(roots, draft_level, wanted, target_level, how, min_confidence);
    }
    return {std::move(done.tokens), std::move(done.logprobs), std::move(done.proposed),
            done.forwards, done.draft_seconds};
}

}  // namespace halfbyte
