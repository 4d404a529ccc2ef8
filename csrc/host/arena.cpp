#include "host/arena.h"

#include <sys/mman.h>

#include <new>

namespace halfbyte {

namespace {
constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr std::size_t kRegion = std::size_t{64} << 20;
}  // namespace

Arena::~Arena() {
    for (const Region& r : regions_) munmap(r.base, r.size);
}

void* Arena::allocate(std::size_t bytes) {
    const std::size_t rounded = (bytes + 63) / 64 * 64;
    if (rounded < bytes) throw std::bad_alloc();
    if (rounded > left_) {
        const std::size_t usable =
            rounded > kRegion ? (rounded + kHuge - 1) / kHuge * kHuge : kRegion;
        const std::size_t size = usable + kHuge;  // room to align to a huge page
        void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) throw std::bad_alloc();
        regions_.push_back({base, size});
        const auto address = reinterpret_cast<std::uintptr_t>(base);
        next_ = reinterpret_cast<char*>((address + kHuge - 1) / kHuge * kHuge);
        left_ = usable;
        // Fewer translations to look up while weights stream; a hint that may be refused.
        madvise(next_, usable, MADV_HUGEPAGE);
    }
    void* result = next_;
    next_ += rounded;
    left_ -= rounded;
    bytes_ += rounded;
    return result;
}

}  // namespace halfbyte
