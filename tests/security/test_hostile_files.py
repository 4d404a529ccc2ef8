"""Files of strangers: named errors, and memory in proportion to the file."""

from __future__ import annotations

import copy
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfbyte.errors import FormatError, HalfbyteError, SourceError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.manifest import MANIFEST_NAME
from halfbyte.formats.tensor_file import MAX_HEADER_BYTES, TensorFile
from halfbyte.importers import tokenizer_gguf
from halfbyte.importers.gguf_header import parse_header
from halfbyte.importers.gguf_source import GgufSource
from halfbyte.importers.huggingface import HuggingFaceSource
from halfbyte.importers.tokenizer_gguf import read_tokenizer
from halfbyte.text.codec import TextCodec
from tests.importers.tiny_gguf import TinyGguf
from tests.support.talking_model import VOCAB, tokenizer, write_talking_model

MIB = 1 << 20
BASE = 6 * MIB  # what a small file may cost besides its own size
PER_BYTE = 24  # a JSON value or a short string as a Python object


@contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    """Fails if Python objects and arrays made inside take more at any moment."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= num_bytes, f"{peak / MIB:.0f} MiB"


# ---- safetensors ----

HEADERS: dict[str, Callable[[int], bytes]] = {
    "deep lists": lambda n: b"[" * n,
    "deep objects": lambda n: b'{"a":' * (n // 5),
    "deep and closed": lambda n: b'{"a":' + b"[" * (n // 2 - 8) + b"]" * (n // 2 - 8) + b"}",
    "many empty lists": lambda n: b'{"a":[' + b"[]," * (n // 3 - 4) + b"[]]}",
    "many numbers": lambda n: b'{"a":[' + b"1.5," * (n // 4 - 4) + b"1]}",
    "many keys": lambda n: b"{" + b",".join(b'"%x":[]' % i for i in range(n // 12)) + b"}",
    "one long number": lambda n: b'{"a":' + b"9" * (n - 8) + b"}",
    "one long string": lambda n: b'{"' + b"x" * (n - 6) + b'":1}',
    "zeros": lambda n: b"\0" * n,
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_safetensors_header_costs_memory_in_proportion(tmp_path: Path, kind: str) -> None:
    text = HEADERS[kind](MIB // 8)
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with at_most(BASE + PER_BYTE * len(text)), pytest.raises(FormatError) as caught:
        TensorFile.open(path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_claimed_header_length_is_not_allocated(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with at_most(BASE), pytest.raises(FormatError, match="header-too-large"):
        TensorFile.open(path)


def test_a_tensor_of_claimed_petabytes_is_not_allocated(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1 << 45], "data_offsets": [0, 1 << 47]}
    text = json.dumps({"a": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with at_most(BASE), pytest.raises(FormatError):
        TensorFile.open(path)


# ---- GGUF ----


def _string(text: bytes, claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text


def _gguf(tensors: int, keys: int, body: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + body


_ARRAY = _string(b"k") + struct.pack("<I", 9)
GGUFS = {
    "2^64 tensors": _gguf((1 << 64) - 1, 0, b""),
    "2^64 keys": _gguf(0, (1 << 64) - 1, b""),
    "more tensors than bytes": _gguf(60_000, 0, b"\0" * 64),
    "a string of 2^63": _gguf(0, 1, _string(b"k", 1 << 63)),
    "a value string of 2^40": _gguf(
        0, 1, _string(b"k") + struct.pack("<I", 8) + _string(b"", 1 << 40)
    ),
    "2^40 bytes in an array": _gguf(0, 1, _ARRAY + struct.pack("<IQ", 0, 1 << 40)),
    "2^61 doubles in an array": _gguf(0, 1, _ARRAY + struct.pack("<IQ", 12, 1 << 61)),
    "2^22 strings in 64 bytes": _gguf(0, 1, _ARRAY + struct.pack("<IQ", 8, 1 << 22) + b"\0" * 64),
    "arrays in arrays": _gguf(0, 1, _ARRAY + struct.pack("<IQ", 9, 1) * 50_000),
    "an unknown type": _gguf(0, 1, _string(b"k") + struct.pack("<I", 77)),
    "2^60 weights": _gguf(1, 0, _string(b"t") + struct.pack("<IQQQQIQ", 4, *[1 << 15] * 4, 0, 0)),
    "dimensions that overflow": _gguf(
        1, 0, _string(b"t") + struct.pack("<IQQQQIQ", 4, *[1 << 62] * 4, 0, 0)
    ),
    "an offset at the end of the world": _gguf(
        1, 0, _string(b"t") + struct.pack("<IQIQ", 1, 32, 0, (1 << 64) - 32)
    ),
    "2^32 dimensions": _gguf(1, 0, _string(b"t") + struct.pack("<I", (1 << 32) - 1)),
}


@pytest.mark.parametrize("kind", GGUFS)
def test_claims_of_a_gguf_header_are_not_allocated(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUFS[kind])
    with at_most(BASE), pytest.raises(SourceError) as caught:
        GgufSource(path)
    assert "\n" not in str(caught.value)


def test_many_short_strings_cost_memory_in_proportion(tmp_path: Path) -> None:
    count = 20_000
    body = _ARRAY + struct.pack("<IQ", 8, count) + _string(b"ab") * count
    data = np.frombuffer(_gguf(0, 1, body), dtype=np.uint8)
    with at_most(BASE + PER_BYTE * len(data)):
        parse_header(tmp_path / "m.gguf", data)


def test_tensors_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """A header of megabytes could else name the same gigabyte thousands of times."""
    entry = struct.pack("<IQIQ", 1, 32, 0, 0)
    body = _string(b"a") + entry + _string(b"b") + entry
    data = np.frombuffer(_gguf(2, 0, body) + b"\0" * 512, dtype=np.uint8)
    with pytest.raises(SourceError, match="tensor 'b' at byte"):
        parse_header(tmp_path / "m.gguf", data)


def test_a_vocabulary_made_of_its_own_prefixes_does_not_explode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizer_gguf, "MAX_MERGES", 2000)
    tokens = [letter * n for letter in "abcd" for n in range(1, 65)]  # 8,064 ways
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.zeros(len(tokens), np.float32),
    }
    with pytest.raises(SourceError, match="ways to join"):
        read_tokenizer(metadata)


# ---- JSON of models ----


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 50_000, "9" * 100_000, "", "nul", "[]"])
def test_json_of_a_model_is_an_object_or_a_named_fault(tmp_path: Path, text: str) -> None:
    for name in ("config.json", MANIFEST_NAME):
        (tmp_path / name).write_text(text)
    with at_most(64 * MIB), pytest.raises(SourceError):
        HuggingFaceSource(tmp_path)
    with at_most(64 * MIB), pytest.raises(FormatError):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("field", ["num_layers", "vocab_size", "hidden_size", "num_heads"])
def test_a_claimed_size_of_a_model_is_not_allocated(tmp_path: Path, field: str) -> None:
    path = write_talking_model(tmp_path / "m")
    manifest = json.loads((path / MANIFEST_NAME).read_text())
    for claimed in ((1 << 24) - 1, 1 << 60):
        manifest["model"][field] = claimed
        (path / MANIFEST_NAME).write_text(json.dumps(manifest))
        with at_most(BASE), pytest.raises(HalfbyteError):
            Checkpoint.open(path)


def test_a_gguf_that_claims_millions_of_layers_is_refused_at_once(tmp_path: Path) -> None:
    path = TinyGguf(numbers={"block_count": (1 << 24) - 1}).write(tmp_path / "m.gguf")
    with at_most(BASE), pytest.raises(HalfbyteError, match=r"blk\.2\."):
        GgufSource(path)


# ---- tokenizer.json ----

_GOOD = json.loads(tokenizer().to_str())
_ODD: tuple[Any, ...] = (
    None, -1, 1 << 63, 1e308, "", [], {}, "x" * 5000, True, [[]],
    {"type": "BPE"},
    {"type": "Prepend", "prepend": "x"},
    {"type": "Split", "pattern": {"Regex": "(?:x*)*y"}, "behavior": "Isolated", "invert": False},
    {"type": "WordPiece", "vocab": {}, "unk_token": "q", "continuing_subword_prefix": "",
     "max_input_chars_per_word": 3},
    {"type": "Unigram", "vocab": [], "unk_id": 5},
    {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
)  # fmt: skip


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if path[-1:] == ("vocab",) or not isinstance(node, dict | list):
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _paths(value, (*path, key))


_PATHS = list(_paths(_GOOD))


class _Source:
    chat_template = None
    tokenizer_info: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        self.tokenizer_json = text


def _use(text: str) -> None:
    """Read, encode, decode; only errors by our name may come out."""
    try:
        codec = TextCodec(_Source(text), VOCAB)
        codec.decode(codec.encode("hello the thing <eos> \u00e9\U0001f600" + "x" * 20))
        codec.decode([0, VOCAB - 1, VOCAB, 1 << 31])
    except HalfbyteError as error:
        assert "\n" not in str(error)  # noqa: PT017


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(_PATHS), st.sampled_from(_ODD)), min_size=1, max_size=3))
def test_a_changed_tokenizer_works_or_fails_by_name(changes: list[Any]) -> None:
    changed = copy.deepcopy(_GOOD)
    for path, value in changes:
        node = changed
        try:
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = copy.deepcopy(value)
        except (KeyError, TypeError, IndexError):
            pass  # an earlier change took this place away
    _use(json.dumps(changed))


def test_a_panic_of_the_tokenizers_library_is_a_named_fault() -> None:
    changed = copy.deepcopy(_GOOD)
    changed["model"]["continuing_subword_prefix"] = "x" * 50
    with pytest.raises(FormatError, match="bad-tokenizer") as caught:
        TextCodec(_Source(json.dumps(changed)), VOCAB)
    assert "range end index" in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{}", "", "\0"])
def test_deep_or_empty_tokenizer_json_is_a_named_fault(text: str) -> None:
    with pytest.raises(FormatError, match="bad-tokenizer"):
        TextCodec(_Source(text), VOCAB)
