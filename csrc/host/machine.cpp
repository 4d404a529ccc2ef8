#include "host/machine.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "host/arena.h"
#include "host/pool.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif

namespace halfbyte {

namespace {

#if defined(__x86_64__)
// Tile registers are 8 KiB of state: Linux hands them out to a process that asks.
bool enable_amx() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
    if ((d & kTile) == 0 || (d & kInt8) == 0) return false;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2)
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

}  // namespace

std::vector<std::string> available_tiers() {
    std::vector<std::string> tiers;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("f16c");
    if (avx512 && enable_amx()) tiers.push_back("amx");
    if (avx512) tiers.push_back("avx512");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c"))
        tiers.push_back("avx2");
#endif
    tiers.push_back("scalar");
    return tiers;
}

const Kernels* find_kernels(const std::string& tier) {
    const auto tiers = available_tiers();
    if (std::find(tiers.begin(), tiers.end(), tier) == tiers.end()) return nullptr;
#if defined(__x86_64__)
    if (tier == "amx") return &kernels_amx();
    if (tier == "avx512") return &kernels_avx512();
    if (tier == "avx2") return &kernels_avx2();
#endif
    return &kernels_scalar();
}

std::size_t memory_size() {
    return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

double read_bandwidth(int threads, std::size_t bytes) {
    Arena arena;
    Pool pool(threads);
    const std::size_t words = bytes / 8 / threads / 8 * 8;
    auto* data = arena.array<std::uint64_t>(words * threads);
    std::vector<std::uint64_t> sink(threads * 8);
    double best = 0.0;
    pool.run([&](int t) { std::memset(data + words * t, t + 1, words * 8); });
    const int repeats =
        static_cast<int>(std::max<std::size_t>(1, (std::size_t{256} << 20) / bytes));
    for (int trial = 0; trial < 5; ++trial) {
        const double start = seconds();
        pool.run([&](int t) {
            for (int r = 0; r < repeats; ++r) {
                std::uint64_t sums[8] = {};
                const std::uint64_t* p = data + words * t;
                for (std::size_t i = 0; i < words; i += 8)
                    for (int j = 0; j < 8; ++j) sums[j] += p[i + j];
                for (int j = 0; j < 8; ++j) sink[t * 8 + j] += sums[j];
            }
        });
        best = std::max(
            best, static_cast<double>(words) * 8 * threads * repeats / (seconds() - start) / 1e9);
    }
    return best;
}

double linear_rate(int threads, const Kernels& kernels) {
    constexpr int kInputs = 512, kOutputs = 256, kGroup = 64, kRows = 4, kRepeats = 400;
    Pool pool(threads);
    std::vector<double> elapsed(threads);
    struct Operands {
        PackedPlanes w;
        Activations x;
        Epilogue e;
        std::uint8_t* scratch;
    };
    Arena arena;  // zeroed; a thread must not allocate, since it cannot report a failure
    std::vector<Operands> operands;
    for (int t = 0; t < threads; ++t) {
        const int groups = kInputs / kGroup;
        const PackedPlanes w{.hi = arena.array<std::uint8_t>(kOutputs * kInputs / 2),
                             .lo = arena.array<std::uint8_t>(kOutputs * kInputs / 2),
                             .scale = arena.array<std::uint16_t>(kOutputs * groups),
                             .n = kOutputs,
                             .k = kInputs,
                             .group = kGroup,
                             .lo_k = kInputs};
        const Activations x{arena.array<std::int8_t>(kRows * kInputs),
                            arena.array<float>(kRows * groups), arena.array<float>(kRows * groups),
                            arena.array<std::int32_t>(kRows * groups), 1};
        const Epilogue e{Epilogue::Kind::kStore, nullptr, arena.array<float>(kRows * kOutputs),
                         kOutputs};
        operands.push_back({w, x, e, arena.array<std::uint8_t>(kInputs * kPanel)});
    }
    pool.run([&](int t) {
        const auto& [w, x, e, scratch] = operands[t];
        kernels.linear(w, 8, x, kRows, e, 0, kOutputs / kPanel, scratch);
        pool.barrier();
        const double start = seconds();
        for (int i = 0; i < kRepeats; ++i)
            kernels.linear(w, 8, x, kRows, e, 0, kOutputs / kPanel, scratch);
        elapsed[t] = seconds() - start;
    });
    const double macs = 1.0 * kInputs * kOutputs * kRows * kRepeats * threads;
    return macs / *std::max_element(elapsed.begin(), elapsed.end()) / 1e9;
}

}  // namespace halfbyte
