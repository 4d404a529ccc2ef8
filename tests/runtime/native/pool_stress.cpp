// Calls and barriers of a Pool without end: a thread that passes a barrier before all have come to
// it ends the program with status 1; a lost wake-up, never.
//
//     pool_stress THREADS SPINS CALLS BARRIERS
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "host/pool.h"

namespace {

// Threads come to a barrier together or far apart, by chance: a few to some 10,000 cycles of work.
void work(unsigned& seed) {
    seed = seed * 1664525u + 1013904223u;
    volatile unsigned spent = 0;
    for (unsigned n = (seed >> 16) % (1u << (2 + (seed >> 9) % 12)); spent < n;) spent = spent + 1;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) return 2;
    const int threads = std::atoi(argv[1]), spins = std::atoi(argv[2]);
    const int calls = std::atoi(argv[3]), barriers = std::atoi(argv[4]);
    halfbyte::Pool pool(threads, spins);
    std::vector<long> arrived(threads, 0);  // each written by its thread, read behind a barrier
    std::atomic<long> early{0};
    for (int call = 0; call < calls; ++call) {
        pool.run([&](int thread) {
            unsigned seed = static_cast<unsigned>(call * threads + thread);
            for (int b = 0; b < barriers; ++b) {
                work(seed);
                ++arrived[thread];
                pool.barrier();
                const long own = arrived[thread];
                for (const long other : arrived) early += other != own;
                pool.barrier();
            }
        });
    }
    std::printf("%d calls, %ld barriers, %ld passed early\n", calls, 2L * calls * barriers,
                early.load());
    return early.load() != 0;
}
