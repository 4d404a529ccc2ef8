"""What fuzzing runs: a function that reads an input's directory as a program would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from halfbyte.config import Level
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.draft_head import HeadCheckpoint, head_tensors
from halfbyte.formats.names import expected_matrices, expected_tensors
from halfbyte.formats.tensor_file import TensorFile
from halfbyte.formats.weights import Weights
from halfbyte.importers.convert import convert
from halfbyte.importers.eagle_source import EagleSource, is_head
from halfbyte.importers.gguf_source import GgufSource
from halfbyte.importers.huggingface import HuggingFaceSource
from halfbyte.importers.source import Source
from halfbyte.runtime.native import NativeRuntime
from halfbyte.text.calls.reader import AnswerReader
from halfbyte.text.chat import ChatTemplate
from halfbyte.text.codec import TextCodec, eos_ids
from halfbyte.text.dialect import Dialect, Wanted
from tests.support.runtimes import all_logits
from tests.text.test_codec import CODEC

READABLE_DTYPES = ("U8", "I8", "F16", "BF16", "F32", "I32", "I64")
_TEXT = "the 12 dogs\u00e9\U0001f600  <s> \u0000"
_MOST_WEIGHTS = 1 << 22
RENDER_SECONDS = 2.0


def safetensors(path: Path) -> None:
    """Every tensor of one file."""
    file = TensorFile.open(path / "x.safetensors")
    for name, entry in file.entries.items():
        if entry.dtype in READABLE_DTYPES:
            file.array(name).tobytes()
    file.unload()


def gguf(path: Path) -> None:
    """A GGUF model: opened, read, converted, run."""
    _use_source(GgufSource(path / "m-00001-of-00002.gguf"), path)


def huggingface(path: Path) -> None:
    """A Hugging Face directory with its tokenizer and packing."""
    _use_source(HuggingFaceSource(path), path)


def checkpoint(path: Path) -> None:
    """A checkpoint of ours."""
    opened = Checkpoint.open(path)
    _use_text(opened)
    assert isinstance(opened.chat_template, str | None)
    for name, shape in expected_tensors(opened.config):
        if len(shape) == 1:
            opened.vector(name)
        else:
            opened.matrix(name)
    _run(opened, "f32" if opened.weights == "dense" else "w4a8")


def head(path: Path) -> None:
    """A draft head of ours, or a published one."""
    if (path / "halfbyte-head.json").exists():
        opened = HeadCheckpoint.open(path)
        _read_head(opened)
        opened.config.taps_of(4)
    elif is_head(path):
        _read_head(EagleSource(path))
    else:
        HuggingFaceSource(path)


def template(path: Path) -> None:
    """A chat template over a conversation: rendered, its calls' form found, its control tokens
    told from text. What does not end is ended after RENDER_SECONDS."""
    source = (path / "template.jinja").read_bytes().decode("utf-8", "replace")
    try:
        told = json.loads((path / "conversation.json").read_bytes())
    except (ValueError, RecursionError):
        told = None
    told = told if isinstance(told, dict) else {}
    tools, variables = told.get("tools"), told.get("variables")
    offered = [x for x in tools if isinstance(x, dict)] if isinstance(tools, list) else None
    written = ChatTemplate(source, bos_token="<s>", eos_token="</s>", render_seconds=RENDER_SECONDS)
    dialect = Dialect(written, CODEC)
    found = dialect.write(
        told.get("messages") or [{"role": "user", "content": "a"}],
        tools=offered,
        variables=variables if isinstance(variables, dict) else None,
    )
    dialect.ids(found)
    assert not found.mark or found.mark not in found.text
    style = dialect.style(Wanted())
    AnswerReader(style, None, thinking=found.thinks).add(found.text[:2000])


def _read_head(weights: HeadCheckpoint | EagleSource) -> None:
    for name, shape in head_tensors(weights.config):
        if len(shape) == 1:
            weights.vector(name)
        else:
            weights.matrix(name)


def _use_source(source: Source, path: Path) -> None:
    _use_text(source)
    made = path.with_name("made")
    shutil.rmtree(made, ignore_errors=True)
    assert isinstance(source.description, dict)
    try:
        _run(Checkpoint.open(convert(source, made)), "w4a8")
    finally:
        shutil.rmtree(made, ignore_errors=True)
    _run(source, "f32")


def _use_text(source: Source | Checkpoint) -> None:
    config = source.config
    eos_ids(source, config.eos_ids, config.vocab_size)
    if source.tokenizer_json is None:
        return
    codec = TextCodec(source, config.vocab_size)
    codec.decode(codec.encode(_TEXT))
    codec.vocabulary()


def _run(weights: Weights, level: str) -> None:
    """A forward of four tokens; what memory cannot hold is none of our business here."""
    config = weights.config
    widest = max(rows * inputs for _, (rows, inputs) in islice(expected_matrices(config), 1, 9))
    if config.num_layers * widest > _MOST_WEIGHTS:
        return
    runtime = NativeRuntime(weights, threads=1, num_tokens=32, max_rows=8)
    tokens = np.arange(4, dtype=np.int32) % config.vocab_size
    all_logits(runtime, tokens, Level.parse(level))


TARGETS: dict[str, Callable[[Path], None]] = {
    "safetensors": safetensors,
    "gguf": gguf,
    "huggingface": huggingface,
    "checkpoint": checkpoint,
    "head": head,
    "template": template,
}
