"""The training loop: soft cross-entropy to what the target would say, over every unroll."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halfbyte.errors import SourceError, reraise_machine_fault
from halfbyte.formats.partial import written_aside
from halfbyte.train.options import TrainOptions
from halfbyte.train.pieces import Pieces, TrainingBatch
from halfbyte.train.torch_head import TorchHead

UNROLL_DECAY = 0.8  # EAGLE-3's weight of unroll j is this to the power j
CLIP = 0.5
SAVE_EVERY = 50
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Frozen:
    """What the target lends: dense, never trained."""

    embedding: Tensor  # [V, hidden]
    head: Tensor  # [scored, hidden]


def frozen(embedding: NDArray[np.float32], head: NDArray[np.float32]) -> Frozen:
    """Tensors over the arrays."""
    return Frozen(torch.from_numpy(embedding), torch.from_numpy(head))


def fit(
    head: TorchHead,
    lent: Frozen,
    pieces: Pieces,
    options: TrainOptions,
    state: Path,
    progress: Progress | None = None,
) -> int:
    """Train up to `options.steps`; returns the steps done, fewer where `seconds` ran out.

    `state` is written every SAVE_EVERY steps and at the end, aside and then renamed; a run that
    finds it goes on from there.
    """
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=options.rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    step = _restore(head, optimizer, state)
    started, losses = perf_counter(), 0.0
    while step < options.steps:
        if options.seconds and perf_counter() - started > options.seconds:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.rate * _schedule(step, options.steps)
        loss = loss_of(head, lent, pieces.batch(step, options.batch), options.unrolls)
        if not torch.isfinite(loss):
            raise SourceError(
                f"training step {step}",
                got=f"a loss of {loss.item()}",
                expected="a finite loss",
                fix="lower --rate, and remove the work directory's state",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        optimizer.step()
        step += 1
        losses = loss.item() if not losses else 0.95 * losses + 0.05 * loss.item()
        if progress:
            progress(f"loss {losses:.3f}", step, options.steps)
        if step % SAVE_EVERY == 0:
            _save(head, optimizer, step, state)
    _save(head, optimizer, step, state)
    return step


def loss_of(head: TorchHead, lent: Frozen, batch: TrainingBatch, unrolls: int) -> Tensor:
    """Mean cross-entropy over the rows that count, unroll j weighted UNROLL_DECAY ** j."""
    with torch.no_grad():
        teacher = torch.softmax(torch.from_numpy(batch.teachers) @ lent.head.T, dim=-1)
    embedded = lent.embedding[torch.from_numpy(batch.tokens)]
    counts = torch.from_numpy(batch.counts)
    total = torch.zeros(())
    outputs = head.unroll(embedded, torch.from_numpy(batch.features), unrolls)
    for j, output in enumerate(outputs):
        kept = counts.clone()
        kept[:, :j] = False
        logprobs = torch.log_softmax(output[kept] @ lent.head.T, dim=-1)
        cross = -(teacher[kept] * logprobs).sum(dim=-1)
        total = total + UNROLL_DECAY**j * cross.sum() / max(1, int(kept.sum()))
    return total / sum(UNROLL_DECAY**j for j in range(unrolls))


def _schedule(step: int, steps: int) -> float:
    """Warm-up over a twentieth, then a cosine down to a tenth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _save(head: TorchHead, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    values = {"head": head.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    with written_aside(path) as aside:
        torch.save(values, aside)


def _restore(head: TorchHead, optimizer: torch.optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    try:
        values: dict[str, Any] = torch.load(path, weights_only=True)
        head.load_state_dict(values["head"])
        optimizer.load_state_dict(values["optimizer"])
        return int(values["step"])
    except Exception as error:
        reraise_machine_fault(f"training state {path.name}", error)
        raise SourceError(
            f"training state {path.name}",
            got=str(error)[:120],
            expected="the state of a run with these options",
            fix="remove the work directory and start again",
        ) from error
