// Memory that lives as long as a model: huge pages, 64-byte aligned, zeroed, never moved.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace halfbyte {

class Arena {
  public:
    Arena() = default;
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // Throws std::bad_alloc. Untouched pages cost no memory.
    void* allocate(std::size_t bytes);
    template <typename T>
    T* array(std::size_t count) {
        return static_cast<T*>(allocate(count * sizeof(T)));
    }
    std::size_t bytes() const { return bytes_; }

  private:
    struct Region {
        void* base;
        std::size_t size;
    };
    std::vector<Region> regions_;
    char* next_ = nullptr;
    std::size_t left_ = 0;
    std::size_t bytes_ = 0;
};

}  // namespace halfbyte
