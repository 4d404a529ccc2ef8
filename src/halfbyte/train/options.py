"""What a training run may be told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from halfbyte.checks import check_int, check_number, check_one_of
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
_FIX = "leave it out for the default"


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
        check_one_of("kind", self.kind, KINDS, _FIX)
        for name, (least, most) in _RANGES.items():
            check_int(name, getattr(self, name), least, most, _FIX)
        check_number("rate", self.rate, 0, 1, _FIX, open_low=True, open_high=True)
        check_number("seconds", self.seconds, 0, 1e9, _FIX)

    def data_key(self, model: str) -> str:
        """Names the data of a run: the same texts and features for the same key."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("steps", "rate", "seconds")}
        text = json.dumps({"model": model, **kept}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
