"""What agreement is measured against: another level of the same weights, or another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from halfbyte.cascade.cascade import Cascade
from halfbyte.errors import ArgumentError
from halfbyte.evaluate.subject import Subject, load_subject

DEFAULT_LEVEL = "f32"


@dataclass(slots=True)
class Reference:
    """`LEVEL`, or `MODEL` or `MODEL@LEVEL` (f32 unless said); a model is loaded on first use."""

    text: str
    num_tokens: int
    threads: int | None = None
    _loaded: Subject | None = field(default=None, init=False)

    def of(self, subject: Subject) -> Subject:
        """The reference for `subject`."""
        level = _as_level(self.text)
        if level is not None:
            return subject.under(level)
        if self._loaded is None:
            model, at, stated = self.text.rpartition("@")
            plain = _as_level(stated) if at else None
            self._loaded = load_subject(
                model if plain else self.text,
                plain or Cascade.parse(DEFAULT_LEVEL),
                threads=self.threads,
                num_tokens=self.num_tokens,
            )
        return self._loaded


def require_reference(reference: Reference | None) -> Callable[[Subject], Subject]:
    """Raises ArgumentError if there is none."""
    if reference is None:
        raise ArgumentError(
            "agreement",
            got="no reference",
            expected="--reference LEVEL or --reference MODEL@LEVEL",
            fix="for example --reference smollm2-135m@f32",
        )
    return reference.of


def _as_level(text: str) -> Cascade | None:
    try:
        cascade = Cascade.parse(text)
    except ArgumentError:
        return None
    return cascade if cascade.draft is None else None
