#include "host/pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <thread>

#include "host/fork.h"
#include "host/gate.h"

namespace halfbyte {

namespace {

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

// The threads of a pool and where they meet. Every wait is on a Gate (gate.cpp says why none misses
// its wake-up), and each gate is advanced once per value that is waited for:
//
//     start    by run(), once per call and once more to end; a worker waits for the value after the
//              last it took, and run() does not return before every worker has taken it
//     met      by the last thread to arrive at a barrier; the others wait for the value after the
//              one they read before they arrived, and no thread can arrive at the next barrier
//              before this one has been advanced
struct Pool::Team {
    Team(int threads, int spins, const std::vector<int>& cpus) : size(threads), spins(spins) {
        try {
            for (int t = 1; t < size; ++t)
                workers.emplace_back([this, t, cpu = cpus[t % cpus.size()]] { work(t, cpu); });
        } catch (const std::system_error& error) {
            const std::size_t have = workers.size() + 1;  // with the caller's
            dismiss();
            throw std::system_error(
                error.code(), std::to_string(have) + " of " + std::to_string(size) + " threads");
        }
    }
    ~Team() { dismiss(); }

    void dismiss() {
        stopping = true;
        start.advance();
        for (auto& worker : workers) worker.join();
        workers.clear();
    }

    void work(int thread, int cpu) {
        pin(cpu);
        for (int seen = 0;; ++seen) {
            start.wait_while(seen, spins);
            if (stopping) return;
            body(context, thread);
            meet();
        }
    }

    void meet() {
        const int before = met.value();
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived.store(0, std::memory_order_relaxed);  // seen by those that `met` lets on
            met.advance();
        } else {
            met.wait_while(before, spins);
        }
    }

    const int size, spins;
    const int forks = forks_so_far();
    std::vector<std::thread> workers;
    // Written before `start` is advanced, read after.
    Body body = nullptr;
    void* context = nullptr;
    bool stopping = false;
    Gate start, met;
    alignas(64) std::atomic<int> arrived{0};
};

Pool::Pool(int threads, int spins) : size_(threads), spins_(spins), cpus_(usable_cpus()) {
    if (size_ > 1) team_ = std::make_unique<Team>(size_, spins_, cpus_);
}

Pool::~Pool() {
    if (team_ && team_->forks != forks_so_far()) team_.release();  // as in run_erased
}

void Pool::run_erased(Body body, void* context) {
    if (team_ && team_->forks != forks_so_far()) {
        // This process is a child of the one that made the team. It has none of the team's threads,
        // so their std::thread objects can be neither joined nor destroyed: they are left behind.
        auto fresh = std::make_unique<Team>(size_, spins_, cpus_);
        team_.release();
        team_ = std::move(fresh);
    }
    cpu_set_t before;
    const bool restore = sched_getaffinity(0, sizeof before, &before) == 0;
    pin(cpus_[0]);
    if (team_) {
        team_->body = body;
        team_->context = context;
        team_->start.advance();
    }
    body(context, 0);
    barrier();
    if (restore) pthread_setaffinity_np(pthread_self(), sizeof before, &before);
}

void Pool::barrier_slow() { team_->meet(); }

}  // namespace halfbyte
