"""The native core (csrc/binding/). Used through `halfbyte.runtime.native*` only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halfbyte.runtime.native_shape import CoreShape
from halfbyte.runtime.protocol import Adjustments, Batch, DraftRun

_I32 = NDArray[np.int32]
_F32 = NDArray[np.float32]
_Records = NDArray[np.uint8]  # of halfbyte.runtime.protocol.SAMPLING_ROW
_LevelBits = tuple[int, int, int]  # weights, activations, head
_Scales = NDArray[np.uint16] | NDArray[np.int8]  # bits of f16; int8 with a unit
_Offsets = _F32 | NDArray[np.int8] | None
_Part = tuple[NDArray[np.uint8], NDArray[np.uint8] | None, _Scales, _Offsets, _F32 | None]

def tiers() -> list[str]: ...
def physical_cores() -> int: ...
def read_bandwidth(threads: int, bytes: int) -> float: ...
def linear_rate(threads: int, tier: str) -> float: ...
def round_group(
    weights: _F32,
    goals: _F32,
    feed: _F32,
    costs: _F32,
    scales: _F32,
    offsets: _F32,
    lo_weight: float,
) -> tuple[NDArray[np.int16], _F32, _F32, _F32]: ...
def match_lengths(indices: list[SuffixIndex], texts: list[list[int]]) -> list[int]:
    """`follow` of every index with its text, in one call: how long each match is."""

class SuffixIndex:
    """See `halfbyte.runtime.suffixes`, its slow twin. -1 is `BREAK`."""

    def __init__(self, depth: int) -> None: ...
    def extend(self, tokens: list[int]) -> None: ...
    def follow(self, text: list[int]) -> tuple[int, int]:
        """Add what a text has grown by since; length and end of the match of its own end."""

    def find(self, context: list[int]) -> tuple[int, int]: ...
    def slice(self, begin: int, end: int) -> list[int]:
        """Tokens begin .. end - 1 of the text, or fewer where it ends."""

    def __len__(self) -> int:
        """Tokens."""

    @property
    def nodes(self) -> int: ...

class NativeModel:
    def __init__(self, shape: CoreShape, tier: str, threads: int, max_rows: int) -> None: ...
    def set_planes(
        self, slot: str, layer: int, parts: list[_Part], group: int, wide: int
    ) -> None: ...
    def set_rotation(
        self, slot: str, layer: int, matrix: _F32, block: int, stride: int, scale: float
    ) -> None: ...
    def set_gather(self, slot: str, layer: int, indices: _I32) -> None: ...
    def set_dense(
        self,
        slot: str,
        layer: int,
        parts: Sequence[_F32] | Sequence[NDArray[np.uint16]],
        dtype: str,
    ) -> None: ...
    def set_vector(self, slot: str, layer: int, values: _F32) -> None: ...
    def allocate_kv(self, pages: int, page_size: int, dtype: str) -> None: ...
    def forward(self, batch: Batch, level: _LevelBits, logit_rows: _I32) -> _F32: ...
    def forward_sample(
        self,
        batch: Batch,
        level: _LevelBits,
        logit_rows: _I32,
        sampling: _Records,
        adjustments: Adjustments | None,
    ) -> tuple[_I32, _F32, _I32, _F32]: ...
    def draft(
        self,
        roots: Batch,
        run: DraftRun,
        level: _LevelBits,
        sampling: _Records,
        adjustments: Adjustments | None,
    ) -> tuple[_I32, _I32]: ...
    def decode(
        self, roots: Batch, level: _LevelBits, length: int, sampling: _Records
    ) -> tuple[_I32, _F32]: ...
    def draft_and_verify(
        self,
        roots: Batch,
        run: DraftRun,
        level: _LevelBits,
        target: _LevelBits,
        sampling: _Records,
    ) -> tuple[list[list[int]], list[list[float]], list[int], int, float]: ...
    def interrupt(self, wanted: bool) -> None: ...
    def copy_kv(self, pages: _I32, sources: _I32, targets: _I32) -> None: ...
    def capture_layer(
        self,
        layer: int,
        x: _F32,
        row_starts: _I32,
        first_positions: _I32,
        page_tables: _I32,
        weight_bits: int,
        act_bits: int,
    ) -> tuple[_F32, _F32, _F32, _F32, _F32]: ...
    def share(self, other: NativeModel, with_head: bool) -> None: ...
    def keep_features(self, taps: list[int]) -> None: ...
    def read_features(self, pages: _I32, positions: _I32) -> _F32: ...
    def forward_best(
        self, batch: Batch, level: _LevelBits, logit_rows: _I32, features: _F32, k: int
    ) -> tuple[_I32, _F32, _F32]: ...
    def read_kv(self, layer: int, page: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...
    def reduce_head(self, ids: _I32) -> int: ...
    def bytes_read(self, level: _LevelBits, head: int = 0) -> int: ...
    def memory_bytes(self) -> int: ...
    @property
    def has_lo(self) -> bool: ...
    @property
    def dense(self) -> bool: ...
