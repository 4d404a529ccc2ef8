"""Calibration text: sequences of one length, from a file or sampled from the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halfbyte.api.llm import LLM
from halfbyte.checks import check_int
from halfbyte.config import ModelConfig
from halfbyte.errors import ArgumentError, reraise_machine_fault, told
from halfbyte.importers.source import Source
from halfbyte.sampling.params import SamplingParams
from halfbyte.text.codec import TextCodec

MAX_CHARS = 1 << 30
_SAMPLED_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Amount:
    """How much text: whole sequences of `length` tokens."""

    tokens: int = 16_384
    length: int = 512

    def __post_init__(self) -> None:
        for name, value, most in (("tokens", self.tokens, 1 << 24), ("length", self.length, 8192)):
            default = Amount.__dataclass_fields__[name].default
            check_int(f"calibration {name}", value, 16, most, f"the default is {default}")
        if self.tokens < self.length:
            raise ArgumentError(
                "calibration tokens",
                got=self.tokens,
                expected=f"at least one sequence of {self.length}",
                fix="ask for more tokens or shorter sequences",
            )

    @property
    def sequences(self) -> int:
        """Whole sequences."""
        return self.tokens // self.length


def read_sequences(path: Path, source: Source, amount: Amount) -> NDArray[np.int32]:
    """The beginning of a UTF-8 file as tokens [S, L]. Raises ArgumentError where it is short."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARS + 1)
        if len(text) > MAX_CHARS:
            raise ValueError(f"over {MAX_CHARS} characters")
    except (OSError, ValueError) as error:
        reraise_machine_fault(f"calibration file {path}", error)
        raise ArgumentError(
            f"calibration file {path}",
            got=told(error) if isinstance(error, OSError) else error,
            expected="readable UTF-8 text",
            fix="check the path and the file",
        ) from error
    needed = amount.sequences * amount.length
    # No tokenizer takes more than a few dozen characters per token: the rest need not be read.
    ids = TextCodec(source, source.config.vocab_size).encode(text[: 64 * needed])
    if len(ids) < needed:
        raise ArgumentError(
            f"calibration file {path}",
            got=f"{len(ids)} tokens",
            expected=f"at least {needed}",
            fix="give a longer text or ask for fewer --tokens",
        )
    return np.array(ids[:needed], dtype=np.int32).reshape(amount.sequences, amount.length)


def sample_sequences(
    path: Path, source: Source, amount: Amount, *, threads: int | None, seed: int
) -> NDArray[np.int32]:
    """Text the model itself writes after its first token, at the `f32` level: [S, L]."""
    together = min(_SAMPLED_TOGETHER, amount.sequences)
    llm = LLM(path, "f32", threads, num_tokens=together * (amount.length + 64), max_batch=together)
    begin = first_token(source.config, source)
    params = [
        SamplingParams(max_tokens=amount.length - 1, seed=seed + i, ignore_eos=True)
        for i in range(amount.sequences)
    ]
    done = llm.generate([[begin]] * amount.sequences, params)
    return np.array([[begin, *each.token_ids] for each in done], dtype=np.int32)


def first_token(config: ModelConfig, source: Source) -> int:
    """What a document begins with: the first token, else an end token, which comes before one."""
    begin = source.tokenizer_info.get("bos")
    for token in (begin, config.bos_id, *config.eos_ids):
        if isinstance(token, int) and 0 <= token < config.vocab_size:
            return token
    return 0
