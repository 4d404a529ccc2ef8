// A persistent pool of pinned threads that run one function together (SPMD) and meet at barriers.
#pragma once
#include <memory>
#include <vector>

namespace halfbyte {

constexpr int kMostThreads = 1024;

class Pool {
  public:
    // How often a waiting thread looks before it sleeps: about 100 us, longer than the host's work
    // between two calls, short enough not to burn a core.
    static constexpr int kSpins = 4000;

    // `threads` >= 1, the caller of run() included. Thread t is pinned to the t-th CPU of the
    // process' affinity mask, one thread per physical core first. Throws std::system_error when
    // the system gives fewer threads.
    explicit Pool(int threads, int spins = kSpins);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return size_; }

    // Calls fn(thread) on every thread and returns when all have returned. The caller is thread 0
    // and is pinned for the duration of the call only. One call at a time. In a child of the
    // process that made the pool, the first call starts the threads again, and may throw as the
    // constructor does.
    //
    // What fn throws on a thread is thrown again here, the first of several, when all threads have
    // left fn. Until then those that come to a barrier leave fn there by an exception of the pool's
    // own, which fn is not to catch: what one thread has not done, no other may go on from.
    template <typename F>
    void run(F&& fn) {
        run_erased([](void* f, int thread) { (*static_cast<F*>(f))(thread); }, &fn);
    }

    // Only inside run(), by every thread.
    void barrier() {
        if (size_ > 1) barrier_slow();
    }

  private:
    struct Team;
    struct Left {};  // thrown by barrier() after another thread has thrown
    using Body = void (*)(void*, int);
    void run_erased(Body body, void* context);
    void barrier_slow();

    int size_, spins_;
    std::vector<int> cpus_;
    std::unique_ptr<Team> team_;  // null: a pool of one thread
};

// CPUs of the affinity mask, first one per physical core, then their siblings.
std::vector<int> usable_cpus();
// How many physical cores those CPUs are.
int physical_cores();

}  // namespace halfbyte
