"""docs/results.md: a section per question, a table per model; and the table of the README."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.measure.rows import RESULTS, Row, machine_name, read
from benchmarks.report import planner_tables, serving_tables, speed_tables
from benchmarks.report.markdown import table
from benchmarks.report.planner_tables import Comparison, comparisons
from benchmarks.report.selection import OURS, bits, last_machine, machines, model_name, models

EIGHT_BIT_PEER = ("llama.cpp", "Q8_0")
FRONT_KINDS = {"chat": "chat", "code": "code", "copy": "text that is repeated"}


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what it says before its tables, and which rows make a table of one model."""

    title: str
    text: str
    belongs: Callable[[Row], bool]
    make: Callable[[Sequence[Row]], str]
    every_machine: bool = False  # or that measured last


SECTIONS = (
    Section(
        "Plain decoding and prefill",
        "Every engine decodes 128 tokens after a prompt of 16, or 64 after 4,096, and reads a"
        " prompt of 512 tokens. Each number is the median of several processes, with the 20th to"
        " 80th percentile. Bold: ahead of every other engine with weights of as many bits, beyond"
        " the spread.",
        lambda row: row.unit == "tok/s" and " @ " in row.metric,
        speed_tables.plain_table,
        every_machine=True,
    ),
    Section(
        "The cost of a forward",
        "T(M): milliseconds of one forward over M rows, and in brackets against one row. A"
        " verification of three drafted tokens is a forward of four rows. llama.cpp computes the"
        " logits of one row, halfbyte of all.\n\n![Milliseconds of a forward by its rows]"
        "(plots/forward.svg)",
        lambda row: row.unit == "ms" and row.metric.split()[0] in ("forward", "draft"),
        speed_tables.cost_table,
    ),
    Section(
        "`auto`",
        "The planner beside plain decoding at the same target (`w8a16`) and the fastest of several"
        " fixed cascades, by kind of work and batch. All variants decode the same prompts in turns,"
        " so ratios are medians of paired measurements with their 90% confidence interval (of fewer"
        " than five pairs: the lowest and highest); ≈ where the interval contains 1. *Identical*:"
        " every token and every logprob is that of plain decoding.",
        lambda row: row.metric.startswith("workload"),
        planner_tables.planner_table,
    ),
    Section(
        "`auto` with a second model or a head",
        "The same, where `auto` may use a smaller model (`auto | model:PATH@LEVEL`) or a draft head"
        " (`auto | eagle:PATH`).",
        lambda row: row.metric.startswith("offered"),
        planner_tables.planner_table,
    ),
    Section(
        "Cascades against plain decoding",
        "Single streams. *Predicted*: the gain that separately timed forwards predict from the"
        " run's own acceptance. Rows with a second model or a head include the time it needs to"
        " read the prompt; the prediction does not.",
        lambda row: row.metric.startswith("cascade"),
        speed_tables.cascade_table,
    ),
    Section(
        "Servers",
        "Tokens per second of all streams together, and the median time to the first token."
        " Prompts and answers of 128 tokens; no prompt shares its beginning with another.\n\n"
        "![Tokens per second of a server by its streams](plots/streams.svg)",
        lambda row: row.metric.startswith((serving_tables.STREAMS, serving_tables.FIRST)),
        serving_tables.serving_table,
    ),
    Section(
        "Offline batches",
        "All prompts given at once: tokens per second, reading the prompts included.",
        lambda row: row.metric.startswith("offline batch"),
        speed_tables.batches_table,
    ),
    Section(
        "Start-up and memory",
        "From the command to the first token, for a model that is converted already.",
        lambda row: row.metric in speed_tables.PROCESS,
        speed_tables.process_table,
    ),
    Section(
        "Share of the memory's bandwidth",
        "One-row linear layers as wide as those of an 8B model, larger than the caches, beside"
        " plain reading in the same process.",
        lambda row: row.metric.startswith("linear"),
        speed_tables.linear_table,
    ),
)
QUALITY = """## Quality

![Divergence from the source by bits per weight](plots/bits.svg)

KL divergence from the source model over Wikipedia text, by bits per weight of the whole file. The
tables are in [quantize.md](quantize.md), those of tasks in [fidelity.md](fidelity.md)."""


def all_rows() -> list[Row]:
    """Of every benchmark of speed."""
    return read(sorted(RESULTS.glob("*.jsonl")))


def report(rows: Sequence[Row]) -> str:
    """Sections with rows, then where the numbers come from."""
    parts, shown = [], []
    for section in SECTIONS:
        belonging = [row for row in rows if section.belongs(row)]
        tables = []
        for model in models(belonging):
            own = [row for row in belonging if row.model == model]
            for machine in machines(own) if section.every_machine else machines(own)[:1]:
                chosen = [row for row in own if machine_name(row) == machine]
                shown += chosen
                tables.append(_titled(model, machine, chosen, section.make(chosen), rows))
        if tables:
            parts += [f"## {section.title}\n\n{section.text}", *tables]
    return "\n\n".join([*parts, QUALITY, "## Where the numbers come from", origin(shown)])


def front_table(rows: Sequence[Row]) -> str:
    """Six lines: peers and ours, plain and `auto`, at 4 and 8 bits; a column per model."""
    found: dict[str, dict[str, str]] = {}
    for model in models(rows):
        own = last_machine([row for row in rows if row.model == model])
        runs = {
            each.kind: each
            for each in comparisons([row for row in own if row.metric.startswith("workload")])
            if each.batch == 1
        }
        if runs:
            found[model] = _front_column(runs, own)
    lines = list(dict.fromkeys(line for column in found.values() for line in column))
    return table(
        ["tokens/s, one stream", "output", *(model_name(model) for model in found)],
        [
            [*line.split("|"), *(column.get(line, "") for column in found.values())]
            for line in lines
        ],
    )


def _front_column(runs: dict[str, Comparison], rows: Sequence[Row]) -> dict[str, str]:
    """Line ("name|bits") -> tokens per second of one model.

    A peer at eight bits that did not run beside `auto` is the one of `compare`, and marked.
    """
    one = next(iter(runs.values()))
    column = {
        f"{peer.engine} {peer.format}|{bits(peer)} bits": f"{peer.spread.median:.3g}"
        for peer in one.peers
    }
    other = [row for row in rows if (row.engine, row.format) == EIGHT_BIT_PEER]
    other = [
        row for row in other if row.metric.startswith("decode") and row.metric.endswith("@ 16")
    ]
    if other and all(bits(peer) < 8 for peer in one.peers):
        engine, format = EIGHT_BIT_PEER
        column[f"{engine} {format}, another run|8 bits"] = f"{other[-1].spread.median:.3g}"
    column["halfbyte, plain|8 bits"] = f"{one.plain.spread.median:.3g}"
    for kind, said in FRONT_KINDS.items():
        if kind in runs:
            told = runs[kind].auto.details or {}
            gain = f" ({told['speedup']:.2f}x)"
            name = f"halfbyte, `auto`: {said}|8 bits, the same"
            column[name] = f"**{runs[kind].auto.spread.median:.3g}**{gain}"
    return column


def origin(rows: Sequence[Row]) -> str:
    """One sentence per machine."""
    told = []
    for name in machines(rows):
        own = [row for row in rows if machine_name(row) == name]
        machine = own[-1].machine
        versions = dict.fromkeys(f"{r.engine} {r.version}" for r in own if r.engine != OURS)
        told.append(
            f"{machine['cpu']} (family/model {machine['family_model']}), {machine['threads']}"
            f" threads on {machine['cores']} cores, {', '.join(machine['flags'])};"
            f" {min(r.machine['read_gbs'] for r in own):.0f} to"
            f" {max(r.machine['read_gbs'] for r in own):.0f} GB/s measured at the start of runs."
            f" Commits {', '.join(sorted({row.commit for row in own}))};"
            f" {min(row.date for row in own)[:10]} to {max(row.date for row in own)[:10]}."
            f" Peers: {', '.join(versions) or 'none'}."
        )
    return "\n\n".join(told)


def _titled(model: str, machine: str, rows: Sequence[Row], made: str, every: Sequence[Row]) -> str:
    offers = planner_tables.offers(rows) if rows[0].metric.startswith("offered") else ""
    title = f"**{model_name(model)}**" + (f", {offers}" if offers else "")
    if machine != machines(every)[0]:
        title += f", on {machine.rpartition(' ')[0]}"
    return f"{title}\n\n{made}"
