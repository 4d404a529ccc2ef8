// Where did this context stand before: a suffix tree of a growing text, cut at a fixed depth.
// halfbyte/proposers/suffixes.py is the slow twin and defines what is found.
//
// Tokens that end at a position, read backwards, are a path from the root. A node stands for all
// the positions its path ends at and knows the latest. Its path is not kept: it is read off the
// text at that position. So a token adds two nodes at most, however deep the tree is.
//
//     text  x a b c a b d        root - "b a" (5) -+- "x" (2)
//                                                  +- "c b a x" (5)
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace halfbyte {

constexpr std::int32_t kBreak = -1;  // a token that nothing matches and nothing continues over

// The last `length` tokens of a context also end at position `end` of the text.
struct Match {
    std::int32_t length = 0, end = -1;
};

class SuffixIndex {
  public:
    explicit SuffixIndex(int depth);

    // Adds a token in at most `depth` steps. The text has fewer than 2^30 tokens.
    void add(std::int32_t token);
    // The longest suffix of the context, up to the depth, that a token follows; its latest place.
    Match find(const std::int32_t* context, std::size_t size) const;
    // The same of the text itself.
    Match find_end() const { return find(text_.data(), text_.size()); }

    const std::vector<std::int32_t>& text() const { return text_; }
    std::size_t nodes() const { return nodes_.size(); }

  private:
    struct Node {
        std::int32_t parent, token;  // the first token below its parent
        std::int32_t length;         // tokens from the root
        std::int32_t latest;
    };

    void insert(std::int32_t end);
    std::size_t slot_of(std::int32_t parent, std::int32_t token) const;
    std::int32_t make(const Node& node);
    void reserve();

    std::int32_t depth_;
    std::vector<std::int32_t> text_;
    std::vector<Node> nodes_;           // the root first
    std::vector<std::int32_t> places_;  // hash table of nodes by (parent, token); 0: free
};

}  // namespace halfbyte
