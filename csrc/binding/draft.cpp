// Calls of a NativeModel that are several forwards: a draft, plain decoding, a draft and its
// verify. What they are asked for is checked first, for all of them.
#include <algorithm>
#include <numeric>

#include "binding/binding.h"

namespace halfbyte {
namespace {

// 0 .. B - 1: the rows of B sequences with one row each.
std::vector<std::int32_t> one_row_each(std::size_t B) {
    std::vector<std::int32_t> rows(B);
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
}

void check_length(std::int32_t length) {
    expect(length >= 0 && length <= 4096, "draft lengths must be 0..4096");
}

}  // namespace

Step NativeModel::checked_roots(const BatchArrays& roots, const std::vector<std::int32_t>& rows,
                                const std::vector<std::int32_t>& forwards) const {
    const std::size_t B = rows.size();
    expect(B > 0 && roots.tokens.shape(0) == B && !roots.paths, "one row per sequence, no tree");
    return checked(roots, Array<std::int32_t, 1>(rows.data(), 1, &B), forwards.data());
}

DraftRun NativeModel::checked_run(const DraftArrays& run, LevelBits level, std::size_t B) const {
    const ReducedHead* reduced = reduced_head(run.head);
    expect(run.lengths.shape(0) == B, "draft: one length per sequence");
    for (std::size_t b = 0; b < B; ++b) check_length(run.lengths(b));
    return {.level = checked_level(level, reduced),
            .lengths = {run.lengths.data(), run.lengths.data() + B},
            .min_confidence = run.min_confidence,
            .reduced = reduced};
}

std::tuple<Result<std::int32_t>, Result<std::int32_t>> NativeModel::draft(
    const BatchArrays& roots, const DraftArrays& run, LevelBits level,
    const SamplingBytes& sampling, const std::optional<AdjustmentArrays>& adjustments) {
    const std::size_t B = roots.first_positions.shape(0);
    const DraftRun wanted = checked_run(run, level, B);
    const auto rows = one_row_each(B);
    const Step step = checked_roots(roots, rows, wanted.lengths);
    auto how = root_sampling(B, sampling);
    if (adjustments) adjust_rows(*adjustments, how);
    Draft drafted;
    {
        const Call call(mutex_);
        drafted = model_->draft(step, wanted, std::move(how));
    }
    const std::size_t most = drafted.tokens.size() / B;
    return {to_numpy(std::move(drafted.tokens), {B, most}),
            to_numpy(std::move(drafted.counts), {B})};
}

std::tuple<Result<std::int32_t>, Result<float>> NativeModel::decode(const BatchArrays& roots,
                                                                    LevelBits level, int length,
                                                                    const SamplingBytes& sampling) {
    const std::size_t B = roots.first_positions.shape(0);
    expect(length > 0, "decode: at least one token");
    check_length(length);
    const DraftRun wanted{.level = checked_level(level),
                          .lengths = std::vector<std::int32_t>(B, length),
                          .interrupt = &interrupt_.wanted};
    const auto rows = one_row_each(B);
    const Step step = checked_roots(roots, rows, wanted.lengths);
    auto how = root_sampling(B, sampling);
    Draft decoded;
    {
        const Call call(mutex_);
        decoded = model_->draft(step, wanted, std::move(how));
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

Speculated NativeModel::draft_and_verify(const BatchArrays& roots, const DraftArrays& run,
                                         LevelBits level, LevelBits target,
                                         const SamplingBytes& sampling) {
    const std::size_t B = roots.first_positions.shape(0);
    const DraftRun wanted = checked_run(run, level, B);
    const LevelSpec target_level = checked_level(target);
    std::vector<std::int32_t> verified = wanted.lengths;
    std::int64_t most_rows = 0;
    for (std::int32_t& rows : verified) most_rows += ++rows;
    expect(most_rows <= model_->max_rows(), "rows must be 1..max_rows");
    const auto rows = one_row_each(B);
    const Step step = checked_roots(roots, rows, verified);
    const auto how = root_sampling(B, sampling);
    Speculation done;
    {
        const Call call(mutex_);
        done = model_->draft_and_verify(step, wanted, target_level, how);
    }
    return {std::move(done.tokens), std::move(done.logprobs), std::move(done.proposed),
            done.forwards, done.draft_seconds};
}

}  // namespace halfbyte
