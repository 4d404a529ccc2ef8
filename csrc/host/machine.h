// What this processor can do: which tiers run here, and measured read bandwidth and int8 rate.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace halfbyte {

// Names of the tiers this processor runs, best first.
std::vector<std::string> available_tiers();
// Null when the tier is unknown or cannot run here.
const Kernels* find_kernels(const std::string& tier);

// Bytes of memory this machine has.
std::size_t memory_size();
// GB/s at which `threads` pinned threads together read `bytes` again and again, each its own slice,
// of at least kLeastBandwidthBytes.
constexpr std::size_t kLeastBandwidthBytes = 4096;
double read_bandwidth(int threads, std::size_t bytes);
// GMAC/s of a cache-resident w8a8 linear layer over 4 rows in this tier, all threads together.
double linear_rate(int threads, const Kernels& kernels);

}  // namespace halfbyte
