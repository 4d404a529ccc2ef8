"""What a runtime is built with."""

from __future__ import annotations

from dataclasses import dataclass

from halfbyte.options import check_options, integer, one_of, option

KV_DTYPES = ("f16", "bf16", "f32")
_LEAVE = "leave it out for the default"


@dataclass(frozen=True)
class RuntimeOptions:
    """`kv_dtype` is part of what the output is; the rest changes the speed only."""

    backend: str = option(
        "native",
        "native, or reference (numpy, slow).",
        one_of("native", "reference", fix="native is the fast one"),
    )
    threads: int | None = option(
        None, "Pinned threads.", None, "--threads", "-t", default_text="one per physical core"
    )
    tier: str | None = option(
        None,
        "Instruction tier: amx, avx512, avx2 or scalar.",
        default_text="the best this processor runs",
    )
    num_tokens: int = option(8192, "Size of the KV pool, in tokens.", integer(1, 1 << 30, _LEAVE))
    page_size: int = option(64, "Tokens per KV page.", integer(1, 4096, _LEAVE))
    kv_dtype: str = option(
        "f16", "Type that KV is stored as: f16, bf16 or f32.", one_of(*KV_DTYPES)
    )
    max_rows: int = option(512, "Most rows of one forward.", integer(1, 8192, _LEAVE))

    def __post_init__(self) -> None:
        check_options(self)
