#include "host/suffixes.h"

#include <algorithm>
#include <random>

namespace halfbyte {
namespace {

constexpr std::size_t kFirstPlaces = 64;

// It is not known outside the process, so no prompt can be made of tokens that collide.
std::uint64_t secret() {
    static const std::uint64_t value = [] {
        std::random_device device;
        return std::uint64_t{device()} << 32 | device();
    }();
    return value;
}

// The finalizer of splitmix64 (Steele, Lea and Flood, 2014).
std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

}  // namespace

SuffixIndex::SuffixIndex(int depth)
    : depth_(depth), nodes_{{-1, kBreak, 0, -1}}, places_(kFirstPlaces) {}

void SuffixIndex::add(std::int32_t token) {
    text_.push_back(token);
    // Only now has the position before it something to propose.
    if (token != kBreak && text_.size() > 1) insert(static_cast<std::int32_t>(text_.size()) - 2);
}

Match SuffixIndex::find(const std::int32_t* context, std::size_t size) const {
    const std::int32_t most = static_cast<std::int32_t>(std::min<std::size_t>(depth_, size));
    if (!most) return {};
    const std::int32_t* last = context + size - 1;
    Match match;
    std::int32_t node = 0;
    while (match.length < most) {
        node = places_[slot_of(node, last[-match.length])];
        if (!node) break;
        const Node& found = nodes_[node];
        match = {match.length + 1, found.latest};
        const std::int32_t reached = std::min(found.length, most);
        while (match.length < reached && text_[match.end - match.length] == last[-match.length])
            ++match.length;
        if (match.length < found.length) break;
    }
    return match;
}

void SuffixIndex::insert(std::int32_t end) {
    const std::int32_t deepest = std::min(depth_, end + 1);
    std::int32_t most = 0;  // tokens that end here, back to a break
    while (most < deepest && text_[end - most] != kBreak) ++most;
    reserve();
    std::int32_t node = 0, length = 0;
    while (length < most) {
        const std::size_t slot = slot_of(node, text_[end - length]);
        const std::int32_t below = places_[slot];
        if (!below) {
            places_[slot] = make({node, text_[end - length], most, end});
            return;
        }
        const Node found = nodes_[below];
        const std::int32_t reached = std::min(found.length, most);
        std::int32_t same = length + 1;
        while (same < reached && text_[found.latest - same] == text_[end - same]) ++same;
        if (same < found.length) {  // it parts from here: a node where, in the other's place
            const std::int32_t middle = make({node, found.token, same, end});
            places_[slot] = middle;
            nodes_[below].parent = middle;
            nodes_[below].token = text_[found.latest - same];
            places_[slot_of(middle, nodes_[below].token)] = below;
            if (same < most) {
                const std::int32_t token = text_[end - same];
                places_[slot_of(middle, token)] = make({middle, token, most, end});
            }
            return;
        }
        nodes_[below].latest = end;
        node = below;
        length = same;
    }
}

std::size_t SuffixIndex::slot_of(std::int32_t parent, std::int32_t token) const {
    const std::uint64_t key = static_cast<std::uint64_t>(parent) << 32 | std::uint32_t(token);
    const std::size_t last = places_.size() - 1;
    std::size_t slot = mixed(key ^ secret()) & last;
    while (const std::int32_t node = places_[slot]) {
        if (nodes_[node].parent == parent && nodes_[node].token == token) break;
        slot = (slot + 1) & last;
    }
    return slot;
}

std::int32_t SuffixIndex::make(const Node& node) {
    nodes_.push_back(node);
    return static_cast<std::int32_t>(nodes_.size()) - 1;
}

// Room for two nodes more, with half of the places free.
void SuffixIndex::reserve() {
    if (2 * (nodes_.size() + 2) <= places_.size()) return;
    std::vector<std::int32_t>(2 * places_.size()).swap(places_);
    for (std::size_t i = 1; i < nodes_.size(); ++i)
        places_[slot_of(nodes_[i].parent, nodes_[i].token)] = static_cast<std::int32_t>(i);
}

}  // namespace halfbyte
