// Bodies that throw on some threads, between barriers and after the last: the caller gets the
// exception, no thread waits for one that is gone, and the next call is as if nothing had been.
//
//     pool_throws THREADS SPINS CALLS BARRIERS
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "host/pool.h"

int main(int argc, char** argv) {
    if (argc != 5) return 2;
    const int threads = std::atoi(argv[1]), spins = std::atoi(argv[2]);
    const int calls = std::atoi(argv[3]), barriers = std::atoi(argv[4]);
    halfbyte::Pool pool(threads, spins);
    std::vector<int> passed(threads);
    int caught = 0, wrong = 0;
    unsigned seed = 1;
    for (int call = 0; call < calls; ++call) {
        seed = seed * 1664525u + 1013904223u;
        const unsigned drawn = seed >> 8;
        const int at = static_cast<int>(drawn % (barriers + 1));  // barriers passed before
        // One thread, every other one, all, or none.
        const int which = static_cast<int>(drawn / 64 % threads), kind = call % 4;
        const auto throws = [&](int t) {
            return kind == 0 ? t == which : kind == 1 ? t % 2 == which % 2 : kind == 2;
        };
        bool threw = false;
        try {
            pool.run([&](int thread) {
                passed[thread] = 0;
                for (int b = 0; b < barriers; ++b) {
                    if (b == at && throws(thread)) throw std::bad_alloc();
                    pool.barrier();
                    ++passed[thread];
                }
                if (at == barriers && throws(thread)) throw std::bad_alloc();
            });
        } catch (const std::bad_alloc&) {
            threw = true;
        }
        caught += threw;
        bool any = false;
        for (int t = 0; t < threads; ++t) any |= throws(t);
        wrong += threw != any;
        for (const int count : passed) wrong += count != (any ? at : barriers);
    }
    std::printf("%d calls, %d threw, %d wrong\n", calls, caught, wrong);
    return wrong != 0 || caught == 0;
}
