#include "host/pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

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

// The calling thread, for as long as this lives; then as it was.
class Pinned {
  public:
    explicit Pinned(int cpu) : restores_(sched_getaffinity(0, sizeof before_, &before_) == 0) {
        pin(cpu);
    }
    ~Pinned() {
        if (restores_) pthread_setaffinity_np(pthread_self(), sizeof before_, &before_);
    }
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;

  private:
    cpu_set_t before_;
    bool restores_;
};

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
//
// A thread whose body throws arrives once more, in place of the others' next barrier or of their
// end. The last to arrive there sets `leaving` before it advances `met`, so every thread reads the
// same: those at a barrier leave the body, and all meet once more at the end of it.
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
            take_part(thread);
        }
    }

    void take_part(int thread) noexcept {
        try {
            body(context, thread);
            meet();
        } catch (const Left&) {
        } catch (...) {
            if (!failed.exchange(true, std::memory_order_acq_rel)) error = std::current_exception();
            meet();
        }
        if (leaving) meet();
    }

    // After the caller's take_part(), when no other thread is in the body or on its way to its end.
    void rethrow() {
        if (!leaving) return;
        leaving = false;
        failed.store(false, std::memory_order_relaxed);
        std::rethrow_exception(std::exchange(error, nullptr));
    }

    void barrier() {
        meet();
        if (leaving) throw Left();
    }

    void meet() {
        const int before = met.value();
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            arrived.store(0, std::memory_order_relaxed);  // seen by those that `met` lets on
            // Of those that meet for the last time, as `leaving` says, some may still read it.
            if (!leaving && failed.load(std::memory_order_acquire)) leaving = true;
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
    // Of a body that has thrown; never written to while none does.
    alignas(64) bool leaving = false;  // read after a meeting, written before its end
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // of the thread that set `failed`
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
    const Pinned pinned(cpus_[0]);
    if (!team_) return body(context, 0);
    team_->body = body;
    team_->context = context;
    team_->start.advance();
    team_->take_part(0);
    team_->rethrow();
}

void Pool::barrier_slow() { team_->barrier(); }

}  // namespace halfbyte
