"""Orthogonal matrices that a rule alone defines: what a checkpoint's rotations are made of.

`sylvester`, `paley-1` and `paley-2` give Hadamard matrices (entries +-1, H H' = n I), `dct` gives
an orthonormal matrix of any order. Paley: On orthogonal matrices, J. Math. Phys. 12 (1933).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = ("sylvester", "paley-1", "paley-2", "dct")
MAX_ORDER = 1024  # a matrix of 4 MiB; also bounds what a hostile checkpoint can ask for


def exists(kind: str, order: int) -> bool:
    """Whether the rule gives a matrix of that order."""
    if not 1 <= order <= MAX_ORDER:
        return False
    if kind == "sylvester":
        return order & (order - 1) == 0
    if kind == "paley-1":
        return order % 4 == 0 and _is_prime(order - 1)
    if kind == "paley-2":
        return order % 4 == 0 and (order // 2) % 4 == 2 and _is_prime(order // 2 - 1)
    return kind == "dct"


def matrix(kind: str, order: int) -> NDArray[np.float32]:
    """[order, order]; `exists(kind, order)` must hold."""
    if kind == "sylvester":
        return _sylvester(order)
    if kind == "paley-1":
        return _paley_1(order)
    if kind == "paley-2":
        return _paley_2(order)
    return _dct(order)


def _sylvester(order: int) -> NDArray[np.float32]:
    """Entry (i, j) is -1 to the number of bits that i and j share."""
    result = np.ones((1, 1), dtype=np.float32)
    while len(result) < order:
        result = np.block([[result, result], [result, -result]])
    return result


def _paley_1(order: int) -> NDArray[np.float32]:
    """I + S with S = [[0, 1'], [-1, Q]], which is skew for a prime order - 1 = 3 mod 4."""
    result = np.ones((order, order), dtype=np.float32)
    result[1:, 0] = -1
    result[1:, 1:] = _jacobsthal(order - 1)
    np.fill_diagonal(result, 1)
    return result


def _paley_2(order: int) -> NDArray[np.float32]:
    """S (x) [[1, 1], [1, -1]] + I (x) [[1, -1], [-1, -1]] with S = [[0, 1'], [1, Q]] symmetric."""
    half = order // 2
    conference = np.ones((half, half), dtype=np.float32)
    conference[1:, 1:] = _jacobsthal(half - 1)
    conference[0, 0] = 0
    off = np.array([[1, 1], [1, -1]], dtype=np.float32)
    on = np.array([[1, -1], [-1, -1]], dtype=np.float32)
    both: NDArray[np.float32] = np.kron(conference, off) + np.kron(
        np.eye(half, dtype=off.dtype), on
    )
    return both


def _dct(order: int) -> NDArray[np.float32]:
    """DCT-II, orthonormal: row k, column i is c_k cos(pi (2i + 1) k / 2n), rounded to float32."""
    k, i = np.arange(order)[:, None], np.arange(order)[None]
    result = np.sqrt(2 / order) * np.cos(np.pi * ((2 * i + 1) * k % (4 * order)) / (2 * order))
    result[0] = np.sqrt(1 / order)
    rounded: NDArray[np.float32] = result.astype(np.float32)
    return rounded


def _jacobsthal(prime: int) -> NDArray[np.float32]:
    """Entry (i, j) is the quadratic character of i - j: 0, 1 for a square, else -1."""
    character = np.full(prime, -1, dtype=np.float32)
    character[np.arange(prime) ** 2 % prime] = 1
    character[0] = 0
    values: NDArray[np.float32] = character[np.arange(prime)[:, None] - np.arange(prime)[None]]
    return values


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
