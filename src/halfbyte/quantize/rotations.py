"""QuaRot (arXiv 2404.00456): the same model in a basis without outlier channels.

The residual stream is rotated by a random Hadamard-like matrix, and values by another inside each
head; both are folded into the weights, once RMSNorm weights are (section 4). Two rotations cannot
be folded and stay in the model as transforms: across the heads before the output projection, and
of the MLP's hidden row before the down projection. The embedding and the head then differ, so a
tied head is untied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halfbyte.config import ModelConfig
from halfbyte.errors import ModelError
from halfbyte.formats import orthogonal
from halfbyte.formats.transforms import MAX_BLOCK, Rotation, Transform
from halfbyte.formats.weights import Dense, Weights

F32 = NDArray[np.float32]

# Of a size that is a power of two alone: larger blocks leave threads too few to share.
LARGEST_PLAIN_BLOCK = 512
_HADAMARD = ("sylvester", "paley-1", "paley-2")


def along_row(size: int) -> Rotation:
    """The rotation of a row of `size` inputs, a multiple of 16.

    A Hadamard matrix of the smallest order that a rule has for the odd part of the size, times
    Sylvester's of the rest: 8960 = 140 x 64, 14336 = 28 x 512. Where there is none, a DCT for the
    odd part; where that is over 1024, blocks of the largest power of two, not mixed further.
    """
    twos = size & -size
    odd = size // twos
    if twos < 16:
        raise ModelError(
            "rotation", got=f"{size} inputs", expected="a multiple of 16", fix="use another scheme"
        )
    if odd == 1:
        block = min(size, LARGEST_PLAIN_BLOCK)
        return Rotation(min(size // block, orthogonal.MAX_ORDER), "sylvester", block)
    block = twos
    while block >= 16:
        core = size // block
        for kind in _HADAMARD:
            if block <= MAX_BLOCK and orthogonal.exists(kind, core):
                return Rotation(core, kind, block)
        block //= 2
    block = min(twos, MAX_BLOCK)
    if orthogonal.exists("dct", odd):
        return Rotation(odd, "dct", block)
    return Rotation(1, "sylvester", block)


def across_heads(heads: int, head_dim: int) -> Rotation | None:
    """The rotation that mixes heads with each other; None where there is one."""
    if heads == 1:
        return None
    kinds = (*_HADAMARD, "dct")
    found = [kind for kind in kinds if orthogonal.exists(kind, heads)]
    return Rotation(heads, found[0], stride=head_dim) if found else None


def rotated(rows: F32, rotation: Rotation) -> F32:
    """Each of [n, K] rows rotated, whatever the order of sums: for weights, not for exactness."""
    r = rotation
    mixed = np.matmul(r.matrix, rows.reshape(-1, r.core, r.block * r.stride))
    if r.block > 1:
        mixed = np.matmul(mixed.reshape(-1, r.block), orthogonal.matrix("sylvester", r.block))
    result: F32 = mixed.reshape(rows.shape)
    result *= r.scale
    return result


@dataclass(frozen=True, slots=True)
class RotatedModel:
    """`Weights` of the rotated model, a matrix at a time; made by `rotate_model`."""

    source: Weights
    config: ModelConfig
    signs: F32  # [hidden] +-1: with them the Hadamard matrix is a random one
    residual: Rotation
    value: Rotation  # inside a head
    heads: Rotation | None
    hidden: Rotation

    @property
    def head_bits(self) -> dict[int, int]:
        """As the source's."""
        return self.source.head_bits

    def matrix(self, name: str) -> Dense:
        """A matrix of the rotated model: [N, K]."""
        if name in ("embed", "head"):
            return Dense(self._outer(name), "f32")
        layer, _, short = name.rpartition(".")
        if short == "o":
            heads: Transform | None = self.heads
            return Dense(self._to_residual(self._attended(name)), "f32", heads)
        if short == "down":
            values = rotated(self._values(name), self.hidden)
            return Dense(self._to_residual(values), "f32", self.hidden)
        norm = layer.replace(".attn", ".norm.attn").replace(".mlp", ".norm.mlp")
        values = self._from_residual(self._values(name) * self.source.vector(norm))
        if short == "v":
            values = self._inside_heads(values.T).T
        return Dense(np.ascontiguousarray(values), "f32")

    def vector(self, name: str) -> F32:
        """A bias or norm of the rotated model: [n]."""
        values = self.source.vector(name)
        if ".norm." in name or name == "norm.final":
            return np.ones_like(values)
        if name.endswith(".v.bias"):
            return self._inside_heads(values[None]).reshape(-1)
        return values

    def _outer(self, name: str) -> F32:
        if name == "embed":
            return self._from_residual(self._values("embed"))
        tied = self.source.config.tied_head
        values = self._values("embed" if tied else "head")
        values = values * self.source.vector("norm.final")
        return self._from_residual(values)

    def _from_residual(self, rows: F32) -> F32:
        """Rows that read the residual stream, in its new basis."""
        return rotated(rows * self.signs, self.residual)

    def _to_residual(self, values: F32) -> F32:
        """A matrix that writes the residual stream, in its new basis."""
        return np.ascontiguousarray(self._from_residual(np.ascontiguousarray(values.T)).T)

    def _inside_heads(self, rows: F32) -> F32:
        """[n, heads * D], each head rotated."""
        heads = np.ascontiguousarray(rows).reshape(-1, self.config.attention.head_dim)
        return rotated(heads, self.value).reshape(rows.shape)

    def _attended(self, name: str) -> F32:
        values = self._inside_heads(self._values(name))
        return values if self.heads is None else rotated(values, self.heads)

    def _values(self, name: str) -> F32:
        matrix = self.source.matrix(name)
        assert isinstance(matrix, Dense), "a source is dense"
        assert matrix.transform is None, "a source has no transforms"
        if matrix.dtype == "bf16":
            return (matrix.values.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(matrix.values, dtype=np.float32)


def rotate_model(source: Weights, seed: int = 0) -> RotatedModel:
    """The same function as a dense `source`, up to rounding. Raises ModelError for odd sizes."""
    config = source.config
    mixer = config.attention
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], config.hidden_size)
    return RotatedModel(
        source=source,
        config=replace(config, tied_head=False),
        signs=signs.astype(np.float32),
        residual=along_row(config.hidden_size),
        value=along_row(mixer.head_dim),
        heads=across_heads(mixer.num_heads, mixer.head_dim),
        hidden=along_row(config.feed_forward.size),
    )
