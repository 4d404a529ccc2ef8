#include "host/fork.h"

#include <pthread.h>

#include <atomic>
#include <new>

namespace halfbyte {

namespace {

std::atomic<int> forks{0};

// Never destroyed: threads may run until the process is gone.
std::shared_mutex& gate_of_forks() {
    static auto* mutex = new std::shared_mutex;
    return *mutex;
}

void before() { gate_of_forks().lock(); }
void in_parent() { gate_of_forks().unlock(); }
void in_child() {
    forks.fetch_add(1, std::memory_order_relaxed);
    // A new one: unlock() would take the lock for another thread's, as a thread's number is not the
    // same in the child. No other thread is here to hold it.
    new (&gate_of_forks()) std::shared_mutex;
}

[[maybe_unused]] const int registered =
    (gate_of_forks(), pthread_atfork(before, in_parent, in_child));

}  // namespace

int forks_so_far() { return forks.load(std::memory_order_relaxed); }

Unforked unforked() { return Unforked(gate_of_forks()); }

}  // namespace halfbyte
