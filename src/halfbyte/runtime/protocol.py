"""What a runtime offers to everything above it. `native.py` and `reference.py` implement it.

A runtime holds one model and one pool of KV pages. It knows rows, positions and page tables; it
never knows about requests. Nothing here is ambient: the level travels with each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level, ModelConfig
from halfbyte.errors import ArgumentError

KvBits = NDArray[np.uint16] | NDArray[np.uint32]  # f16 or bf16; f32

# What is made anew in every step is not frozen: that would take three times as long. It is not
# changed once it has been passed on all the same.


@dataclass(slots=True)
class Batch:
    """B sequences, M rows in all; the rows of a sequence stand at consecutive positions.

    Row m of sequence b has token `tokens[m]` and position `first_positions[b] + m - row_starts[b]`;
    its K and V are written to slot `position % page_size` of page
    `page_tables[b, position // page_size]`. Row m attends to positions 0 .. its own (less what a
    sliding window cuts off). Page table entries past a sequence's pages are -1.

    The rows of a token tree stand at `first + depth`, wherever their slot is. `paths[m]` names the
    slots past `first` of the row's ancestors, root first, and last its own; entry j is position
    `first + j`. -1 past the end; all -1: the sequence's rows are plain. A row attends to the
    positions below `first` and to its path, with the result of a plain row over that text, bit for
    bit. Ancestors may be rows of an earlier forward.

        root ── a ── c        rows     root      a         b         c
           └── b              paths    0 -1 -1   0  1 -1   0  2 -1   0  1  3
    """

    tokens: NDArray[np.int32]  # [M]
    row_starts: NDArray[np.int32]  # [B + 1], from 0 to M
    first_positions: NDArray[np.int32]  # [B]
    page_tables: NDArray[np.int32]  # [B, P]
    paths: NDArray[np.int32] | None = None  # [M, W]


@dataclass(frozen=True, slots=True)
class Adjustments:
    """What changes the raw logits of R rows before temperature (docs/numerics.md has the order).

    Row r has entries `starts[r]` .. `starts[r + 1] - 1`, no id twice; each makes a logit l into
    l + add, divided (if above 0, else multiplied) by its factor, less what it subtracts. Then only
    the tokens that mask `mask_rows[r]` has a bit for (token t: bit t % 32 of word t // 32) remain;
    -1: all remain. A mask that is used allows at least one token.
    """

    starts: NDArray[np.int32]  # [R + 1], from 0 to E
    ids: NDArray[np.int32]  # [E]
    adds: NDArray[np.float32]  # [E]; -inf forbids a token while another remains
    factors: NDArray[np.float32]  # [E] > 0
    subtracts: NDArray[np.float32]  # [E]
    mask_rows: NDArray[np.int32]  # [R]
    masks: NDArray[np.uint32]  # [K, ceil(V / 32)]


class SamplingRow(NamedTuple):
    """How one row turns logits into a token: from a request's parameters to the kernel, where
    `SamplingRow` in csrc/model/sampling.h is the same, field by field.

    The noise is a pure function of (seed, position, token id); `position` is that of the token
    being sampled. Order: adjustments, temperature, top-k, top-p, min-p, then Gumbel-max.
    """

    seed: int = 0
    temperature: float = 0.0  # 0: greedy, the lowest id wins a tie
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off
    position: int = 0
    # The token a row "draws" whatever its logits say (for the logprobs of a prompt); -1: none.
    forced: int = -1
    tops: int = 0  # how many most likely tokens to report

    def packed(self) -> bytes:
        """One record of SAMPLING_ROW."""
        return np.array([self], dtype=SAMPLING_ROW).tobytes()


_KINDS = {"seed": np.uint64, "temperature": np.float32, "top_p": np.float32, "min_p": np.float32}
SAMPLING_ROW = np.dtype(
    [(name, _KINDS.get(name, np.int32)) for name in SamplingRow._fields], align=True
)


@dataclass(slots=True)
class Sampling:
    """How each of R rows turns logits into a token."""

    rows: NDArray[np.void]  # [R] of SAMPLING_ROW
    adjustments: Adjustments | None = None

    @classmethod
    def of(cls, rows: Sequence[SamplingRow]) -> Sampling:
        """Rows as they are."""
        return cls(np.array(rows, dtype=SAMPLING_ROW))

    def shifted(self, positions: int) -> Sampling:
        """The same ways at later positions, without adjustments."""
        rows = self.rows.copy()
        rows["position"] += positions
        return Sampling(rows)

    def repeated(self, counts: NDArray[np.int32]) -> Sampling:
        """Row r `counts[r]` times, at consecutive positions, without adjustments."""
        rows = self.rows.repeat(counts)
        if len(rows):
            rows["position"] += np.concatenate([np.arange(n, dtype=np.int32) for n in counts])
        return Sampling(rows)


@dataclass(slots=True)
class Sampled:
    """What R rows drew."""

    tokens: NDArray[np.int32]  # [R]
    # [R] log-softmax of the raw logits (no temperature, no adjustment) at the token.
    logprobs: NDArray[np.float32]
    # Where `tops` asked: the most likely tokens of the raw logits, best first (ties: lower id
    # first), and their logprobs, [R, max(tops)]; past a row's own count they are undefined.
    top_ids: NDArray[np.int32] | None = None
    top_logprobs: NDArray[np.float32] | None = None


@dataclass(slots=True)
class DraftRun:
    """How B sequences are drafted for from their roots.

    Sequence b gets at most `lengths[b]` (>= 0) tokens, and stops early where the probability of the
    token it drew is below `min_confidence`; that token is not proposed. `head` is a number that
    `Runtime.reduce_head` gave: only its tokens are scored and drawn, and a probability is their
    share.
    """

    level: Level
    lengths: NDArray[np.int32]  # [B]
    min_confidence: float = 0.0
    head: int = 0


@dataclass(slots=True)
class Drafted:
    """What B sequences proposed."""

    tokens: NDArray[np.int32]  # [B, max(lengths)]; entries past `counts` are undefined
    counts: NDArray[np.int32]  # [B] proposed tokens, 0 .. lengths[b]


@dataclass(slots=True)
class Decoded:
    """What B sequences got from plain decoding."""

    tokens: NDArray[np.int32]  # [B, n], 1 <= n <= length
    logprobs: NDArray[np.float32]  # [B, n] as `Sampled.logprobs`


@dataclass(slots=True)
class Speculated:
    """What B sequences got from a draft and its verify."""

    # Of each, the longest beginning of its draft that the target sampled too, and one token of the
    # target's own.
    tokens: list[list[int]]
    logprobs: list[list[float]]  # as `Sampled.logprobs`
    proposed: list[int]  # [B] tokens drafted
    forwards: int  # of the draft
    draft_seconds: float


@dataclass(frozen=True, slots=True)
class LayerPass:
    """What one layer's products read, transforms done, and what it made of the residual stream."""

    qkv: NDArray[np.float32]  # [M, hidden] input of q, k and v
    o: NDArray[np.float32]  # [M, H * D]
    gate_up: NDArray[np.float32]  # [M, hidden]
    down: NDArray[np.float32]  # [M, intermediate]
    residual: NDArray[np.float32]  # [M, hidden]


class LayerRuntime(Protocol):
    """A runtime whose layers can be run alone, over rows of the residual stream."""

    def run_layer(
        self,
        layer: int,
        residual: NDArray[np.float32],
        row_starts: NDArray[np.int32],
        level: Level,
    ) -> LayerPass:
        """Run one layer over residual [M, hidden] of whole sequences, row_starts [B + 1].

        Every sequence starts at position 0. KV pages are overwritten from the first on; they must
        be enough for all M rows, each sequence beginning a page of its own.
        """


class Runtime(Protocol):
    """One model, one KV pool. Not thread-safe: one caller at a time."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""

    @property
    def page_size(self) -> int:
        """Positions a KV page holds."""

    @property
    def num_pages(self) -> int:
        """Pages in the pool."""

    @property
    def max_rows(self) -> int:
        """Most rows one `forward` takes; longer prefills are cut into chunks by the caller."""

    @property
    def speed_key(self) -> str:
        """What, beside the model's shape, decides how fast it runs: for caches of timings."""

    def supports(self, level: Level) -> bool:
        """Whether the weights loaded have what `level` reads."""

    def forward(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Run M rows, write their KV, return logits [R, V] of the rows named."""

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        """`forward`, then sample each named row; the logits never leave the runtime."""

    def draft(self, batch: Batch, run: DraftRun, sampling: Sampling) -> Drafted:
        """Decode several tokens of each sequence in one call.

        `batch` has one row per sequence (the pending token); `sampling.positions[b]` is the
        position of the first token drafted. Writes draft KV at the positions it runs over. A
        sequence's adjustments hold for every token it drafts, but its mask for the first only;
        `forced` and `tops` are not looked at.
        """

    def decode(self, batch: Batch, level: Level, length: int, sampling: Sampling) -> Decoded:
        """Decode `length` (>= 1) tokens of each sequence plainly in one call.

        Tokens, logprobs and KV are those of as many calls of `forward_sample` with one row a
        sequence. `batch` and `sampling` are as for `draft`, without adjustments.
        """

    def draft_and_verify(
        self, batch: Batch, run: DraftRun, target: Level, sampling: Sampling
    ) -> Speculated:
        """`draft`, then `forward_sample` at `target` of the roots and what was drafted.

        One call: tokens, logprobs and KV are those of the two. Arguments are as for `draft`,
        without adjustments; pages reach one position further, and all rows fit one forward.
        """

    def interrupt(self, *, wanted: bool) -> None:
        """True: a running `decode` ends after the forward it is in, and a later one after its
        first, until False is said. Any thread."""

    def reduce_head(self, ids: NDArray[np.int32]) -> int:
        """A second output head over the tokens `ids` (ascending), for `draft`; its number.

        It takes memory of its own. To ask again for the same ids gives the same number.
        """

    def copy_kv(
        self, pages: NDArray[np.int32], sources: NDArray[np.int32], targets: NDArray[np.int32]
    ) -> None:
        """Copy K and V of every layer from slot `sources[i]` to `targets[i]` of one sequence.

        All sources are read before a target is written. `pages` [P] is its row of the page table.
        """

    def keep_features(self, taps: tuple[int, ...]) -> None:
        """From now on keep features beside the KV of every row any forward runs.

        A tap i is the residual stream entering layer i; one equal to the number of layers is the
        output of the final norm. Features are as good as the KV of the same slot: written by
        whichever level wrote it last, and copied with it. To ask again for the same taps does
        nothing; ArgumentError for others.
        """

    def read_features(
        self, pages: NDArray[np.int32], positions: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Kept features of some positions of one sequence, tap after tap: [n, taps * hidden]."""

    def read_kv(self, layer: int, page: int) -> tuple[KvBits, KvBits]:
        """Raw bits of one page: K [Hkv, D, S], V [Hkv, S, D]. For tests and tools."""

    def weight_bytes(self, level: Level, head: int = 0) -> int:
        """Bytes of weights one forward at `level` reads, the embedding row not counted."""

    def memory_bytes(self) -> int:
        """Resident bytes of all weights (all levels share them), reduced heads included."""


def check_head_ids(ids: NDArray[np.int32], vocab_size: int) -> None:
    """Refuse ids that `reduce_head` cannot take."""
    if not len(ids) or ids[0] < 0 or ids[-1] >= vocab_size or (np.diff(ids) <= 0).any():
        raise ArgumentError(
            "tokens of a reduced head",
            got=f"{len(ids)} ids",
            expected=f"at least one, ascending, from 0 to {vocab_size - 1}",
            fix="sort them and leave out repeats",
        )


def fresh_pages(
    row_starts: NDArray[np.int32], page_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First positions [B] and page tables [B, P] of B sequences from position 0 on pages 0, 1, …"""
    counts = -(-np.diff(row_starts) // page_size)
    tables = np.full((len(counts), int(counts.max(initial=0))), -1, dtype=np.int32)
    begin = 0
    for b, count in enumerate(counts):
        tables[b, :count] = np.arange(begin, begin + count)
        begin += int(count)
    return np.zeros(len(counts), dtype=np.int32), tables
