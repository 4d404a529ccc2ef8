#include "model/expert_groups.h"

#include <cmath>

namespace halfbyte {

namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Taken in double and rounded.
float sum(const float* values, int count) {
    double total = 0;
    for (int i = 0; i < count; ++i) total += values[i];
    return static_cast<float>(total);
}

// What an expert is ranked by.
float rank(const float* scores, const float* bias, int e) {
    const float ranked = bias ? scores[e] + bias[e] : scores[e];
    return std::isnan(ranked) ? -INFINITY : ranked;
}

}  // namespace

void route(const ExpertsShape& s, float* scores, const float* choice_bias, std::int32_t* chosen,
           float* shares) {
    const int E = s.count, k = s.top_k;
    if (s.sigmoid)
        for (int e = 0; e < E; ++e) scores[e] = sigmoid(scores[e]);
    int n = 0;
    for (int e = 0; e < E; ++e) {
        const float own = rank(scores, choice_bias, e);
        if (n == k && !(own > rank(scores, choice_bias, chosen[k - 1]))) continue;
        int at = n < k ? n++ : k - 1;
        for (; at > 0 && own > rank(scores, choice_bias, chosen[at - 1]); --at)
            chosen[at] = chosen[at - 1];
        chosen[at] = e;
    }
    for (int i = 0; i < k; ++i) shares[i] = scores[chosen[i]];
    const bool of_all = !s.sigmoid && !s.normalized;  // a softmax over every expert
    if (!s.sigmoid) {
        float top = scores[0];
        for (int e = 1; e < E; ++e)
            top = std::isnan(scores[e]) || scores[e] > top ? scores[e] : top;
        for (int i = 0; i < k; ++i) shares[i] = std::exp(shares[i] - top);
        for (int e = 0; of_all && e < E; ++e) scores[e] = std::exp(scores[e] - top);
    }
    const float whole = of_all ? sum(scores, E) : s.normalized ? sum(shares, k) : 1.0f;
    for (int i = 0; i < k; ++i) shares[i] = shares[i] / whole * s.scale;
}

void ExpertGroups::assign(const std::int32_t* chosen, const float* of_chosen, int M, int top_k,
                          int count) {
    const int pairs = M * top_k;
    next_.assign(count, 0);
    for (int i = 0; i < pairs; ++i) ++next_[chosen[i]];
    experts.clear();
    begins.assign(1, 0);
    for (int e = 0; e < count; ++e) {
        const int own = next_[e];
        next_[e] = begins.back();
        if (!own) continue;
        experts.push_back(e);
        begins.push_back(begins.back() + own);
    }
    rows.resize(pairs);
    shares.resize(pairs);
    for (int i = 0; i < pairs; ++i) {
        const int at = next_[chosen[i]]++;
        rows[at] = i / top_k;
        shares[at] = of_chosen[i];
    }
}

}  // namespace halfbyte
