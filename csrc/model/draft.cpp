// Calls that are several forwards: a draft or plain decoding, and a draft with its verify.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "model/model.h"

namespace halfbyte {

Draft Model::draft(const Step& roots, const DraftRun& run, std::vector<Sampling> sampling) {
    const int B = roots.sequences;
    const std::vector<std::int32_t>& lengths = run.lengths;
    const int most = *std::max_element(lengths.begin(), lengths.end());
    Draft result;
    result.tokens.assign(static_cast<std::size_t>(B) * most, 0);
    result.logprobs.assign(static_cast<std::size_t>(B) * most, 0);
    result.counts.assign(B, 0);

    // The sequences still drafting, compacted: which one, its rows and its pages.
    std::vector<std::int32_t> active, tokens, starts, first, pages, rows;
    std::vector<Sampling> how;
    std::vector<Drawn> drawn(B);
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
        pages.resize(static_cast<std::size_t>(n) * roots.page_columns);
        for (int i = 0; i <= n; ++i) starts[i] = i;
        for (int i = 0; i < n; ++i) {
            rows[i] = i;
            std::copy_n(roots.pages + static_cast<std::size_t>(active[i]) * roots.page_columns,
                        roots.page_columns,
                        pages.begin() + static_cast<std::size_t>(i) * roots.page_columns);
        }
        begin_step({.rows = n,
                    .sequences = n,
                    .tokens = tokens.data(),
                    .row_starts = starts.data(),
                    .first = first.data(),
                    .pages = pages.data(),
                    .page_columns = roots.page_columns,
                    .logit_rows = rows.data(),
                    .num_logit_rows = n,
                    .reduced = run.reduced});
    };
    for (int b = 0; b < B; ++b) {
        active.push_back(b);
        tokens.push_back(roots.tokens[b]);
        first.push_back(roots.first[b]);
        how.push_back(sampling[b]);
    }
    compact([&](std::size_t i) { return lengths[active[i]] > 0; });
    if (active.empty()) return result;
    reserve({.num_logit_rows = static_cast<int>(active.size())});
    next();
    pool_.run([&](int thread) {
        while (true) {
            run_layers(run.level, thread);
            run_head(run.level, thread);
            sample_rows(how, drawn, thread);
            pool_.barrier();
            if (thread == 0) {
                compact([&](std::size_t i) {
                    const int b = active[i];
                    const bool sure =
                        drawn[i].token >= 0 && (run.min_confidence <= 0 ||
                                                std::exp(drawn[i].logprob) >= run.min_confidence);
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
                if (run.interrupt && run.interrupt->load(std::memory_order_relaxed)) active.clear();
                if (!active.empty()) next();
            }
            pool_.barrier();
            if (active.empty()) return;
        }
    });
    return result;
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
