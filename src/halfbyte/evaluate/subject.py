"""The model to evaluate, and what a reader of its results has to know about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from halfbyte.api.llm import LLM
from halfbyte.cascade.cascade import Cascade
from halfbyte.config import Level
from halfbyte.evaluate.provenance import fingerprint
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.importers.resolve import locate

FLOAT_TYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated: a loaded model under one cascade."""

    llm: LLM
    name: str
    fingerprint: str  # of the weights
    remark: str = ""  # shown beside every result

    @property
    def level(self) -> Level:
        """The cascade's target, whose output the user gets."""
        return self.llm.cascade.target

    def under(self, cascade: Cascade, draft_length: int | None = None) -> Subject:
        """The same weights under another cascade."""
        return replace(self, llm=self.llm.with_cascade(cascade, draft_length=draft_length))


def load_subject(
    ckpt: str,
    cascade: Cascade,
    *,
    name: str | None = None,
    threads: int | None = None,
    draft_length: int = 3,
    max_batch: int = 8,
    num_tokens: int = 8192,
    planes: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Subject:
    """Open (converting on first use) and load; see `LLM`."""
    llm = LLM(
        ckpt,
        cascade,
        threads,
        draft_length=draft_length,
        max_batch=max_batch,
        num_tokens=num_tokens,
        planes=planes,
        progress=progress,
    )
    weights = llm.model.source
    path = weights.path if isinstance(weights, Checkpoint) else locate(ckpt)
    return Subject(llm, name or ckpt, fingerprint(path), _remark(weights))


def _remark(weights: object) -> str:
    """Whether the weights come from a file that was quantized already, and how."""
    if isinstance(weights, Checkpoint):
        described = weights.source
    else:
        described = getattr(weights, "description", {})
    types = described.get("types")
    if not isinstance(types, dict) or not set(types) - set(FLOAT_TYPES):
        return ""
    listed = ", ".join(f"{kind} x{count}" for kind, count in types.items())
    return f"source weights are quantized already ({listed})"
