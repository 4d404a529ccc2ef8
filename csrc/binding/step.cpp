// The steps of a NativeModel: what a forward and the KV pool are asked for is checked first.
#include <algorithm>
#include <cstring>

#include "binding/binding.h"

namespace halfbyte {
namespace {

constexpr std::int64_t kMostPositions = 1 << 30;

// Whether rows [begin, end), all of one sequence, are a tree; `last`: its last slot, or position,
// past base.
bool checked_paths(const Array<std::int32_t, 2>& paths, std::int64_t begin, std::int64_t end,
                   std::int64_t& last) {
    std::vector<std::int32_t> own;
    for (std::int64_t m = begin; m < end; ++m) {
        std::size_t length = 0;
        for (; length < paths.shape(1) && paths(m, length) >= 0; ++length)
            last = std::max<std::int64_t>(last, paths(m, length));
        last = std::max<std::int64_t>(last, static_cast<std::int64_t>(length) - 1);
        if (length > 0) own.push_back(paths(m, length - 1));
    }
    expect(own.empty() || static_cast<std::int64_t>(own.size()) == end - begin,
           "either every row of a sequence has a path or none");
    std::sort(own.begin(), own.end());
    expect(std::adjacent_find(own.begin(), own.end()) == own.end(),
           "two rows of a tree share a slot");
    return !own.empty();
}

bool allows_any(const std::uint32_t* mask, std::size_t vocab) {
    for (std::size_t w = 0; w < vocab / 32; ++w)
        if (mask[w]) return true;
    return vocab % 32 && (mask[vocab / 32] & ((1u << vocab % 32) - 1));
}

}  // namespace

std::vector<Sampling> sampling_rows(std::size_t R, const SamplingBytes& bytes) {
    expect(bytes.shape(0) == R * sizeof(SamplingRow), "sampling needs one record per row");
    std::vector<Sampling> rows(R);
    for (std::size_t r = 0; r < R; ++r)
        std::memcpy(static_cast<SamplingRow*>(&rows[r]), bytes.data() + r * sizeof(SamplingRow),
                    sizeof(SamplingRow));
    return rows;
}

std::vector<Sampling> root_sampling(std::size_t R, const SamplingBytes& bytes) {
    std::vector<Sampling> rows = sampling_rows(R, bytes);
    for (Sampling& row : rows) {
        row.forced = -1;
        row.tops = 0;
    }
    return rows;
}

Result<float> NativeModel::forward(const BatchArrays& batch, LevelBits level,
                                   Array<std::int32_t, 1> logit_rows) {
    const Step step = checked(batch, logit_rows);
    const LevelSpec at = checked_level(level);
    const std::size_t V = model_->shape().vocab, R = step.num_logit_rows;
    std::vector<float> out(R * V);
    {
        const Call call(mutex_);
        model_->forward(step, at);
        for (std::size_t r = 0; r < R; ++r) std::copy_n(model_->logits(r), V, out.data() + r * V);
    }
    return to_numpy(std::move(out), {R, V});
}

std::tuple<Result<std::int32_t>, Result<float>, Result<std::int32_t>, Result<float>>
NativeModel::forward_sample(const BatchArrays& batch, LevelBits level,
                            Array<std::int32_t, 1> logit_rows, const SamplingBytes& sampling,
                            const std::optional<AdjustmentArrays>& adjustments) {
    const Step step = checked(batch, logit_rows);
    const LevelSpec at = checked_level(level);
    const std::size_t R = step.num_logit_rows;
    auto rows = sampling_rows(R, sampling);
    if (adjustments) adjust_rows(*adjustments, rows);
    check_forced(rows);
    const std::size_t N = most_tops(rows);
    std::vector<std::int32_t> top_ids(R * N, -1);
    std::vector<float> top_logprobs(R * N);
    for (std::size_t r = 0; N && r < R; ++r) {
        rows[r].top_ids = top_ids.data() + r * N;
        rows[r].top_logprobs = top_logprobs.data() + r * N;
    }
    std::vector<Drawn> drawn;
    {
        const Call call(mutex_);
        drawn = model_->forward_sample(step, at, rows);
    }
    std::vector<std::int32_t> ids(R);
    std::vector<float> logprobs(R);
    for (std::size_t r = 0; r < R; ++r) {
        ids[r] = drawn[r].token;
        logprobs[r] = drawn[r].logprob;
    }
    return {to_numpy(std::move(ids), {R}), to_numpy(std::move(logprobs), {R}),
            to_numpy(std::move(top_ids), {R, N}), to_numpy(std::move(top_logprobs), {R, N})};
}

std::tuple<Result<float>, Result<float>, Result<float>, Result<float>, Result<float>>
NativeModel::capture_layer(int layer, Array<float, 2> x, Array<std::int32_t, 1> row_starts,
                           Array<std::int32_t, 1> first, Array<std::int32_t, 2> pages,
                           int weight_bits, int act_bits) {
    const ModelShape& s = model_->shape();
    expect(layer >= 0 && layer < s.layers(), "capture_layer: no such layer");
    const std::size_t M = x.shape(0), hidden = s.hidden,
                      inner = s.layer(layer).experts.count ? 0 : s.layer(layer).inner.size;
    const std::size_t attended = s.layer(layer).attention.width();
    expect(x.shape(1) == hidden, "capture_layer: rows of the wrong width");
    const std::vector<std::int32_t> tokens(M, 0);
    const std::size_t none = 0;
    const Array<std::int32_t, 1> no_rows(tokens.data(), 1, &none);
    const Step step = checked({.tokens = Array<std::int32_t, 1>(tokens.data(), 1, &M),
                               .row_starts = row_starts,
                               .first_positions = first,
                               .page_tables = pages},
                              no_rows);
    const LevelSpec level = checked_level({weight_bits, act_bits, weight_bits});
    std::vector<float> qkv(M * hidden), o(M * attended), gate_up(M * hidden), down(M * inner),
        out(M * hidden);
    {
        const Call call(mutex_);
        model_->capture_layer(step, level, layer, x.data(),
                              {qkv.data(), o.data(), gate_up.data(), down.data(), out.data()});
    }
    return {to_numpy(std::move(qkv), {M, hidden}), to_numpy(std::move(o), {M, attended}),
            to_numpy(std::move(gate_up), {M, hidden}), to_numpy(std::move(down), {M, inner}),
            to_numpy(std::move(out), {M, hidden})};
}

void NativeModel::copy_kv(Array<std::int32_t, 1> pages, Array<std::int32_t, 1> sources,
                          Array<std::int32_t, 1> targets) {
    expect_running();
    const std::size_t count = sources.shape(0);
    expect(targets.shape(0) == count, "copy_kv: as many targets as sources");
    for (const auto* slots : {&sources, &targets})
        for (std::size_t i = 0; i < count; ++i) {
            const std::int64_t column = (*slots)(i) / model_->page_size();
            expect((*slots)(i) >= 0 && column < static_cast<std::int64_t>(pages.shape(0)) &&
                       pages(column) >= 0 && pages(column) < model_->pages(),
                   "copy_kv: a slot outside the page table");
        }
    const Call call(mutex_);
    model_->copy_kv(pages.data(), sources.data(), targets.data(), static_cast<int>(count));
}

std::tuple<Result<std::uint8_t>, Result<std::uint8_t>> NativeModel::read_kv(int layer, int page) {
    const ModelShape& s = model_->shape();
    expect(layer >= 0 && layer < s.layers() && page >= 0 && page < model_->pages(),
           "read_kv: no such page");
    const std::size_t width = kv_bytes(model_->kv_type());
    const AttentionShape& a = s.layer(layer).attention;
    const std::size_t H = a.kv_heads, D = a.head_dim, S = model_->page_size();
    const std::size_t half = D * S * width;
    std::vector<std::uint8_t> k, v;
    {
        const Call call(mutex_);
        const auto* base = static_cast<const std::uint8_t*>(model_->page(layer, page));
        for (std::size_t h = 0; h < H; ++h) {
            k.insert(k.end(), base + 2 * h * half, base + (2 * h + 1) * half);
            v.insert(v.end(), base + (2 * h + 1) * half, base + (2 * h + 2) * half);
        }
    }
    return {to_numpy(std::move(k), {H, D, S * width}), to_numpy(std::move(v), {H, S, D * width})};
}

std::size_t NativeModel::bytes_read(LevelBits level, int head) {
    expect_running();
    const ReducedHead* reduced = reduced_head(head);
    return model_->bytes_read(checked_level(level, reduced), reduced);
}

Step NativeModel::checked(const BatchArrays& batch, const Array<std::int32_t, 1>& logit_rows,
                          const std::int32_t* forwards, bool head) const {
    const auto& [tokens, row_starts, first, pages, paths] = batch;
    const std::size_t M = tokens.shape(0), B = first.shape(0);
    expect_running();
    expect(model_->shape().features == 0 || head, "a draft head runs forward_best only");
    expect(M > 0 && M <= static_cast<std::size_t>(model_->max_rows()), "rows must be 1..max_rows");
    expect(row_starts.shape(0) == B + 1 && pages.shape(0) == B && row_starts(0) == 0 &&
               row_starts(B) == static_cast<std::int32_t>(M),
           "row_starts must run from 0 to M over B sequences");
    for (std::size_t m = 0; m < M; ++m)
        expect(tokens(m) >= 0 && tokens(m) < model_->shape().tokens(),
               "token id outside the vocabulary");
    expect(!paths || (paths->shape(0) == M && paths->shape(1) > 0), "paths must be [M, W]");
    for (std::size_t b = 0; b < B; ++b) {
        const std::int64_t begin = row_starts(b), end = row_starts(b + 1);
        expect(begin < end && end <= static_cast<std::int64_t>(M) && first(b) >= 0,
               "every sequence needs rows and a position");
        std::int64_t beyond = 0, last = first(b) + (forwards ? forwards[b] : end - begin) - 1;
        if (paths && checked_paths(*paths, begin, end, beyond)) last = first(b) + beyond;
        const std::int64_t columns = last < 0 ? 0 : last / model_->page_size() + 1;
        expect(columns <= static_cast<std::int64_t>(pages.shape(1)),
               "page table too short for the positions");
        expect(last < kMostPositions, "a position beyond 2^30");
        for (std::int64_t c = 0; c < columns; ++c)
            expect(pages(b, c) >= 0 && pages(b, c) < model_->pages(), "page table names no page");
    }
    expect(logit_rows.shape(0) <= static_cast<std::size_t>(model_->max_rows()),
           "logit rows must be at most max_rows");
    for (std::size_t r = 0; r < logit_rows.shape(0); ++r)
        expect(logit_rows(r) >= 0 && logit_rows(r) < static_cast<std::int32_t>(M),
               "logit row outside the step");
    return {.rows = static_cast<int>(M),
            .sequences = static_cast<int>(B),
            .tokens = tokens.data(),
            .row_starts = row_starts.data(),
            .first = first.data(),
            .pages = pages.data(),
            .page_columns = static_cast<int>(pages.shape(1)),
            .logit_rows = logit_rows.data(),
            .num_logit_rows = static_cast<int>(logit_rows.shape(0)),
            .paths = paths ? paths->data() : nullptr,
            .path_width = paths ? static_cast<int>(paths->shape(1)) : 0};
}

const ReducedHead* NativeModel::reduced_head(int number) const {
    expect(number >= 0 && number <= static_cast<int>(reduced_.size()), "no such head");
    return number ? reduced_[number - 1] : nullptr;
}

LevelSpec NativeModel::checked_level(LevelBits level, const ReducedHead* reduced) const {
    expect_running();
    const auto [weight_bits, act_bits, head_bits] = level;
    expect(dense_ == (weight_bits == 32), "f32 needs dense weights, the other levels planes");
    expect(dense_ || weight_bits == 4 || (weight_bits == 8 && has_lo()),
           "this model has no planes for that level");
    expect(dense_ ? act_bits == 32 : act_bits == 4 || act_bits == 8 || act_bits == 16,
           "act_bits must be 4, 8 or 16, or 32 with dense weights");
    expect(head_bits == 4 || head_bits == 8 || head_bits == 32, "head_bits must be 4, 8 or 32");
    expect(act_bits != 32 || (reduced ? reduced->head : model_->head).dense,
           "f32 needs a dense head");
    return {weight_bits, act_bits, head_bits};
}

void NativeModel::adjust_rows(const AdjustmentArrays& arrays, std::vector<Sampling>& rows) const {
    const auto& [starts, ids, adds, factors, subtracts, mask_rows, masks] = arrays;
    const std::size_t R = rows.size(), E = ids.shape(0), K = masks.shape(0);
    const std::size_t vocab = model_->shape().vocab, words = (vocab + 31) / 32;
    expect(starts.shape(0) == R + 1 && mask_rows.shape(0) == R, "adjustments: one entry a row");
    expect(adds.shape(0) == E && factors.shape(0) == E && subtracts.shape(0) == E,
           "adjustments: one value of each kind for each id");
    expect(starts(0) == 0 && starts(R) == static_cast<std::int32_t>(E),
           "adjustments: starts must run from 0 to the number of ids");
    expect(K == 0 || masks.shape(1) == words, "masks: one bit a token");
    for (std::size_t e = 0; e < E; ++e)
        expect(ids(e) >= 0 && static_cast<std::size_t>(ids(e)) < vocab && factors(e) > 0.0f,
               "adjustments: token id outside the vocabulary, or a factor that is not above 0");
    for (std::size_t r = 0; r < R; ++r) {
        expect(starts(r) <= starts(r + 1), "adjustments: starts must not fall");
        const std::size_t at = starts(r);
        rows[r].adjust = {.ids = ids.data() + at,
                          .adds = adds.data() + at,
                          .factors = factors.data() + at,
                          .subtracts = subtracts.data() + at,
                          .count = static_cast<std::size_t>(starts(r + 1) - starts(r))};
        if (mask_rows(r) < 0) continue;
        expect(static_cast<std::size_t>(mask_rows(r)) < K, "mask_rows names no mask");
        rows[r].adjust.mask = masks.data() + mask_rows(r) * words;
        expect(allows_any(rows[r].adjust.mask, vocab), "a mask allows no token");
    }
}

void NativeModel::check_forced(const std::vector<Sampling>& rows) const {
    for (const Sampling& row : rows)
        expect(row.forced < model_->shape().vocab, "forced token outside the vocabulary");
}

std::size_t NativeModel::most_tops(const std::vector<Sampling>& rows) const {
    std::int32_t most = 0;
    for (const Sampling& row : rows) {
        expect(row.tops >= 0 && row.tops <= model_->shape().vocab, "tops must be 0..vocabulary");
        most = std::max(most, row.tops);
    }
    expect(most * rows.size() <= kMostTops, "tops must be fewer than 2^28 in all rows");
    return most;
}

}  // namespace halfbyte
