"""The cascade string: ordered stages `proposer > … > target`; each judges the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from halfbyte.cascade.stages import Auto, Eagle, Model, Stage, parse_stage, split_stages
from halfbyte.config import LEVEL_NAMES, Level
from halfbyte.errors import ArgumentError

if TYPE_CHECKING:
    from halfbyte.runtime.protocol import Runtime

MAX_STAGES = 3
MAX_CHARS = 16384
EXAMPLE = "a string such as 'w8a16', 'w4a8 > w8a16' or 'ngram > w4a8 > w8a16'"


@dataclass(frozen=True, slots=True)
class Cascade:
    """One stage decodes plainly; of more, all but the last propose. `parse(str(x)) == x`."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_STAGES:
            raise ArgumentError(
                "cascade",
                got=f"{len(self.stages)} stages",
                expected="TARGET, A > TARGET or A > B > TARGET",
                fix=f"name at most {MAX_STAGES} stages",
            )
        last, first = len(self.stages) - 1, 0
        for i, stage in enumerate(self.stages):
            if i == last and not isinstance(stage, Level | Auto):
                raise self._misplaced(stage, "a level as the last stage")
            if first < i < last and not isinstance(stage, Level | Model):
                raise self._misplaced(stage, "a level or a model as the stage in the middle")
            if isinstance(stage, Auto) and (i > first or last > 1):
                raise self._misplaced(stage, "auto or auto | OFFER, alone or before a level")

    def _misplaced(self, stage: Stage, expected: str) -> ArgumentError:
        return ArgumentError(
            f"stage '{stage}' of cascade '{self}'",
            got=f"it as stage {self.stages.index(stage) + 1} of {len(self.stages)}",
            expected=expected,
            fix="put the cheapest proposer first and the level wanted last",
        )

    def __str__(self) -> str:
        return " > ".join(str(stage) for stage in self.stages)

    @property
    def target(self) -> Level:
        """The level whose output the user gets."""
        stage = self.stages[-1]
        if not isinstance(stage, Level):
            raise ArgumentError(
                f"cascade '{self}'",
                got="no target level",
                expected="a level as the last stage",
                fix="write for example 'auto > w8a16'",
            )
        return stage

    @property
    def is_auto(self) -> bool:
        """Whether a planner chooses the stages before the target."""
        return isinstance(self.stages[0], Auto)

    @property
    def offers(self) -> tuple[Model | Eagle, ...]:
        """What a planner may use besides the weights themselves."""
        first = self.stages[0]
        return first.offers if isinstance(first, Auto) else ()

    @property
    def draft(self) -> Stage | None:
        """The stage that proposes to the target; None: plain decoding."""
        return self.stages[-2] if len(self.stages) > 1 else None

    @property
    def levels(self) -> tuple[Level, ...]:
        """The stages that run on the target's own weights."""
        return tuple(stage for stage in self.stages if isinstance(stage, Level))

    @property
    def models(self) -> tuple[Model, ...]:
        """The stages that bring a model of their own."""
        return tuple(stage for stage in self.stages if isinstance(stage, Model))

    @property
    def plain(self) -> Cascade:
        """Plain decoding at the same target."""
        return Cascade((self.target,))

    @classmethod
    def parse(cls, text: str) -> Self:
        """`w8a16` (plain), `w4a8 > w8a16`, `ngram > w4a8+h8 > w8a16`; see `stages`."""
        if not isinstance(text, str) or not text.strip():
            raise ArgumentError(
                "cascade", got=repr(text), expected=EXAMPLE, fix="name a target level"
            )
        if len(text) > MAX_CHARS:
            raise ArgumentError(
                "cascade", got=f"{len(text)} characters", expected=EXAMPLE, fix="shorten it"
            )
        return cls(tuple(parse_stage(part) for part in split_stages(text)))

    def require(self, runtime: Runtime) -> None:
        """Refuse a cascade that the loaded weights, or this version, cannot run."""
        for level in self.levels:
            if not runtime.supports(level):
                runs = [name for name in LEVEL_NAMES if runtime.supports(Level.parse(name))]
                raise ArgumentError(
                    f"level {level} of cascade '{self}'",
                    got=_missing(level),
                    expected=f"a level these weights can run: {', '.join(runs) or 'none'}",
                    fix=_remedy(level),
                )


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
