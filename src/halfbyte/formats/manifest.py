"""`halfbyte.json`: what a checkpoint says about itself, every field checked (docs/format.md)."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from halfbyte.config import GROUP_SIZES, ModelConfig
from halfbyte.errors import FormatError, HalfbyteError

FORMAT_VERSION = 1
MANIFEST_NAME = "halfbyte.json"
MAX_MANIFEST_BYTES = 4 << 20
_KEYS = ("format", "model", "group_size", "weights", "head_bits", "files", "source", "tokenizer")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The checked contents of `halfbyte.json`."""

    config: ModelConfig
    group_size: int | None
    weights: str  # planes | dense
    head_bits: dict[int, int]
    files: dict[str, int]  # name -> size in bytes
    source: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of halfbyte.json."""
        values = {
            "format": FORMAT_VERSION,
            "model": asdict(self.config),
            "group_size": self.group_size,
            "weights": self.weights,
            "head_bits": {str(level): bits for level, bits in self.head_bits.items()},
            "files": self.files,
            "source": self.source,
            "tokenizer": self.tokenizer,
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def read_manifest(directory: Path) -> Manifest:
    """Raises FormatError; the names are those of docs/format.md."""
    values = _read_object(directory)
    version = values.get("format")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        fix = "update halfbyte, or convert the model again"
        expected = f"an integer from 1 to {FORMAT_VERSION}"
        raise FormatError(
            "bad-version", "checkpoint format", got=repr(version), expected=expected, fix=fix
        )
    for key in values:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            raise _bad("unknown-key", "key", repr(key), near[0] if near else ", ".join(_KEYS))
    weights = values.get("weights")
    if weights not in ("planes", "dense"):
        raise _bad("bad-field", "weights", weights, "'planes' or 'dense'")
    group_size = values.get("group_size")
    if weights == "planes" and (type(group_size) is not int or group_size not in GROUP_SIZES):
        raise _bad("bad-field", "group_size", group_size, "32, 64 or 128")
    if weights == "dense" and group_size is not None:
        raise _bad("bad-field", "group_size", group_size, "null in a dense checkpoint")
    return Manifest(
        config=_read_model(values.get("model")),
        group_size=group_size,
        weights=weights,
        head_bits=_read_head_bits(values.get("head_bits")),
        files=_read_files(values.get("files")),
        source=_read_mapping(values, "source"),
        tokenizer=_read_mapping(values, "tokenizer"),
    )


def _read_object(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        fix = "name a checkpoint directory, or convert the model first"
        what = f"checkpoint {directory.name}"
        raise FormatError(
            "no-manifest", what, got=error.strerror, expected=f"a readable {MANIFEST_NAME}", fix=fix
        ) from error
    if len(text) > MAX_MANIFEST_BYTES:
        raise _bad(
            "bad-json", MANIFEST_NAME, "a larger file", f"at most {MAX_MANIFEST_BYTES} bytes"
        )
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad("bad-json", MANIFEST_NAME, error, "a JSON object") from error
    if not isinstance(values, dict):
        raise _bad("bad-json", MANIFEST_NAME, type(values).__name__, "a JSON object")
    return values


def _read_model(values: Any) -> ModelConfig:
    if not isinstance(values, dict):
        raise _bad("bad-model", "model", type(values).__name__, "a JSON object")
    try:
        config = ModelConfig.from_dict(values)
        _check_optional_fields(config)
    except HalfbyteError as error:
        raise _bad("bad-model", f"model {error.what}", error.got, error.expected) from error
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _bad("bad-model", "model", error, "the fields of ModelConfig") from error
    return config


def _check_optional_fields(config: ModelConfig) -> None:
    """What ModelConfig takes on trust because a program fills it in."""
    flags = (config.tied_head, config.qkv_bias, config.qk_norm)
    ids = [*config.eos_ids, *([] if config.bos_id is None else [config.bos_id])]
    window = config.sliding_window
    if not all(isinstance(flag, bool) for flag in flags):
        raise ValueError("tied_head, qkv_bias or qk_norm is not a boolean")
    if not all(type(token) is int and 0 <= token < config.vocab_size for token in ids):
        raise ValueError("bos_id or eos_ids is not a token id")
    if window is not None and (type(window) is not int or window <= 0):
        raise ValueError("sliding_window is not a positive integer")
    factors = config.rope.frequency_factors
    if not all(isinstance(x, float | int) and 0 < x < 1e30 for x in factors):
        raise ValueError("rope.frequency_factors are not positive numbers")
    if factors and len(factors) != config.head_dim // 2:
        raise ValueError(f"{len(factors)} rope.frequency_factors for {config.head_dim // 2} pairs")


def _read_head_bits(values: Any) -> dict[int, int]:
    good = isinstance(values, dict) and set(values) == {"4", "8"}
    if not good or not all(type(bits) is int and bits in (4, 8) for bits in values.values()):
        raise _bad("bad-field", "head_bits", values, 'an object with "4" and "8", each 4 or 8')
    return {int(level): bits for level, bits in values.items()}


def _read_files(values: Any) -> dict[str, int]:
    if not isinstance(values, dict) or not values:
        raise _bad("bad-field", "files", type(values).__name__, "an object with at least one file")
    for name, size in values.items():
        plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
        if not plain or not name.endswith(".safetensors") or "\0" in name:
            raise _bad("bad-file-name", "files", repr(name), "a plain *.safetensors name")
        if type(size) is not int or size < 0:
            raise _bad("bad-field", f"files[{name!r}]", size, "a size in bytes")
    return dict(values)


def _read_mapping(values: dict[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key, {})
    if not isinstance(value, dict):
        raise _bad("bad-field", key, type(value).__name__, "a JSON object")
    return value


def _bad(name: str, what: str, got: object, expected: object) -> FormatError:
    text = str(got)
    short = text if len(text) <= 200 else text[:200] + "…"
    return FormatError(name, what, got=short, expected=expected, fix="convert the model again")
