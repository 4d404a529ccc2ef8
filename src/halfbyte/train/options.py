"""What a training run may be told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from halfbyte.errors import ArgumentError
from halfbyte.formats.draft_head import KINDS

# name -> smallest, largest
_RANGES = {
    "texts": (4, 1 << 20),
    "max_tokens": (8, 1 << 14),
    "draft_vocab": (16, 1 << 24),
    "steps": (1, 1 << 24),
    "batch": (1, 1024),
    "length": (8, 1 << 14),
    "unrolls": (1, 16),
    "seed": (0, 1 << 31),
}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Everything but `steps`, `rate` and `seconds` decides the data and so the work directory."""

    kind: str = "eagle"
    level: str = "w8a16"  # the target level whose features the head learns
    texts: int = 256  # that the model writes
    max_tokens: int = 256  # of an answer
    draft_vocab: int = 8192  # most frequent tokens the head scores
    steps: int = 400
    batch: int = 8  # pieces of a step
    length: int = 128  # tokens of a piece
    unrolls: int = 3
    rate: float = 1e-3  # peak of a cosine with a warm-up
    seed: int = 0
    seconds: float = 0.0  # stop after so long and go on the next time; 0: never

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise _fault("kind", self.kind, " or ".join(KINDS))
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise _fault(name, value, f"an integer, {least} to {most}")
        for name, low, high in (("rate", 0.0, 1.0), ("seconds", -1.0, 1e9)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low < value < high:
                raise _fault(name, value, f"a number above {max(low, 0):g} and below {high:g}")

    def data_key(self, model: str) -> str:
        """Names the data of a run: the same texts and features for the same key."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("steps", "rate", "seconds")}
        text = json.dumps({"model": model, **kept}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fault(name: str, got: object, expected: str) -> ArgumentError:
    return ArgumentError(name, got=repr(got), expected=expected, fix="leave it out for the default")
