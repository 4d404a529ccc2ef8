// Counts the rounds in which a waiter at a Gate goes to sleep and the thread that advances the gate
// does not wake it. The kernel's own look at the value hides most such rounds, so the gate under
// test sleeps by the stand-in below.
//
//     lost_wakeups ROUNDS
#include <pthread.h>
#include <sched.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "host/gate.h"

namespace {

std::atomic<int> went_to_sleep{-1};  // the value a waiter meant to sleep at
std::atomic<int> was_woken{-1};      // the value whose sleepers the other thread woke
std::atomic<int> advanced{-1};       // the value that the other thread is done with

struct Recorded {
    static void wait(const std::atomic<int>&, int seen) {
        went_to_sleep.store(seen, std::memory_order_relaxed);
        // A sleeper looks at nothing: it does not leave before the other thread has looked for it.
        while (advanced.load(std::memory_order_acquire) < seen) {
        }
    }
    static void wake_all(const std::atomic<int>& word) {
        was_woken.store(word.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
    }
};

halfbyte::BasicGate<Recorded> gate;
alignas(64) std::atomic<int> started{0};
alignas(64) std::atomic<int> ended{0};

// On the n-th CPU this process may use, so that waiter and waker run at once.
void pin(int n) {
    cpu_set_t usable, one;
    if (sched_getaffinity(0, sizeof usable, &usable) != 0) return;
    n %= CPU_COUNT(&usable);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &usable) && n-- == 0) CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

unsigned next(unsigned& seed) { return (seed = seed * 1664525u + 1013904223u) >> 16; }

void wait_for(const std::atomic<int>& word, int value) {
    for (int looks = 0; word.load(std::memory_order_acquire) != value; ++looks)
        if (looks > 100000) std::this_thread::yield();
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 100000;
    std::thread waiter([&] {
        pin(1);
        unsigned seed = 1;
        for (int i = 0; i < rounds; ++i) {
            wait_for(started, i + 1);
            gate.wait_while(i, 50 + static_cast<int>(next(seed) % 100));
            ended.store(i + 1, std::memory_order_release);
        }
    });
    pin(0);
    unsigned seed = 7;
    int lost = 0, slept = 0;
    for (int i = 0; i < rounds; ++i) {
        started.store(i + 1);
        // Up to about as long as the waiter spins, so that both often act in the same moment.
        volatile unsigned spent = 0;
        for (unsigned n = next(seed) % 16000; spent < n;) spent = spent + 1;
        gate.advance();
        advanced.store(i, std::memory_order_release);
        wait_for(ended, i + 1);
        slept += went_to_sleep.load() == i;
        lost += went_to_sleep.load() == i && was_woken.load() != i;
    }
    waiter.join();
    std::printf("%d of %d wake-ups lost, %d slept\n", lost, rounds, slept);
    return lost != 0;
}
