"""Stop strings in a growing text."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq

_FIRST_MARK, _UNNAMED = 0xD800, "\udfff"
_MOST_NAMED = 1024  # control tokens


class StopStrings:
    """Finds the first stop string in a growing text and holds back what may become one.

    Control tokens are not part of a text, but a stop string may name them: `names` by token id. It
    is found in the text with all of them and in the text without. They stand in the held text as
    characters that no text has (half surrogates), and are never given out.
    """

    def __init__(self, stops: Seq[str], names: Mapping[int, str] | None = None) -> None:
        self._stops = tuple(stops)
        self._marked, self._marks = _marked(self._stops, names or {})
        self._longest = max(map(len, (*self._stops, *self._marked)), default=0)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The part of the text so far that no stop string can reach; sets `found` at a match."""
        if not self._stops:
            return text
        self._held += text
        starts = [at for at in self._starts() if at >= 0]
        self.found = bool(starts)
        cut = min(starts) if starts else self._certain()
        certain, self._held = self._held[:cut], self._held[cut:]
        return _shown(certain)

    def add_control(self, token: int) -> str:
        """`add` of a control token."""
        return self.add(self._marks.get(token, _UNNAMED)) if self._marks else ""

    def flush(self) -> str:
        """What was held back and became no stop string."""
        held, self._held = self._held, ""
        return "" if self.found else _shown(held)

    def _starts(self) -> list[int]:
        """Where in the held text each stop string begins; negative: nowhere."""
        if not self._marks:
            return [self._held.find(stop) for stop in self._stops]
        shown, places = _shown(self._held), _places(self._held)
        found = [places[at] if at >= 0 else at for at in map(shown.find, self._stops)]
        return found + [self._held.find(stop) for stop in self._marked]

    def _certain(self) -> int:
        """How much of the held text no stop string can begin in."""
        size, shown = len(self._held), _shown(self._held)
        overlap = _overlap(shown, self._stops, self._longest)
        if not self._marks:
            return size - overlap
        cut = _places(self._held)[-overlap] if overlap else size
        return min(cut, size - _overlap(self._held, self._marked, self._longest))


def _marked(
    stops: tuple[str, ...], names: Mapping[int, str]
) -> tuple[tuple[str, ...], dict[int, str]]:
    """The stop strings that name a control token, with marks for names; the mark of each token."""
    longest_first = sorted(names.items(), key=lambda item: -len(item[1]))
    named = [(t, name) for t, name in longest_first if name and any(name in s for s in stops)]
    marks = {token: chr(_FIRST_MARK + i) for i, (token, _) in enumerate(named[:_MOST_NAMED])}
    marked = []
    for stop in stops:
        other = stop
        for token, name in named[:_MOST_NAMED]:
            other = other.replace(name, marks[token])
        if other != stop:
            marked.append(other)
    return tuple(marked), marks


def _overlap(text: str, stops: tuple[str, ...], longest: int) -> int:
    """Longest end of `text` that begins a stop string."""
    for length in range(min(longest - 1, len(text)), 0, -1):
        end = text[len(text) - length :]
        if any(stop.startswith(end) for stop in stops):
            return length
    return 0


def _shown(text: str) -> str:
    """Without marks."""
    if text.isascii():
        return text
    return "".join(c for c in text if not "\ud800" <= c <= "\udfff")


def _places(text: str) -> list[int]:
    """Where the characters that are shown stand."""
    return [i for i, c in enumerate(text) if not "\ud800" <= c <= "\udfff"]
