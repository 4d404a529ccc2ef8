"""Schemes by name: `rtn` …, and their combinations."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from halfbyte.checks import check_number
from halfbyte.errors import ArgumentError
from halfbyte.quantize.atom import BySize, Share, share_by_site
from halfbyte.quantize.folds import Awq, SmoothQuant
from halfbyte.quantize.gptq import Gptq
from halfbyte.quantize.rotations import rotate_model
from halfbyte.quantize.rtn import RoundToNearest
from halfbyte.quantize.scheme import Scheme

SCHEMES: Mapping[str, Callable[[], Scheme]] = MappingProxyType(
    {
        "rtn": lambda: Scheme("rtn", RoundToNearest()),
        "gptq": lambda: Scheme("gptq", Gptq()),
        "gptq-act-order": lambda: Scheme("gptq-act-order", Gptq(act_order=True)),
        "quarot": lambda: Scheme("quarot", Gptq(), rewrite=rotate_model),
        "quarot-rtn": lambda: Scheme("quarot-rtn", RoundToNearest(), rewrite=rotate_model),
        "atom": lambda: Scheme("atom", Gptq(), reorder=BySize()),
        "atom-rtn": lambda: Scheme("atom-rtn", RoundToNearest(), reorder=BySize()),
        "awq": lambda: Scheme("awq", RoundToNearest(), fold=Awq()),
        "smoothquant": lambda: Scheme("smoothquant", RoundToNearest(), fold=SmoothQuant()),
        "awq-gptq": lambda: Scheme("awq-gptq", Gptq(), fold=Awq()),
    }
)


def with_wide_inputs(scheme: Scheme, share: Share) -> Scheme:
    """The scheme with the largest `share` of every row's inputs at 8 bits (quantize/atom.py).

    Raises ArgumentError where inputs cannot be sorted.
    """
    for each in share_by_site(share).values():
        check_number("wide", each, 0, 1, "choose a share", open_low=True)
    if scheme.rewrite is not None or (
        isinstance(scheme.rounder, Gptq) and scheme.rounder.act_order
    ):
        raise ArgumentError(
            "wide",
            got=f"scheme {scheme.name}, which has an order of inputs of its own",
            expected="a scheme whose inputs can be sorted",
            fix="use --scheme gptq, or leave --wide out",
        )
    return replace(scheme, reorder=BySize(share))


def scheme_named(name: str) -> Scheme:
    """Raises ArgumentError that names the nearest known scheme."""
    if name in SCHEMES:
        return SCHEMES[name]()
    near = difflib.get_close_matches(name, SCHEMES, n=1)
    raise ArgumentError(
        "scheme",
        got=repr(name),
        expected=", ".join(SCHEMES),
        fix=f"did you mean {near[0]!r}?" if near else "choose one of those",
    )
