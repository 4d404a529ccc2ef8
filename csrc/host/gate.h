// A number that threads wait for: they spin a little, then sleep until it moves on.
#pragma once
#include <atomic>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace halfbyte {

// How threads sleep. `wait` sleeps unless `word` is no longer `seen` (both in one step, as seen by
// `wake_all`), and may return early; `wake_all` wakes those that sleep at `word`.
struct Futex {
    static void wait(const std::atomic<int>& word, int seen);
    static void wake_all(const std::atomic<int>& word);
};

// Why no wake-up is lost. Each side writes, then looks at what the other side writes:
//
//     advance       value_ += 1        then reads sleepers_
//     sleep_while   sleepers_ += 1     then reads value_
//
// All four are sequentially consistent: they have one order that every thread agrees on, and one of
// the two writes comes first in it. If value_'s does, the sleeper reads the new value and does not
// go to sleep. If sleepers_' does, advance() reads that there is a sleeper and calls wake_all. The
// kernel orders that call and the sleeper's: either the sleeper's is the later one, finds the new
// value and returns, or it is the earlier one and the sleeper is woken.
//
// A release store of value_ is not enough (nor std::atomic::notify_all after one, in libstdc++):
// the processor may read sleepers_ before its own store is visible to others. Both sides then read
// old numbers, and the sleeper is never woken.
template <typename Sleep>
class BasicGate {
  public:
    BasicGate() = default;
    BasicGate(const BasicGate&) = delete;
    BasicGate& operator=(const BasicGate&) = delete;

    int value() const { return value_.load(std::memory_order_acquire); }

    // To the next value, by one thread at a time. What it wrote before, those that waited see.
    void advance() {
        value_.fetch_add(1, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst) > 0) Sleep::wake_all(value_);
    }

    // Returns when the value is no longer `seen`: looks up to `spins` times, then sleeps.
    void wait_while(int seen, int spins) {
        for (int i = 0; i < spins; ++i) {
            if (value() != seen) return;
#if defined(__x86_64__)
            _mm_pause();
#endif
        }
        sleep_while(seen);
    }

  private:
    void sleep_while(int seen) {
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        while (value_.load(std::memory_order_seq_cst) == seen) Sleep::wait(value_, seen);
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }

    alignas(64) std::atomic<int> value_{0};
    alignas(64) std::atomic<int> sleepers_{0};
};

using Gate = BasicGate<Futex>;

}  // namespace halfbyte
