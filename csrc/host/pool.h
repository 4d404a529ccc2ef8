// A persistent pool of pinned threads that run one function together (SPMD) and meet at barriers.
#pragma once
#include <sched.h>

#include <atomic>
#include <thread>
#include <vector>

namespace halfbyte {

class Pool {
  public:
    // `threads` >= 1, the caller of run() included. Thread t is pinned to the t-th CPU of the
    // process' affinity mask, one thread per physical core first.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return size_; }

    // Calls fn(thread) on every thread and returns when all have returned. The caller is thread 0
    // and is pinned for the duration of the call only.
    template <typename F>
    void run(F&& fn) {
        run_erased([](void* f, int thread) { (*static_cast<F*>(f))(thread); }, &fn);
    }

    // Only inside run(), by every thread.
    void barrier() {
        if (size_ > 1) barrier_slow();
    }

  private:
    using Body = void (*)(void*, int);
    void run_erased(Body body, void* context);
    void barrier_slow();
    void worker(int thread);

    int size_;
    std::vector<int> cpus_;
    std::vector<std::thread> workers_;
    Body body_ = nullptr;
    void* context_ = nullptr;
    bool stopping_ = false;
    alignas(64) std::atomic<int> start_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> generation_{0};
};

// CPUs of the affinity mask, first one per physical core, then their siblings.
std::vector<int> usable_cpus();
// How many physical cores those CPUs are.
int physical_cores();

}  // namespace halfbyte
