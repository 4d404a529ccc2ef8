"""A runtime whose next token is a hash of the token prefix it reads through page tables.

Its "KV" is one integer a position plus the level that wrote it. A target row that reads a
position written at another level, or never written, gets a poisoned hash, so every scheduling or
roll-back mistake changes the output.
Every other level agrees with the target except at pseudo-random prefixes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import Level, ModelConfig, uniform_model
from halfbyte.runtime.protocol import (
    Batch,
    Decoded,
    Drafted,
    DraftRun,
    Sampled,
    Sampling,
    SamplingRow,
    Speculated,
)
from halfbyte.runtime.reference_mixer import own_slots, row_contexts
from halfbyte.runtime.stepwise import decode_stepwise, draft_and_verify_stepwise

VOCAB = 97
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def tiny_config(max_context: int = 4096, vocab_size: int = VOCAB) -> ModelConfig:
    return uniform_model(
        family="llama",
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=32,
        max_context=max_context,
        norm_eps=1e-5,
    )


def _mix(z: int) -> int:
    z = (z * 0x9E3779B97F4A7C15 + 0x1234567) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


class FakeRuntime:
    def __init__(
        self,
        *,
        num_pages: int = 64,
        page_size: int = 4,
        max_rows: int = 64,
        max_context: int = 4096,
        disagree_percent: int = 25,
        planes: bool = True,
        vocab_size: int = VOCAB,
        target: str | None = None,  # None: rows of `forward_sample` are the target's
        wrong_positions: frozenset[int] | None = None,  # in place of `disagree_percent`
    ) -> None:
        self.config = tiny_config(max_context, vocab_size)
        self.page_size = page_size
        self.num_pages = num_pages
        self.max_rows = max_rows
        self.disagree_percent = disagree_percent
        self.has_planes = planes
        self.target = target
        self.wrong_positions = wrong_positions
        self.values = np.zeros((num_pages, page_size), dtype=np.uint64)  # [P, S]
        self.writers = np.zeros((num_pages, page_size), dtype=np.int64)  # 0: never written
        self.heads: list[list[int]] = []
        self.calls: list[tuple[str, int]] = []  # verb, rows
        self.speed_key = "fake"
        self.interrupted = False

    def supports(self, level: Level) -> bool:
        return (level.weight_bits == 32) != self.has_planes

    def forward(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        self.calls.append(("forward", len(batch.tokens)))
        hashes = self._hashes(batch, level, strict=True)
        logits = np.zeros((len(logit_rows), self.config.vocab_size), dtype=np.float32)
        for i, row in enumerate(logit_rows.tolist()):
            logits[i, hashes[row] % self.config.vocab_size] = 1.0
        return logits

    def forward_sample(
        self, batch: Batch, level: Level, logit_rows: NDArray[np.int32], sampling: Sampling
    ) -> Sampled:
        self.calls.append(("forward_sample", len(batch.tokens)))
        strict = self.target in (None, str(level))
        hashes = self._hashes(batch, level, strict=strict)
        following = np.array([len(context) for context in row_contexts(batch)])
        assert (sampling.rows["position"] == following[logit_rows]).all()
        tokens, logprobs = [], []
        for i, row in enumerate(logit_rows.tolist()):
            token, logprob = self._draw(hashes[row], sampling, i)
            if not strict:
                token = self._disagree(hashes[row], token, int(sampling.rows["position"][i]))
            tokens.append(token)
            logprobs.append(logprob)
        return Sampled(np.array(tokens, dtype=np.int32), np.array(logprobs, dtype=np.float32))

    def draft(self, batch: Batch, run: DraftRun, sampling: Sampling) -> Drafted:
        self.calls.append(("draft", len(batch.tokens)))
        level, lengths = run.level, run.lengths
        scored = self.heads[run.head - 1] if run.head else range(self.config.vocab_size)
        assert len(batch.tokens) == len(lengths) == len(batch.first_positions)
        assert (sampling.rows["position"] == batch.first_positions + 1).all()
        tokens = np.full((len(lengths), int(lengths.max())), -7, dtype=np.int32)
        counts = np.zeros(len(lengths), dtype=np.int32)
        for b, length in enumerate(lengths.tolist()):
            token = int(batch.tokens[b])
            for i in range(length):
                one = Batch(
                    np.array([token], dtype=np.int32),
                    np.array([0, 1], dtype=np.int32),
                    batch.first_positions[b : b + 1] + i,
                    batch.page_tables[b : b + 1],
                )
                value = self._hashes(one, level, strict=False)[0]
                token, _ = self._draw(value, sampling, b, offset=i)
                token = self._disagree(value, token, int(sampling.rows["position"][b]) + i)
                if token not in scored:
                    token = scored[value % len(scored)]
                if (_mix(value ^ 0xDEF) % 1000) / 1000 < run.min_confidence:
                    break
                tokens[b, i] = token
                counts[b] = i + 1
        return Drafted(tokens, counts)

    def draft_and_verify(
        self, batch: Batch, run: DraftRun, target: Level, sampling: Sampling
    ) -> Speculated:
        self.calls.append(("draft_and_verify", len(batch.tokens)))
        return draft_and_verify_stepwise(self, batch, run, target, sampling)

    def decode(self, batch: Batch, level: Level, length: int, sampling: Sampling) -> Decoded:
        self.calls.append(("decode", len(batch.tokens)))
        return decode_stepwise(self, batch, level, length, sampling, lambda: self.interrupted)

    def interrupt(self, *, wanted: bool) -> None:
        self.interrupted = wanted

    def read_kv(self, layer: int, page: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        bits = self.values[page].view(np.uint16)
        return bits, (self.writers[page] & 0xFFFF).astype(np.uint16)

    def copy_kv(
        self, pages: NDArray[np.int32], sources: NDArray[np.int32], targets: NDArray[np.int32]
    ) -> None:
        for kept in (self.values, self.writers):
            moved = kept[pages[sources // self.page_size], sources % self.page_size]
            kept[pages[targets // self.page_size], targets % self.page_size] = moved

    def reduce_head(self, ids: NDArray[np.int32]) -> int:
        if ids.tolist() not in self.heads:
            self.heads.append(ids.tolist())
        return self.heads.index(ids.tolist()) + 1

    def weight_bytes(self, level: Level, head: int = 0) -> int:
        return (900 if head else 1000) * level.weight_bits

    def memory_bytes(self) -> int:
        return 8000

    def _hashes(self, batch: Batch, level: Level, *, strict: bool) -> list[int]:
        """One hash a row over the positions it reads; all rows' KV is written first."""
        writer = level.weight_bits * 100 + level.act_bits
        assert 0 < len(batch.tokens) <= self.max_rows
        assert batch.row_starts[-1] == len(batch.tokens)
        contexts = row_contexts(batch)
        own_pages, slots = own_slots(batch, contexts, self.page_size)
        places = list(zip(own_pages.tolist(), slots.tolist(), strict=True))
        assert len(set(places)) == len(places), "two rows of a batch share a slot"
        for m, (page, slot) in enumerate(places):
            position, token = len(contexts[m]) - 1, int(batch.tokens[m])
            assert position < self.config.max_context
            assert page >= 0, f"no page for position {position}"
            assert 0 <= token < self.config.vocab_size
            self.values[page, slot] = _mix(token * 8191 + position)
            self.writers[page, slot] = writer
        hashes = []
        owners = np.repeat(np.arange(len(batch.first_positions)), np.diff(batch.row_starts))
        for b, context in zip(owners.tolist(), contexts, strict=True):
            pages, slots = batch.page_tables[b, context // self.page_size], context % self.page_size
            odd = np.arange(len(context), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
            value = int((self.values[pages, slots] * (odd * _GOLDEN)).sum(dtype=np.uint64))
            if strict and not (self.writers[pages, slots] == writer).all():
                value ^= 0x5A5A5A5A  # reading another level's KV poisons the row
            hashes.append(value)
        return hashes

    def _disagree(self, value: int, token: int, position: int) -> int:
        if self.wrong_positions is not None:
            wrong = position in self.wrong_positions
        else:
            wrong = _mix(value ^ 0xABC) % 100 < self.disagree_percent
        return (token + 1) % self.config.vocab_size if wrong else token

    def _draw(self, value: int, sampling: Sampling, row: int, offset: int = 0) -> tuple[int, float]:
        how = SamplingRow(*sampling.rows[row].tolist())
        if how.temperature > 0:
            noise = how._replace(position=how.position + offset, forced=-1, tops=0)
            value ^= hash(noise) & 0xFFFFFFFFFFFFFFFF
        mixed = _mix(value)
        return mixed % self.config.vocab_size, -((mixed >> 20) % 1000) / 100
