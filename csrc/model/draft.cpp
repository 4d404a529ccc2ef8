// Calls that are several forwards: a draft or plain decoding, and a draft with its verify.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "model/model.h"

namespace halfbyte {

Draft Model::draft(const Step& step, LevelSpec level, const std::vector<std::int32_t>& lengths,
                   std::vector<SamplingRow> sampling, float min_confidence,
                   const std::atomic<bool>* interrupt) {
    const int B = step.sequences;
    const int most = *std::max_element(lengths.begin(), lengths.end());
    Draft result;
    result.tokens.assign(static_cast<std::size_t>(B) * most, 0);
    result.logprobs.assign(static_cast<std::size_t>(B) * most, 0);
    result.counts.assign(B, 0);

    // The sequences still drafting, compacted: which one, its rows and its pages.
    std::vector<std::int32_t> active, tokens, starts, first, pages, rows;
    std::vector<SamplingRow> how;
    std::vector<Choice> drawn(B);
    const auto compact = [&](auto&& keep) {
        std::size_t n = 0;
        for (std::size_t i = 0; i < active.size(); ++i) {
            if (!keep(i)) continue;
            active[n] = active[i];
            tokens[n] = tokens[i];
            first[n] = first[i];
            how[n] = how[i];
            ++n;
        }
        active.resize(n);
        tokens.resize(n);
        first.resize(n);
        how.resize(n);
    };
    const auto next = [&] {
        const int n = static_cast<int>(active.size());
        starts.resize(n + 1);
        rows.resize(n);
        pages.resize(static_cast<std::size_t>(n) * step.page_columns);
        for (int i = 0; i <= n; ++i) starts[i] = i;
        for (int i = 0; i < n; ++i) {
            rows[i] = i;
            std::copy_n(step.pages + static_cast<std::size_t>(active[i]) * step.page_columns,
                        step.page_columns,
                        pages.begin() + static_cast<std::size_t>(i) * step.page_columns);
        }
        Step one{n,
                 n,
                 tokens.data(),
                 starts.data(),
                 first.data(),
                 pages.data(),
                 step.page_columns,
                 rows.data(),
                 n};
        one.reduced = step.reduced;
        begin_step(one);
    };
    for (int b = 0; b < B; ++b) {
        active.push_back(b);
        tokens.push_back(step.tokens[b]);
        first.push_back(step.first[b]);
        how.push_back(sampling[b]);
    }
    compact([&](std::size_t i) { return lengths[active[i]] > 0; });
    if (active.empty()) return result;
    reserve({.num_logit_rows = static_cast<int>(active.size())});
    next();
    pool_.run([&](int thread) {
        while (true) {
            run_layers(level, thread);
            run_head(level, thread);
            sample_rows(how, drawn, thread);
            pool_.barrier();
            if (thread == 0) {
                compact([&](std::size_t i) {
                    const int b = active[i];
                    const bool sure =
                        drawn[i].token >= 0 &&
                        (min_confidence <= 0 || std::exp(drawn[i].logprob) >= min_confidence);
                    if (!sure) return false;
                    const std::size_t at = static_cast<std::size_t>(b) * most + result.counts[b]++;
                    result.tokens[at] = drawn[i].token;
                    result.logprobs[at] = drawn[i].logprob;
                    tokens[i] = drawn[i].token;
                    ++first[i];
                    ++how[i].position;
                    how[i].adjust.mask = nullptr;  // it was made for the first token
                    return result.counts[b] < lengths[b];
                });
                if (interrupt && interrupt->load(std::memory_order_relaxed)) active.clear();
                if (!active.empty()) next();
            }
            pool_.barrier();
            if (active.empty()) return;
        }
    });
    return result;
}

Speculation Model::draft_and_verify(const Step& roots, LevelSpec level,
                                    const std::vector<std::int32_t>& lengths, LevelSpec target,
                                    const std::vector<SamplingRow>& sampling,
                                    float min_confidence) {
    const auto started = std::chrono::steady_clock::now();
    Draft drafted = draft(roots, level, lengths, sampling, min_confidence);
    Speculation done;
    done.draft_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();

    // Each root and what was drafted after it; every row is sampled.
    const std::size_t most = drafted.tokens.size() / roots.sequences;
    std::vector<std::int32_t> tokens, starts{0}, rows;
    std::vector<SamplingRow> how;
    for (int b = 0; b < roots.sequences; ++b) {
        const std::int32_t* proposed = drafted.tokens.data() + b * most;
        const std::int32_t count = drafted.counts[b];
        // One that stopped early ran a forward more than it proposed.
        done.forwards = std::max(done.forwards, std::min(count + 1, lengths[b]));
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
    step.reduced = nullptr;
    const std::vector<Choice> sampled = forward_sample(step, target, how);

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
