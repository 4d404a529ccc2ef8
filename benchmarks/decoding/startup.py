"""From a command to its first token, and what a server that has filled its KV pool keeps resident.

    python -m benchmarks.decoding.startup --name smollm2-135m --model smollm2-135m

Whole processes of a model that is converted already: `generate` of one token to its end, `serve`
from its start to the last byte of a first answer of one token. Then a server answers until every
page of its pool has been written, and its resident memory, that of its children included, is held
against weights + KV + 150 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.measure.arguments import add_model, positive
from benchmarks.measure.machine import pinned_cpus
from benchmarks.measure.occasion import Occasion
from benchmarks.measure.process import guarded, resident_mib, run
from benchmarks.measure.rows import RESULTS, keep
from benchmarks.serving.load import Load, run_load
from benchmarks.serving.raw_http import post, status_of
from benchmarks.serving.servers import HalfbyteServer, running, subject_of
from halfbyte.errors import SourceError
from halfbyte.evaluate.prompts import PROMPTS
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.importers.resolve import resolve

STREAMS, CONTEXT = 16, 320  # tokens of the pool: their product
ROOM_MB = 150.0  # beside weights and KV: Python, its libraries, the tokenizer, buffers
MARGIN = 1.1


def main() -> None:
    arguments = _parse()
    path = resolve(arguments.model, arguments.planes)
    cpus = pinned_cpus(arguments.threads)
    server = HalfbyteServer(
        str(path), arguments.cascade, arguments.threads, STREAMS, CONTEXT, planes=None
    )
    occasion = Occasion.begin(arguments.name, arguments.threads)
    _generate(path, arguments, cpus)  # measures the cost table where there is none, warms the disk
    generated = [_generate(path, arguments, cpus) for _ in range(arguments.processes)]
    served = [_serve(server, cpus) for _ in range(arguments.processes)]
    resident, details = _resident(server, path, cpus)
    subject = subject_of(server)
    rows = [
        occasion.row(subject, "start generate", "s", generated),
        occasion.row(subject, "start serve", "s", served),
        occasion.row(subject, "resident serve", "MB", [resident], details=details),
    ]
    for each in rows:
        print(f"{each.metric:16} {each.spread.median:8.2f} {each.unit}  {each.details or ''}")
    keep(arguments.output, rows)


def _generate(path: Path, arguments: argparse.Namespace, cpus: Sequence[int]) -> float:
    command = [sys.executable, "-m", "halfbyte", "generate", str(path), "-p", "hi", "-n", "1"]
    command += ["--cascade", arguments.cascade, "--threads", str(arguments.threads)]
    return run(command, cpus, {}).seconds


def _serve(server: HalfbyteServer, cpus: Sequence[int]) -> float:
    began = perf_counter()
    with running(server, cpus) as up:
        asyncio.run(_first_answer(up.port))
        return perf_counter() - began


async def _first_answer(port: int) -> None:
    body = {"prompt": "hi", "max_tokens": 1, "temperature": 0}
    async with post(port, "/v1/completions", body) as reader:
        if await status_of(reader) != 200:
            raise SourceError(
                "server", got=str(await reader.read()), expected="an answer", fix="see its log"
            )
        await reader.read()


def _resident(
    server: HalfbyteServer, path: Path, cpus: Sequence[int]
) -> tuple[float, dict[str, Any]]:
    """MB of a server that has written all of its pool, and what it is held against."""
    config = Checkpoint.open(path).config
    kv_token = config.kv_values * 2  # f16
    text = PROMPTS[0].text
    prompts = [f"Case {i}. {text * 9}"[:600] for i in range(4 * STREAMS)]  # more than the pool has
    with running(server, cpus) as up:
        asyncio.run(run_load(up.port, Load(STREAMS, prompts, 160, {})))
        mb = sum(resident_mib(pid) for pid in (up.pid, *_children(up.pid))) * 2**20 / 1e6
    weights, kv = server.num_bytes / 1e6, STREAMS * CONTEXT * kv_token / 1e6
    allowed = MARGIN * (weights + kv + ROOM_MB)
    return mb, {"weights_mb": weights, "kv_mb": kv, "allowed_mb": allowed}


def _children(pid: int) -> list[int]:
    """Processes that a process has started: the renderer of conversations is one."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add_model(parser)
    parser.add_argument("--cascade", default="auto")
    parser.add_argument("--processes", type=positive, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS / "startup.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    guarded(main)
