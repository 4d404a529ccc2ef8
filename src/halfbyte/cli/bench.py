"""`halfbyte bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli.options import Ckpt, Json, LlmOptions, with_options
from halfbyte.cli.output import gigabytes, note, print_json

if TYPE_CHECKING:
    from halfbyte.evaluate.bench import BenchRow


@with_options(without=("max_batch", "prefill_rows"))
def bench(
    ckpt: Ckpt,
    *,
    cascade: Annotated[
        list[str],
        typer.Option(
            "--cascade",
            "-c",
            help="'auto', 'w8a16' (plain), 'w4a8 > w8a16' …; may be given several times.",
        ),
    ],
    llm_options: LlmOptions,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Tokens per prompt.")] = 128,
    rounds: Annotated[int, typer.Option(help="Timed rounds, interleaved.")] = 5,
    json: Json = False,
) -> None:
    """Measure decoding speed of cascades over prompts of code, maths and chat, one by one.

    Every row is also held against plain decoding at its own target: speed-up, and whether tokens
    and logprobs are identical.
    """
    from halfbyte.cascade.cascade import Cascade
    from halfbyte.evaluate.bench import bench as measure

    cascades = [Cascade.parse(text) for text in cascade]
    llm = llm_options.open(ckpt, cascades[0])
    bandwidth, used = _bandwidth(llm_options.runtime.threads)
    rows = measure(
        llm,
        cascades,
        max_tokens=max_tokens,
        rounds=rounds,
        bandwidth_gbs=bandwidth,
        report=note,
    )
    if json:
        print_json(
            {
                "model": ckpt,
                "threads": used,
                "read_gbs": bandwidth,
                "draft_length": llm_options.engine.draft_length,
                "max_tokens": max_tokens,
                "rounds": rounds,
                "rows": [row.as_dict() for row in rows],
            }
        )
        return
    for line in table(rows):
        print(line)


def table(rows: list[BenchRow]) -> list[str]:
    """Rows for people."""
    width = max(len("cascade"), *(len(row.cascade) for row in rows))
    lines = [
        f"{'cascade':<{width}}  {'tokens/s (p20-p80)':>22}  {'speed-up':>8}  {'tau':>5}  "
        f"{'weights/token':>13}  {'of bandwidth':>12}  identical  alpha by draft position"
    ]
    for row in rows:
        speed = row.tokens_per_second
        rate = f"{speed.median:.1f} ({speed.p20:.0f}-{speed.p80:.0f})"
        share = "-" if row.share_of_bandwidth is None else f"{row.share_of_bandwidth:.0%}"
        lines.append(
            f"{row.cascade:<{width}}  {rate:>22}  {row.speedup:>7.2f}x  {row.tau:>5.2f}  "
            f"{gigabytes(row.bytes_per_token):>13}  {share:>12}  "
            f"{'yes' if row.identical else 'NO':<9}  {' '.join(f'{a:.2f}' for a in row.alpha)}"
        )
    return lines


def _bandwidth(threads: int | None) -> tuple[float, int]:
    """GB/s that this many pinned threads read here, and how many they are."""
    from halfbyte.runtime.machine import choose_threads, measure_bandwidth

    count = choose_threads(threads)
    return measure_bandwidth(count), count
