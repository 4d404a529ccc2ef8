"""Rows of `benchmarks.quality` as tables: nested schemes, and 4-bit formats of the same model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure.rows import Row
from benchmarks.quality.teacher_forced import mean, mean_difference
from benchmarks.report.markdown import NO_DIFFERENCE, table
from benchmarks.report.selection import model_order

BASELINE = "rtn"  # what `halfbyte convert` does
DEFAULT_FORMAT = "8 planes, group 32, int8+offset"


@dataclass(frozen=True, slots=True)
class Scored:
    """One checkpoint or file over one text."""

    model: str
    text: str
    format: str
    scheme: str


Found = dict[tuple[str, str], Row]  # level, metric -> row


def report(rows: Sequence[Row]) -> str:
    """Three tables; one without rows is left out."""
    found: dict[Scored, Found] = {}
    for row in sorted(rows, key=_order):
        details = _details(row)
        scored = Scored(row.model, details["text"], row.format, details["scheme"])
        found.setdefault(scored, {})[row.cascade, row.metric] = row
    nested = {
        scored: own
        for scored, own in found.items()
        if scored.format.startswith("8 planes") and ("w4a8", "kl") in own
    }
    single = {
        scored: own
        for scored, own in found.items()
        if scored not in nested and own.keys() & {("w4a16", "nll"), ("f32", "nll")}
    }
    parts = [
        _nested_table(nested),
        _single_table(single),
        _four_bit_table(found),
        _origin(rows),
    ]
    return "\n\n".join(part for part in parts if part)


def _order(row: Row) -> tuple[tuple[int, str], str, str, str]:
    """By model, text, scheme and format."""
    details = _details(row)
    return model_order(row.model), details["text"], details["scheme"], row.format


def _nested_table(found: dict[Scored, Found]) -> str:
    """The draft's agreement with its target, and what the target lost."""
    if not found:
        return ""
    head = ["model", "text", "scheme", "format", "MB", "tokens", "α of `w4a8`"]
    head += [f"over `{BASELINE}`, points", "KL of `w4a8`", "KL of `w8a16`"]
    head += ["perplexity of `w8a16`", "over the source"]
    lines = []
    for scored, own in found.items():
        draft, target = own["w4a8", "agreement"], own["w8a16", "nll"]
        plain = _baseline(found, scored)
        lines.append(
            [
                scored.model,
                scored.text,
                f"`{scored.scheme}`",
                scored.format,
                f"{draft.bytes / 1e6:.0f}",
                str(_details(draft)["tokens"]),
                _share(draft),
                "" if plain is None or plain is own else _points(draft, plain),
                f"{_mean(own['w4a8', 'kl']):.3f}",
                f"{_mean(own['w8a16', 'kl']):.5f}",
                f"{math.exp(_mean(target)):.3f}",
                _excess(own["w8a16", "excess_nll"]),
            ]
        )
    title = "Two planes: the draft level `w4a8` held to its target `w8a16`, both to the source"
    return f"{title}\n\n{table(head, lines)}"


def _baseline(found: dict[Scored, Found], scored: Scored) -> Found | None:
    """The same model by `BASELINE`: in the default format, or else with f16 scales."""
    for form in (DEFAULT_FORMAT, ", ".join(scored.format.split(", ")[:2])):
        plain = found.get(Scored(scored.model, scored.text, form, BASELINE))
        if plain is not None:
            return plain
    return None


def _single_table(found: dict[Scored, Found]) -> str:
    """What stands for the weights with 4 bits or so, ours and other programs'."""
    if not found:
        return ""
    head = ["model", "text", "scheme", "format", "bits per weight", "tokens"]
    head += ["KL", "perplexity", "over the source"]
    lines = []
    for scored, own in found.items():
        level = "w4a16" if ("w4a16", "nll") in own else "f32"
        row = own[level, "nll"]
        details = _details(row)
        lines.append(
            [
                scored.model,
                scored.text,
                f"`{scored.scheme}`",
                scored.format,
                f"{8 * row.bytes / details['weights']:.2f}",
                str(details["tokens"]),
                f"{_mean(own[level, 'kl']):.4f}",
                f"{math.exp(_mean(row)):.3f}",
                _excess(own[level, "excess_nll"]),
            ]
        )
    title = "One plane, and files of another program: the target held to the source"
    return f"{title}\n\n{table(head, lines)}"


def _four_bit_table(found: dict[Scored, Found]) -> str:
    """QSpec's pair: how often 4-bit activations choose the token that 16-bit ones do."""
    lines = [
        [
            scored.model,
            scored.text,
            f"`{scored.scheme}`",
            scored.format,
            str(_details(own["w4a4", "agreement"])["tokens"]),
            _share(own["w4a4", "agreement"]),
            *(
                _excess(own[level, "excess_nll"]) if (level, "excess_nll") in own else ""
                for level in ("w4a4", "w4a16")
            ),
        ]
        for scored, own in found.items()
        if ("w4a4", "agreement") in own
    ]
    if not lines:
        return ""
    head = ["model", "text", "scheme", "format", "tokens", "agreement"]
    head += ["perplexity of `w4a4` over the source", "of `w4a16`"]
    title = "Four-bit activations: `w4a4` held to `w4a16` of the same weights"
    return f"{title}\n\n{table(head, lines)}"


def _origin(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    sources = dict.fromkeys(
        f"{row.model} is a file of " + ", ".join(f"{kind} x{n}" for kind, n in types.items())
        for row in rows
        if (types := _details(row).get("source_types"))
    )
    commits = ", ".join(dict.fromkeys(row.commit for row in rows))
    tiers = ", ".join(dict.fromkeys(str(row.machine["tier"]) for row in rows))
    return f"Sources: {'; '.join(sources)}. Commits {commits}; tier {tiers}."


def _details(row: Row) -> dict[str, Any]:
    return row.details or {}


def _mean(row: Row) -> float:
    return float(_details(row)["mean"])


def _share(row: Row) -> str:
    value, error = mean(_details(row)["sequences"])
    return f"{value:.3f} ± {error:.3f}"


def _points(row: Row, plain: Found) -> str:
    """A difference of shares; one of less than two standard errors is none."""
    ours, theirs = (_details(r)["sequences"] for r in (row, plain[row.cascade, row.metric]))
    if len(ours) != len(theirs):
        return ""
    value, error = mean_difference(ours, theirs)
    if abs(value) < 2 * error:
        return f"{NO_DIFFERENCE} (± {100 * error:.1f})"
    return f"{100 * value:+.1f} ± {100 * error:.1f}"


def _excess(row: Row) -> str:
    """By how much perplexity exceeds the source's."""
    value, error = mean(_details(row)["sequences"])
    digits = 1 if abs(value) > 0.03 else 2
    return f"{100 * math.expm1(value):+.{digits}f}% ± {100 * error:.{digits}f}"
