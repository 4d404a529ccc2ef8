// The suffix index as Python sees it: texts are lists of ids, read where they stand.
#include "host/suffixes.h"

#include "binding/binding.h"

using namespace nanobind::literals;

namespace halfbyte {
namespace {

constexpr std::size_t kMostTokens = std::size_t{1} << 30;
constexpr int kMostDepth = 1 << 16;

std::int32_t token_at(const nb::list& tokens, std::size_t i) {
    const long token = PyLong_AsLong(PyList_GetItem(tokens.ptr(), static_cast<Py_ssize_t>(i)));
    if (token == -1 && PyErr_Occurred()) throw nb::python_error();
    if (token < kBreak || token > INT32_MAX) refuse("a token is an integer from -1 to 2^31 - 1");
    return static_cast<std::int32_t>(token);
}

void extend(SuffixIndex& index, const nb::list& tokens, std::size_t from) {
    const std::size_t count = tokens.size();
    expect(count - from < kMostTokens - index.text().size(), "a text has fewer than 2^30 tokens");
    for (std::size_t i = from; i < count; ++i) index.add(token_at(tokens, i));
}

// Add what `text` has grown by since the index last saw it.
void follow(SuffixIndex& index, const nb::list& text) {
    const std::size_t known = index.text().size();
    expect(text.size() >= known, "a text that is followed may only grow");
    if (text.size() > known) extend(index, text, known);
}

std::tuple<int, int> as_tuple(const Match& match) { return {match.length, match.end}; }

std::tuple<int, int> find(const SuffixIndex& index, const nb::list& context) {
    std::vector<std::int32_t> tokens(context.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = token_at(context, i);
    return as_tuple(index.find(tokens.data(), tokens.size()));
}

std::vector<std::int32_t> slice(const SuffixIndex& index, std::int64_t begin, std::int64_t end) {
    const std::int64_t size = static_cast<std::int64_t>(index.text().size());
    expect(begin >= 0 && begin <= size, "a slice begins within the text");
    end = std::max(begin, std::min(end, size));
    return {index.text().begin() + begin, index.text().begin() + end};
}

}  // namespace

void bind_suffixes(nb::module_& m) {
    nb::class_<SuffixIndex>(m, "SuffixIndex")
        .def(
            "__init__",
            [](SuffixIndex* self, int depth) {
                expect(depth >= 1 && depth <= kMostDepth, "a depth is 1..65536");
                new (self) SuffixIndex(depth);
            },
            "depth"_a)
        .def(
            "extend", [](SuffixIndex& index, const nb::list& tokens) { extend(index, tokens, 0); },
            "tokens"_a)
        .def(
            "follow",
            [](SuffixIndex& index, const nb::list& text) {
                follow(index, text);
                return as_tuple(index.find_end());
            },
            "text"_a)
        .def("find", &find, "context"_a)
        .def("slice", &slice, "begin"_a, "end"_a)
        .def("__len__", [](const SuffixIndex& index) { return index.text().size(); })
        .def_prop_ro("nodes", &SuffixIndex::nodes);
    m.def(
        "match_lengths",
        [](const nb::list& indices, const nb::list& texts) {
            expect(indices.size() == texts.size(), "match_lengths: one text an index");
            nb::list lengths;
            for (std::size_t i = 0; i < indices.size(); ++i) {
                auto& index = nb::cast<SuffixIndex&>(indices[i]);
                follow(index, nb::cast<nb::list>(texts[i]));
                lengths.append(index.find_end().length);
            }
            return lengths;
        },
        "indices"_a, "texts"_a);
}

}  // namespace halfbyte
