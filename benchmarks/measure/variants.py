"""A cascade and its lengths, as benchmarks name it, and what decodes under it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.measure.workloads import Workload, token_ids
from halfbyte import LLM, SamplingParams
from halfbyte.api.request import Request
from halfbyte.cascade.cascade import Cascade
from halfbyte.engine.engine import Engine
from halfbyte.engine.sequence import Sequence
from halfbyte.errors import ArgumentError

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Variant:
    """Written `LEVEL`, `CASCADE @LENGTH`, or `CASCADE @LENGTH/INNER`."""

    cascade: Cascade
    draft_length: int  # 0 for plain decoding
    inner_length: int = 0  # 0: the engine's default

    @classmethod
    def parse(cls, text: str) -> Variant:
        """ArgumentError where a cascade has no length, or a level has one."""
        name, at, length = text.rpartition(" @")  # a path may have an @ of its own
        if not at:
            name, length = text, ""
        cascade = Cascade.parse(name)
        if cascade.draft is None and not at:
            return cls(cascade, 0)
        outer, slash, inner = length.strip().partition("/")
        lengths = [outer, inner] if slash else [outer]
        if cascade.draft is None or not all(n.isdigit() and int(n) >= 1 for n in lengths):
            raise ArgumentError(
                "--variant",
                got=repr(text),
                expected="LEVEL, CASCADE @LENGTH, or CASCADE @LENGTH/INNER",
                fix="for example 'w4a8 > w8a16 @3' or 'ngram > w4a8 > w8a16 @8/4'",
            )
        return cls(cascade, *map(int, lengths))

    @property
    def plain(self) -> Variant:
        """Plain decoding at the same target."""
        return Variant(self.cascade.plain, 0)

    def of(self, llm: LLM, *, prefix_cache: bool = True) -> LLM:
        """The same weights under this variant."""
        return llm.with_cascade(
            self.cascade,
            draft_length=self.draft_length or None,
            inner_length=self.inner_length or None,
            prefix_cache=prefix_cache,
        )

    def __str__(self) -> str:
        if not self.draft_length:
            return str(self.cascade)
        inner = f"/{self.inner_length}" if self.inner_length else ""
        return f"{self.cascade} @{self.draft_length}{inner}"


@dataclass(frozen=True, slots=True)
class Decoder:
    """Implements `loop.Subject`: greedy answers of a loaded model under one cascade."""

    llm: LLM

    def engine(self) -> Engine:
        """Over the model's one pool of pages."""
        return self.llm.engine()

    def sequence(self, prompt: Workload, limit: int) -> Sequence:
        """Past the end token, too: every variant decodes as much."""
        params = SamplingParams(temperature=0.0, max_tokens=limit, ignore_eos=True)
        return Request(self.llm.model, token_ids(self.llm, prompt), params).sequence


def decoders(llm: LLM, names: Iterable[str]) -> dict[str, Decoder]:
    """Each variant over the weights of `llm`, which is itself the subject of `auto …`."""
    return {
        name: Decoder(llm if name.startswith(AUTO) else Variant.parse(name).of(llm))
        for name in names
    }
