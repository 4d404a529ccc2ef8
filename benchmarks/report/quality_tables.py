"""Rows of `benchmarks.quality` as tables: nested schemes, and 4-bit formats of the same model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure.rows import Row
from benchmarks.quality.teacher_forced import mean, mean_difference

BASELINE = "rtn-plain"  # what nested drafts begin with


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
    for row in rows:
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


def _nested_table(found: dict[Scored, Found]) -> str:
    """The draft's agreement with its target, and what the target lost."""
    if not found:
        return ""
    text = [
        "Two planes: the draft level `w4a8` held to its target `w8a16`, and both to the source",
        "",
        *_head(
            [
                "model",
                "text",
                "format",
                "scheme",
                "MB",
                "tokens",
                "α of `w4a8`",
                f"over `{BASELINE}`, points",
                "KL of `w4a8`",
                "perplexity of `w8a16`",
                "over the source",
                "KL of `w8a16`",
            ]
        ),
    ]
    for scored, own in found.items():
        draft, target = own["w4a8", "agreement"], own["w8a16", "nll"]
        plain = found.get(Scored(scored.model, scored.text, _halves(scored.format), BASELINE))
        text.append(
            _line(
                [
                    scored.model,
                    scored.text,
                    scored.format,
                    f"`{scored.scheme}`",
                    f"{draft.bytes / 1e6:.0f}",
                    str(_details(draft)["tokens"]),
                    _share(draft),
                    "" if plain is None or plain is own else _points(draft, plain),
                    f"{_mean(own['w4a8', 'kl']):.3f}",
                    f"{math.exp(_mean(target)):.3f}",
                    _excess(own["w8a16", "excess_nll"]),
                    f"{_mean(own['w8a16', 'kl']):.5f}",
                ]
            )
        )
    return "\n".join(text)


def _single_table(found: dict[Scored, Found]) -> str:
    """What stands for the weights with 4 bits or so, ours and other programs'."""
    if not found:
        return ""
    text = [
        "One plane, and files of another program: the target held to the source",
        "",
        *_head(
            [
                "model",
                "text",
                "format",
                "scheme",
                "bits a weight",
                "tokens",
                "perplexity",
                "over the source",
                "KL",
            ]
        ),
    ]
    for scored, own in found.items():
        level = "w4a16" if ("w4a16", "nll") in own else "f32"
        row = own[level, "nll"]
        details = _details(row)
        text.append(
            _line(
                [
                    scored.model,
                    scored.text,
                    scored.format,
                    f"`{scored.scheme}`",
                    f"{8 * row.bytes / details['weights']:.2f}",
                    str(details["tokens"]),
                    f"{math.exp(_mean(row)):.3f}",
                    _excess(own[level, "excess_nll"]),
                    f"{_mean(own[level, 'kl']):.4f}",
                ]
            )
        )
    return "\n".join(text)


def _four_bit_table(found: dict[Scored, Found]) -> str:
    """QSpec's pair: how often 4-bit activations choose the token that 16-bit ones do."""
    lines = [
        _line(
            [
                scored.model,
                scored.text,
                scored.format,
                f"`{scored.scheme}`",
                str(_details(own["w4a4", "agreement"])["tokens"]),
                _share(own["w4a4", "agreement"]),
                *(
                    _excess(own[level, "excess_nll"]) if (level, "excess_nll") in own else ""
                    for level in ("w4a4", "w4a16")
                ),
            ]
        )
        for scored, own in found.items()
        if ("w4a4", "agreement") in own
    ]
    if not lines:
        return ""
    head = ["model", "text", "format", "scheme", "tokens", "agreement"]
    head += ["perplexity of `w4a4` over the source", "of `w4a16`"]
    title = "Four-bit activations: `w4a4` held to `w4a16` of the same weights"
    return "\n".join([title, "", *_head(head), *lines])


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


def _halves(kind: str) -> str:
    """The same format with f16 scales, which are not named."""
    return ", ".join(kind.split(", ")[:2])


def _details(row: Row) -> dict[str, Any]:
    return row.details or {}


def _mean(row: Row) -> float:
    return float(_details(row)["mean"])


def _share(row: Row) -> str:
    value, error = mean(_details(row)["sequences"])
    return f"{value:.3f} ± {error:.3f}"


def _points(row: Row, plain: Found) -> str:
    ours, theirs = (_details(r)["sequences"] for r in (row, plain[row.cascade, row.metric]))
    if len(ours) != len(theirs):
        return ""
    value, error = mean_difference(ours, theirs)
    return f"{100 * value:+.1f} ± {100 * error:.1f}"


def _excess(row: Row) -> str:
    """By how much perplexity exceeds the source's."""
    value, error = mean(_details(row)["sequences"])
    digits = 1 if abs(value) > 0.03 else 2
    return f"{100 * math.expm1(value):+.{digits}f}% ± {100 * error:.{digits}f}"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line("---" for _ in names)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
