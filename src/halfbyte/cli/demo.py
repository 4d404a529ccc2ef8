"""`halfbyte demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli.options import LlmOptions, with_options
from halfbyte.cli.output import gigabytes, note

if TYPE_CHECKING:
    from rich.console import Console

    from halfbyte.api.llm import LLM
    from halfbyte.evaluate.bench import BenchRow

CASCADES = ("w8a16", "w4a16", "w4a4 > w4a16", "w4a8 > w4a16", "w4a8 > w8a16")
SHOWN = "w4a8 > w8a16"
SHOWN_POSITIONS = 4  # of α: as many as 80 columns have room for
# Colours of a token by its fate; a plain or recovered token is the target's own work.
COLOURS = {"accepted": "green", "bonus": "cyan", "recovered": "yellow", "plain": "default"}


@with_options(without=("max_batch", "prefill_rows"))
def demo(
    ckpt: Annotated[
        str, typer.Argument(metavar="[CKPT]", help="The model to show.", show_default=True)
    ] = "smollm2-135m",
    *,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Tokens per prompt.")] = 128,
    rounds: Annotated[int, typer.Option(help="Timed rounds, interleaved.")] = 3,
    llm_options: LlmOptions,
) -> None:
    """Show what the nested pair does: coloured text first, then a table of every cascade.

    Fetches SmolLM2-135M-Instruct on first use, works offline afterwards.
    """
    from rich.console import Console

    from halfbyte.cascade.cascade import Cascade
    from halfbyte.evaluate.bench import bench, check_rounds

    check_rounds(rounds)
    console = Console(highlight=False)
    llm = llm_options.open(ckpt, SHOWN)
    _show_text(console, llm, max_tokens)
    note("timing every cascade in interleaved rounds")
    cascades = [Cascade.parse(text) for text in CASCADES]
    rows = bench(llm, cascades, max_tokens=max_tokens, rounds=rounds, report=note)
    _show_table(console, rows)
    _show_notes(console, llm, rows[0].weight_bytes)
    if not all(row.identical for row in rows):
        raise typer.Exit(1)


def _show_text(console: Console, llm: LLM, max_tokens: int) -> None:
    """Stream every prompt's answer, each token in the colour of its fate."""
    from rich.text import Text

    from halfbyte.evaluate.prompts import PROMPTS
    from halfbyte.sampling.params import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    legend = Text("a token is ")
    for fate, meaning in (
        ("accepted", "drafted and accepted"),
        ("recovered", "the target's, where the draft was wrong"),
        ("bonus", "the target's, after a whole draft was right"),
    ):
        legend.append(f"{meaning}  ", style=COLOURS[fate])
    console.print(legend)
    for prompt in PROMPTS:
        console.rule(f"{prompt.kind}: {llm.cascade}", align="left")
        console.print(Text(prompt.text, style="bold"))
        for chunk in llm.stream([{"role": "user", "content": prompt.text}], params):
            for piece, fate in zip(chunk.pieces, chunk.fates, strict=True):
                console.print(Text(piece, style=COLOURS[fate]), end="", soft_wrap=True)
        console.print()


def _show_table(console: Console, rows: list[BenchRow]) -> None:
    """At most 80 columns wide, one line per heading; `halfbyte bench` shows spreads, too."""
    from rich.table import Table

    table = Table(title="decoding, one prompt at a time", box=None, padding=(0, 2, 0, 0))
    table.add_column("cascade", no_wrap=True)
    for name in ("tokens/s", "speed-up", "τ"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("α by position", no_wrap=True)
    for name in ("MB/token", "identical"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.cascade,
            f"{row.tokens_per_second.median:.1f}",
            f"{row.speedup:.2f}x",
            f"{row.tau:.2f}",
            _by_position(row.alpha),
            f"{row.bytes_per_token / 1e6:.1f}",
            "yes" if row.identical else "NO",
        )
    console.print(table)


def _by_position(alpha: list[float]) -> str:
    """`.83 .80 .79 .75 …`"""
    shown = [f"{a:.2f}".removeprefix("0") for a in alpha[:SHOWN_POSITIONS]]
    if len(alpha) > len(shown):
        shown.append("…")
    return " ".join(shown) or "-"


def _show_notes(console: Console, llm: LLM, weight_bytes: int) -> None:
    """What the numbers mean and what they do not."""
    console.print(
        "tokens/s: median over the rounds, after prefill. τ: tokens per forward of the target. α:"
        " agreement with the target by draft position. MB/token: weights read per token. Speed-up"
        " and identical output (tokens and logprobs) are relative to plain decoding at the row's"
        " own target. w4a4 > w4a16 is QSpec's pair: draft and target read the same bytes, so it"
        " cannot win where both run at the memory's speed. All rows share one copy of the weights,"
        f" {gigabytes(weight_bytes)}."
    )
    remark = getattr(llm.model.source, "source", {}).get("note")
    if remark:
        console.print(str(remark))
