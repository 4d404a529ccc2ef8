"""`halfbyte plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from halfbyte.cli.options import Ckpt, Json, NumTokens, Threads
from halfbyte.cli.output import conversion_progress, note, print_json
from halfbyte.runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from halfbyte.evaluate.plan import Option, PlanReport
    from halfbyte.planner.cost_table import CostTable


def plan(
    ckpt: Ckpt,
    cascade: Annotated[
        str,
        typer.Option(
            "--cascade",
            "-c",
            help="'auto', 'auto > LEVEL' for another target, 'auto | model:PATH@LEVEL' offers one.",
        ),
    ] = "auto",
    alpha: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Assume this agreement of every draft level.  [default: measure it]"),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens per prompt to see the agreement on.")] = 96,
    remeasure: Annotated[
        bool, typer.Option("--remeasure", help="Time the forwards again, cached or not.")
    ] = False,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw it too: a .png, .svg or .pdf file (extra [eval])."),
    ] = None,
    num_tokens: NumTokens = RuntimeOptions.num_tokens,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Show what the planner knows and does: the cost table, and every candidate with the reason.

    Speed-ups are those of SpecMQuant's cost model (arXiv 2505.22179, equation 1) on times measured
    here and acceptance measured on a few built-in prompts; docs/planner.md.
    """
    from halfbyte.api.candidates import cost_table, offers_of, planner_for
    from halfbyte.api.llm import LLM
    from halfbyte.evaluate.plan import (
        CONTEXTS,
        assume_acceptance,
        measure_acceptance,
        plan_report,
    )
    from halfbyte.evaluate.plan_plot import check_plot
    from halfbyte.evaluate.plan_plot import plot as draw

    _check(cascade, alpha, tokens)
    if plot is not None:
        check_plot(plot)
    with conversion_progress() as progress:
        llm = LLM(ckpt, cascade, threads, num_tokens=num_tokens, progress=progress)
    target, runtime = llm.cascade.target, llm.model.runtime
    table = cost_table(runtime, llm.model.pool, target, measure_again=remeasure)
    offers = offers_of(llm.model, llm.cascade)
    planner = planner_for(runtime, llm.proposers, target, table, offers)
    if alpha is None:
        measure_acceptance(llm, planner, tokens, note)
    else:
        assume_acceptance(planner, alpha)
    most = runtime.config.max_context
    contexts = [c for c in CONTEXTS if c <= most] or [most]
    report = plan_report(ckpt, table, planner, contexts=contexts)
    if plot is not None:
        draw(report, plot)
    if json:
        print_json(report.as_dict())
        return
    for line in table_lines(report):
        print(line)


def table_lines(report: PlanReport) -> list[str]:
    """A report as text."""
    near = report.contexts[0]
    lines = _cost_lines(report.table, report.contexts)
    lines += ["", f"candidates for one sequence at {near} tokens of context"]
    lines += [
        "drafting, verify and host (Python's time) in plain steps;",
        "speed-up = tau / (drafting + verify + host)",
        "",
    ]
    lines.append(
        f"{'cascade':<26} {'':<12} {'length':>6} {'tau':>5} {'drafting':>8} {'verify':>6} "
        f"{'host':>5} {'speed-up':>8} {'tokens/s':>8}  why"
    )
    lines += [_line(c) for c in report.candidates if (c.batch, c.context) == (1, near)]
    lines += ["", "what is chosen where no n-gram matches", ""]
    lines.append(f"{'batch':>5}  " + "  ".join(f"{f'{c} tokens':<32}" for c in report.contexts))
    for batch in dict.fromkeys(c.batch for c in report.candidates):
        cells = []
        for context in report.contexts:
            found = report.choice(batch, context)
            length = f" @{found.draft_length:.2g}" if found.draft_length else ""
            cells.append(f"{found.cascade + length:<18} {found.speedup:>5.2f}x {'':<6}")
        lines.append(f"{batch:>5}  " + "  ".join(f"{cell:<32}" for cell in cells).rstrip())
    return lines


def _cost_lines(table: CostTable, contexts: list[int]) -> list[str]:
    lines = [f"ms of a forward of M rows at {contexts[0]} tokens of context", ""]
    lines.append(f"{'level':<8}" + "".join(f"{m:>8}" for m in table.rows) + "   drafted token")
    for level, curve in table.linear.items():
        pairs = zip(curve, table.attention, strict=True)
        cells = "".join(f"{(t + a * contexts[0]) * 1e3:>8.2f}" for t, a in pairs)
        draft = table.drafts.get(level)
        told = f"   {draft[0] * 1e3:.2f}, then {draft[1] * 1e3:.2f}" if draft else ""
        lines.append(f"{level:<8}{cells}{told}")
    for context in contexts[1:]:
        more = "".join(f"{a * (context - contexts[0]) * 1e3:>8.2f}" for a in table.attention)
        lines.append(f"{f'+{context}':<8}{more}   more at {context} tokens, any level")
    return lines


def _line(c: Option) -> str:
    mark = "*" if c.is_choice else " "
    length = f"{c.draft_length:.2g}" if c.draft_length else "-"
    if c.depth:  # nodes, on so many levels
        length += f"/{c.depth}"
    return (
        f"{c.cascade:<26} {c.evidence:<12} {length:>6} {c.tau:>5.2f} {c.draft_ratio:>8.2f} "
        f"{c.verify_ratio:>6.2f} {c.host_ratio:>5.2f} {c.speedup:>7.2f}x "
        f"{c.tokens_per_second:>8.1f} {mark} {c.reason}"
    )


def _check(cascade: str, alpha: float | None, tokens: int) -> None:
    from halfbyte.cascade.cascade import Cascade
    from halfbyte.errors import ArgumentError

    if not Cascade.parse(cascade).is_auto:
        fix = "an explicit cascade is not planned; `halfbyte bench` measures it"
        raise ArgumentError(
            "--cascade",
            got=repr(cascade),
            expected="auto, auto > LEVEL, auto | OFFER > LEVEL",
            fix=fix,
        )
    if alpha is not None and not 0.0 <= alpha <= 1.0:
        raise ArgumentError("--alpha", got=alpha, expected="0 to 1", fix="0.9 is usual")
    if not 1 <= tokens <= 4096:
        raise ArgumentError("--tokens", got=tokens, expected="1 to 4096", fix="96 is enough")
