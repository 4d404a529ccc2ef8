"""Result rows as the tables and plots that documents include.

    python -m benchmarks.report             # every document and plot below, written
    python -m benchmarks.report --check     # status 1 if one is stale

A document marks what it includes: `<!-- NAME: generated … -->` and `<!-- NAME: end -->`, NAME one
of PARTS.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.measure.rows import RESULTS, read
from benchmarks.report import (
    ablation_tables,
    fidelity_tables,
    plots,
    quality_tables,
    results,
    transforms_table,
)
from halfbyte.errors import SourceError
from halfbyte.evaluate import result_rows

ROOT = Path(__file__).parent.parent.parent
PLOTS = Path("docs") / "plots"
DOCUMENTS = (
    "README.md",
    "docs/results.md",
    "docs/fidelity.md",
    "docs/quantize.md",
    "docs/kernels.md",
    "docs/planner.md",
)
PARTS: Mapping[str, Callable[[], str]] = {
    "front": lambda: results.front_table(results.all_rows()),
    "results": lambda: results.report(results.all_rows()),
    "quality": lambda: quality_tables.report(read([RESULTS / "quality" / "schemes.jsonl"])),
    "transforms": lambda: transforms_table.table(read([RESULTS / "quality" / "transforms.jsonl"])),
    "ablations": lambda: ablation_tables.mechanisms(read([RESULTS / "ablation.jsonl"])),
    "constants": lambda: ablation_tables.constants(read([RESULTS / "ablation.jsonl"])),
    "fidelity": lambda: fidelity_tables.report(
        result_rows.read(RESULTS / "fidelity" / "rows.jsonl")
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    made = {ROOT / name: regenerated(ROOT / name) for name in DOCUMENTS}
    made |= {ROOT / PLOTS / name: draw() for name, draw in plots.all_plots().items()}
    stale = [
        path
        for path, text in made.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    if arguments.check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        raise SystemExit(f"stale: {names}. Run python -m benchmarks.report")
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(made[path], encoding="utf-8")


def regenerated(path: Path, parts: Mapping[str, Callable[[], str]] = PARTS) -> str:
    """The file's text with what stands between its markers exchanged."""
    text = path.read_text(encoding="utf-8")
    found = False
    for name, make in parts.items():
        before, begin, rest = text.partition(f"<!-- {name}: generated")
        said, closing, rest = rest.partition(" -->")
        _, end, after = rest.partition(f"<!-- {name}: end -->")
        if begin and closing and end:
            found = True
            text = f"{before}{begin}{said}{closing}\n\n{make()}\n\n{end}{after}"
    if not found:
        raise SourceError(
            str(path),
            got="no markers",
            expected=" or ".join(f"<!-- {name}: generated … --> and its end" for name in parts),
            fix="put them where it goes",
        )
    return text
