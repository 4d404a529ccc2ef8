"""A draft head as a torch module, with training-time unrolls (EAGLE-3, arXiv 2503.01840).

Row p of unroll j is what drafting would run at depth j: its feature is what unroll j - 1 made of
row p - 1, and it attends to what drafting would have there.

    unroll 2, row p      rows of unroll 0: 0 .. p - 2     unroll 1: p - 1     unroll 2: p

`formats.draft_head.HeadConfig` has the formulas; `runtime/reference_head.py` is the same in numpy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from halfbyte.formats.draft_head import HeadConfig, head_tensors

_NORMS = {"embed": "norm.embed", "feature": "norm.feature", "final": "norm.final"}
_NORMS["attn"] = "layers.0.norm.attn"


class TorchHead(nn.Module):
    """Parameters by their names in a checkpoint; embeddings and the head matrix are given."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.names = [name for name, _ in head_tensors(config)]
        for name, shape in head_tensors(config):
            if len(shape) == 1:
                values = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
            else:
                values = torch.randn(shape) / shape[1] ** 0.5
            self.register_parameter(_attribute(name), nn.Parameter(values))
        if not config.is_eagle3:  # begin as a copy of the feature: the next one is seldom far
            hidden = config.model.hidden_size
            fuse = torch.zeros(hidden, 2 * hidden)
            fuse[:, hidden:] = torch.eye(hidden)
            self._get("fuse").data.copy_(fuse + 0.02 * torch.randn_like(fuse) / hidden**0.5)
        for name in ("layers.0.attn.o", "layers.0.mlp.down"):
            self._get(name).data.mul_(0.2)
        mixer = config.model.attention
        assert mixer.rope is not None, "a head's layer is plain"
        self.frequencies = torch.from_numpy(mixer.rope.inverse_frequencies(mixer.head_dim))

    def parameter_of(self, name: str) -> Tensor:
        """A parameter by its name in a checkpoint."""
        values: Tensor = self._get(name)
        return values

    def unroll(self, embedded: Tensor, features: Tensor, steps: int) -> list[Tensor]:
        """Normed outputs [B, T, hidden] of each unroll, ready for the head matrix.

        `embedded` [B, T, hidden] is row p's token (position p + 1), `features` [B, T, W] the
        target's at p. Rows p < j of unroll j are undefined.
        """
        outputs: list[Tensor] = []
        past: list[tuple[Tensor, Tensor]] = []
        hidden = features
        for step in range(steps):
            hidden = self._row(embedded, hidden, past, first=step == 0)
            outputs.append(self._norm("final", hidden))
            hidden = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], dim=1)
        return outputs

    def _row(
        self,
        embedded: Tensor,
        feature: Tensor,
        past: list[tuple[Tensor, Tensor]],
        *,
        first: bool,
    ) -> Tensor:
        e = self._norm("embed", embedded)
        if self.config.is_eagle3:
            x = self._linear("fuse", feature) if first else feature
            normed = torch.cat([e, self._norm("feature", x)], dim=-1)
        else:
            x = self._linear("fuse", torch.cat([e, self._norm("feature", feature)], dim=-1))
            if self.config.fuse_bias:
                x = x + self._get("fuse.bias")
            normed = self._norm("attn", x)
        x = x + self._linear("layers.0.attn.o", self._attention(normed, past))
        normed = self._rms(x, self._get("layers.0.norm.mlp"))
        gate = functional.silu(self._linear("layers.0.mlp.gate", normed))
        inner = gate * self._linear("layers.0.mlp.up", normed)
        return x + self._linear("layers.0.mlp.down", inner)

    def _attention(self, normed: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Attention of unroll len(past); its own keys and values join `past`."""
        c = self.config.model.attention
        batch, length, _ = normed.shape
        q = self._project("q", normed, c.num_heads)
        k = self._project("k", normed, c.num_kv_heads)
        v = self._project("v", normed, c.num_kv_heads, rotate=False)
        repeat = c.num_heads // c.num_kv_heads
        past.append((k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)))
        depth = len(past) - 1
        q = q * c.head_dim**-0.5
        rows = torch.arange(length)
        away = rows[:, None] - rows[None, :]
        seen = away >= depth
        if c.window:
            seen &= away < c.window
        keys, values = past[0]
        scores = [(q @ keys.transpose(-1, -2)).masked_fill(~seen, -torch.inf)]
        for i in range(1, depth + 1):  # the one row of unroll i that row p has on its path
            near = (q * _shifted(past[i][0], depth - i)).sum(-1, keepdim=True)
            scores.append(near)
        weights = torch.softmax(torch.cat(scores, dim=-1), dim=-1)
        out = weights[..., :length] @ values
        for i in range(1, depth + 1):
            out = out + weights[..., length + i - 1, None] * _shifted(past[i][1], depth - i)
        return out.transpose(1, 2).reshape(batch, length, c.num_heads * c.head_dim)

    def _project(self, which: str, normed: Tensor, heads: int, *, rotate: bool = True) -> Tensor:
        """[B, heads, T, D]."""
        name = f"layers.0.attn.{which}"
        out = self._linear(name, normed)
        if self.config.model.attention.bias:
            out = out + self._get(f"{name}.bias")
        batch, length, _ = out.shape
        out = out.reshape(batch, length, heads, self.config.model.attention.head_dim).transpose(
            1, 2
        )
        if not rotate:
            return out
        angles = torch.arange(length)[:, None] * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        a, b = out.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return self._rms(x, self._get(_NORMS[name])) if name in self.config.norms else x

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        mean = x.pow(2).mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(mean + self.config.model.norm_eps) * weight

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self._get(name))

    def _get(self, name: str) -> Any:
        return getattr(self, _attribute(name))


def _attribute(name: str) -> str:
    return name.replace(".", "_")


def _shifted(x: Tensor, by: int) -> Tensor:
    """x [B, heads, T, D] with row p - by at row p; zeros before."""
    return functional.pad(x, (0, 0, by, 0))[:, :, : x.shape[2]] if by else x
