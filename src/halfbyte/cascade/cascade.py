"""The cascade string: ordered stages `draft > target`, every one a level of the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from halfbyte.config import LEVEL_NAMES, Level
from halfbyte.errors import ArgumentError

if TYPE_CHECKING:
    from halfbyte.runtime.protocol import Runtime

MAX_STAGES = 2


@dataclass(frozen=True, slots=True)
class Cascade:
    """One stage decodes plainly; of two, the first drafts. `parse(str(x)) == x`."""

    stages: tuple[Level, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_STAGES:
            raise ArgumentError(
                "cascade",
                got=f"{len(self.stages)} stages",
                expected="LEVEL or LEVEL > LEVEL",
                fix="name one target level and at most one draft level",
            )

    def __str__(self) -> str:
        return " > ".join(str(stage) for stage in self.stages)

    @property
    def target(self) -> Level:
        """The level whose output the user gets."""
        return self.stages[-1]

    @property
    def draft(self) -> Level | None:
        """The level that proposes; None: plain decoding."""
        return self.stages[0] if len(self.stages) > 1 else None

    @property
    def plain(self) -> Cascade:
        """Plain decoding at the same target."""
        return Cascade((self.target,))

    @classmethod
    def parse(cls, text: str) -> Self:
        """`w8a16` (plain), `w4a8 > w8a16` (self-speculation), `w4a8+h8 > w8a16`, `f32`."""
        if not isinstance(text, str) or not text.strip():
            raise ArgumentError(
                "cascade",
                got=repr(text),
                expected="a string such as 'w8a16' or 'w4a8 > w8a16'",
                fix="name a target level",
            )
        return cls(tuple(_parse_stage(part, text) for part in text.split(">")))

    def require(self, runtime: Runtime) -> None:
        """Refuse a cascade whose levels the loaded weights cannot run."""
        for level in self.stages:
            if not runtime.supports(level):
                runs = [name for name in LEVEL_NAMES if runtime.supports(Level.parse(name))]
                raise ArgumentError(
                    f"level {level} of cascade '{self}'",
                    got=_missing(level),
                    expected=f"a level these weights can run: {', '.join(runs) or 'none'}",
                    fix=_remedy(level),
                )


def _parse_stage(part: str, text: str) -> Level:
    stage = part.strip()
    kind = stage.partition(":")[0]
    if kind in ("ngram", "eagle", "model", "auto"):
        raise ArgumentError(
            f"stage {stage!r} of cascade '{text}'",
            got=f"a stage of kind {kind!r}",
            expected=f"a level: {', '.join(LEVEL_NAMES)}",
            fix="this version runs LEVEL or LEVEL > LEVEL",
        )
    return Level.parse(stage)


def _missing(level: Level) -> str:
    if level.weight_bits == 8:
        return "weights without the low planes (a 4-bit checkpoint)"
    if level.weight_bits == 32:
        return "weights quantized to planes"
    if level.head_bits == 8:
        return "an output head without its low plane"
    return "weights without planes"


def _remedy(level: Level) -> str:
    if level.weight_bits == 8 or level.head_bits == 8:
        return "convert the model again with --planes 8, or use a w4 level"
    if level.weight_bits == 32:
        return "run f32 alone, on the model's source files"
    return "convert the model to planes, or use f32"
