#include "host/pool.h"

#include <pthread.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace halfbyte {

namespace {

// About 100 us: longer than the host's work between two calls, short enough not to burn a core.
constexpr int kSpins = 4000;

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// Spin first, which is the quickest way on, then sleep in the kernel: with more threads than cores
// a spinning waiter would keep the one it waits for from running.
void wait_while(std::atomic<int>& value, int seen) {
    for (int i = 0; i < kSpins; ++i) {
        if (value.load(std::memory_order_acquire) != seen) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == seen) value.wait(seen);
}

void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // best effort
}

std::string first_sibling(int cpu) {
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string text;
    std::getline(file, text);
    return text.empty() ? std::to_string(cpu) : text;
}

}  // namespace

std::vector<int> usable_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> first, rest;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return {0};
    std::set<std::string> seen;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &set)) continue;
        (seen.insert(first_sibling(cpu)).second ? first : rest).push_back(cpu);
    }
    first.insert(first.end(), rest.begin(), rest.end());
    return first;
}

int physical_cores() {
    std::set<std::string> seen;
    for (int cpu : usable_cpus()) seen.insert(first_sibling(cpu));
    return std::max<int>(1, static_cast<int>(seen.size()));
}

Pool::Pool(int threads) : size_(threads), cpus_(usable_cpus()) {
    for (int t = 1; t < size_; ++t) workers_.emplace_back([this, t] { worker(t); });
}

Pool::~Pool() {
    stopping_ = true;
    start_.fetch_add(1, std::memory_order_release);
    start_.notify_all();
    for (auto& w : workers_) w.join();
}

void Pool::worker(int thread) {
    pin(cpus_[thread % cpus_.size()]);
    int seen = 0;
    while (true) {
        wait_while(start_, seen);
        seen = start_.load(std::memory_order_acquire);
        if (stopping_) return;
        body_(context_, thread);
        barrier();
    }
}

void Pool::run_erased(Body body, void* context) {
    cpu_set_t before;
    const bool restore = sched_getaffinity(0, sizeof before, &before) == 0;
    pin(cpus_[0]);
    body_ = body;
    context_ = context;
    if (size_ > 1) {
        start_.fetch_add(1, std::memory_order_release);
        start_.notify_all();
    }
    body(context, 0);
    barrier();
    if (restore) pthread_setaffinity_np(pthread_self(), sizeof before, &before);
}

void Pool::barrier_slow() {
    const int generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.store(0, std::memory_order_relaxed);
        generation_.store(generation + 1, std::memory_order_release);
        generation_.notify_all();
    } else {
        wait_while(generation_, generation);
    }
}

}  // namespace halfbyte
