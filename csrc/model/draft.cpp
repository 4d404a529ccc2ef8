// Calls that are several forwards: a draft or plain decoding, and a draft with its verify.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "model/model.h"

namespace halfbyte {

namespace {

// What a draft carries from one forward to the next: the sequences that still draft, one row each,
// and the tokens of all so far.
class Drafting {
  public:
    Drafting(const Step& roots, const DraftRun& run, std::vector<Sampling> sampling);

    bool ended() const { return active_.empty(); }
    int rows() const { return static_cast<int>(active_.size()); }
    const std::vector<Sampling>& sampling() const { return how_; }
    // The next forward. It points into this object.
    Step next();
    // Takes one token per row, and lets the sequences go whose draft ends with it.
    void take(const std::vector<Drawn>& drawn);

    Draft result;

  private:
    // Whether the sequence of row i goes on after this token.
    bool take_row(std::size_t i, const Drawn& drawn);
    template <typename Keep>
    void compact(Keep&& keep);

    const Step& roots_;
    const DraftRun& run_;
    int most_;                                           // tokens of the longest draft
    std::vector<std::int32_t> active_, tokens_, first_;  // [rows] sequence, last token, its place
    std::vector<Sampling> how_;                          // [rows]
    std::vector<std::int32_t> numbers_;                  // 0 .. B: row starts, and logit rows
    std::vector<std::int32_t> pages_;                    // [rows][page_columns]
};

Drafting::Drafting(const Step& roots, const DraftRun& run, std::vector<Sampling> sampling)
    : roots_(roots),
      run_(run),
      most_(*std::max_element(run.lengths.begin(), run.lengths.end())),
      tokens_(roots.tokens, roots.tokens + roots.sequences),
      first_(roots.first, roots.first + roots.sequences),
      how_(std::move(sampling)),
      numbers_(roots.sequences + 1) {
    const int B = roots.sequences;
    std::iota(numbers_.begin(), numbers_.end(), 0);
    active_.assign(numbers_.begin(), numbers_.end() - 1);
    result.tokens.assign(static_cast<std::size_t>(B) * most_, 0);
    result.logprobs.assign(static_cast<std::size_t>(B) * most_, 0);
    result.counts.assign(B, 0);
    compact([&](std::size_t i) { return run.lengths[i] > 0; });
}

// Keeps the rows for which keep(row) is true, in their order.
template <typename Keep>
void Drafting::compact(Keep&& keep) {
    std::size_t n = 0;
    for (std::size_t i = 0; i < active_.size(); ++i) {
        if (!keep(i)) continue;
        active_[n] = active_[i];
        tokens_[n] = tokens_[i];
        first_[n] = first_[i];
        how_[n] = how_[i];
        ++n;
    }
    active_.resize(n);
    tokens_.resize(n);
    first_.resize(n);
    how_.resize(n);
}

Step Drafting::next() {
    const std::size_t columns = roots_.page_columns;
    pages_.resize(active_.size() * columns);
    for (std::size_t i = 0; i < active_.size(); ++i)
        std::copy_n(roots_.pages + active_[i] * columns, columns, pages_.begin() + i * columns);
    return {.rows = rows(),
            .sequences = rows(),
            .tokens = tokens_.data(),
            .row_starts = numbers_.data(),
            .first = first_.data(),
            .pages = pages_.data(),
            .page_columns = roots_.page_columns,
            .logit_rows = numbers_.data(),
            .num_logit_rows = rows(),
            .reduced = run_.reduced};
}

void Drafting::take(const std::vector<Drawn>& drawn) {
    compact([&](std::size_t i) { return take_row(i, drawn[i]); });
    if (run_.interrupt && run_.interrupt->load(std::memory_order_relaxed)) active_.clear();
}

bool Drafting::take_row(std::size_t i, const Drawn& drawn) {
    const bool sure = drawn.token >= 0 &&
                      (run_.min_confidence <= 0 || std::exp(drawn.logprob) >= run_.min_confidence);
    if (!sure) return false;
    const int b = active_[i];
    const std::size_t at = static_cast<std::size_t>(b) * most_ + result.counts[b]++;
    result.tokens[at] = drawn.token;
    result.logprobs[at] = drawn.logprob;
    tokens_[i] = drawn.token;
    ++first_[i];
    ++how_[i].position;
    how_[i].adjust.mask = nullptr;  // made for the first token
    return result.counts[b] < run_.lengths[b];
}

}  // namespace

Draft Model::draft(const Step& roots, const DraftRun& run, std::vector<Sampling> sampling) {
    Drafting drafting(roots, run, std::move(sampling));
    if (drafting.ended()) return std::move(drafting.result);
    reserve({.num_logit_rows = drafting.rows()});
    begin_step(drafting.next());
    std::vector<Drawn> drawn(drafting.rows());
    pool_.run([&](int thread) {
        while (true) {
            run_layers(run.level, thread);
            run_head(run.level, thread);
            sample_rows(drafting.sampling(), drawn, thread);
            pool_.barrier();
            if (thread == 0) {
                drafting.take(drawn);
                if (!drafting.ended()) begin_step(drafting.next());
            }
            pool_.barrier();
            if (drafting.ended()) return;
        }
    });
    return std::move(drafting.result);
}

Speculation Model::draft_and_verify(const Step& roots, const DraftRun& run, LevelSpec target,
                                    const std::vector<Sampling>& sampling) {
    const auto started = std::chrono::steady_clock::now();
    Draft drafted = draft(roots, run, sampling);
    Speculation done;
    done.draft_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();

    // Each root and what was drafted after it; every row is sampled.
    const std::size_t most = drafted.tokens.size() / roots.sequences;
    std::vector<std::int32_t> tokens, starts{0}, rows;
    std::vector<Sampling> how;
    for (int b = 0; b < roots.sequences; ++b) {
        const std::int32_t* proposed = drafted.tokens.data() + b * most;
        const std::int32_t count = drafted.counts[b];
        // One that stopped early ran a forward more than it proposed.
        done.forwards = std::max(done.forwards, std::min(count + 1, run.lengths[b]));
        tokens.push_back(roots.tokens[b]);
        tokens.insert(tokens.end(), proposed, proposed + count);
        starts.push_back(static_cast<std::int32_t>(tokens.size()));
        for (int i = 0; i <= count; ++i) {
            rows.push_back(static_cast<std::int32_t>(rows.size()));
            how.push_back(sampling[b]);
            how.back().position += i;
        }
    }
    Step step = roots;
    step.rows = step.num_logit_rows = static_cast<int>(rows.size());
    step.tokens = tokens.data();
    step.row_starts = starts.data();
    step.logit_rows = rows.data();
    const std::vector<Drawn> sampled = forward_sample(step, target, how);

    for (int b = 0; b < roots.sequences; ++b) {
        auto& got = done.tokens.emplace_back();
        auto& logprobs = done.logprobs.emplace_back();
        for (int m = starts[b]; m < starts[b + 1]; ++m) {
            got.push_back(sampled[m].token);
            logprobs.push_back(sampled[m].logprob);
            if (m + 1 < starts[b + 1] && tokens[m + 1] != sampled[m].token) break;
        }
    }
    done.proposed = std::move(drafted.counts);
    return done;
}

}  // namespace halfbyte
