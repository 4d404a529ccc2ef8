"""`halfbyte.json`: what a checkpoint says about itself, every field checked (docs/format.md)."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final, Literal

from halfbyte.config import GROUP_SIZES, ModelConfig, is_flat, model_values
from halfbyte.config import read_model as config_of
from halfbyte.errors import FormatError, HalfbyteError, reraise_machine_fault, told
from halfbyte.formats import json_text
from halfbyte.formats.names import SITES, site_inputs
from halfbyte.formats.transforms import Rotation

FORMAT_VERSION: Final = 5  # the newest of docs/format.md; every version from 1 on is read
MANIFEST_NAME = "halfbyte.json"
MAX_MANIFEST_BYTES = 4 << 20
_KEYS = ("format", "model", "group_size", "weights", "head_bits", "files", "source", "tokenizer")
_KEYS_2 = (*_KEYS, "transforms", "wide_groups")
_ROTATION_KEYS = {"core", "kind", "block", "stride"}
GATHER: Final = "gather"
SiteTransform = Rotation | Literal["gather"]


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
    transforms: dict[str, SiteTransform] = field(default_factory=dict)  # by site (names.SITES)
    wide_groups: dict[str, int] = field(default_factory=dict)  # of a matrix, by site; absent: 0
    small: bool = False  # whether matrices may have a unit and integer scales

    @property
    def version(self) -> int:
        """The lowest version that says it all: the most readers can read it."""
        if not is_flat(self.config):
            return 5
        if self.small:
            return 4  # units
        if len({self.wide_groups.get(site, 0) for site in SITES}) > 1:
            return 3  # wide groups by input
        if self.transforms or any(self.wide_groups.values()):
            return 2  # transforms, and one number of wide groups
        return 1

    def to_json(self) -> str:
        """The text of halfbyte.json."""
        values = {
            "format": self.version,
            "model": model_values(self.config),
            "group_size": self.group_size,
            "weights": self.weights,
            "head_bits": {str(level): bits for level, bits in self.head_bits.items()},
            "files": self.files,
            "source": self.source,
            "tokenizer": self.tokenizer,
        }
        if self.version > 1:
            transforms = {
                site: asdict(t) if isinstance(t, Rotation) else t
                for site, t in self.transforms.items()
            }
            wide = {site: count for site, count in self.wide_groups.items() if count}
            alike = next(iter(wide.values()), 0)
            values |= {
                "transforms": transforms,
                "wide_groups": alike if self.version == 2 else wide,
            }
        return json_text.written(values)


def read_manifest(directory: Path) -> Manifest:
    """Raises FormatError; the names are those of docs/format.md."""
    values = read_object(directory, MANIFEST_NAME)
    version = check_version(values.get("format"), FORMAT_VERSION)
    check_keys(values, _KEYS if version == 1 else _KEYS_2)
    weights = values.get("weights")
    if weights not in ("planes", "dense"):
        raise bad_field("weights", weights, "'planes' or 'dense'")
    group_size = values.get("group_size")
    if weights == "planes" and (type(group_size) is not int or group_size not in GROUP_SIZES):
        raise bad_field("group_size", group_size, "32, 64 or 128")
    if weights == "dense" and group_size is not None:
        raise bad_field("group_size", group_size, "null in a dense checkpoint")
    config = read_model(values.get("model"), version)
    return Manifest(
        config=config,
        group_size=group_size,
        weights=weights,
        head_bits=_read_head_bits(values.get("head_bits")),
        files=read_files(values),
        source=read_mapping(values, "source"),
        tokenizer=_read_tokenizer(read_mapping(values, "tokenizer")),
        transforms=_read_transforms(read_mapping(values, "transforms"), config),
        wide_groups=_read_wide_groups(
            values.get("wide_groups", 0 if version < 3 else {}), version, group_size, config
        ),
        small=version > 3,
    )


def check_version(version: Any, newest: int) -> int:
    """Refuse a format this reader does not know."""
    if type(version) is not int or not 1 <= version <= newest:
        fix = "update halfbyte, or convert the model again"
        expected = f"an integer from 1 to {newest}"
        raise FormatError(
            "bad-version", "checkpoint format", got=repr(version), expected=expected, fix=fix
        )
    return version


def check_keys(values: dict[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a key the format does not have; the fault names the nearest."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise _bad("unknown-key", "key", repr(key), near[0] if near else ", ".join(known))


def read_object(directory: Path, name: str) -> dict[str, Any]:
    """The JSON object of a manifest file."""
    path = directory / name
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        fix = "name a checkpoint directory, or convert the model first"
        what = f"checkpoint {directory.name}"
        reraise_machine_fault(what, error)
        raise FormatError(
            "no-manifest", what, got=told(error), expected=f"a readable {name}", fix=fix
        ) from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise _bad("bad-json", name, "a larger file", f"at most {MAX_MANIFEST_BYTES} bytes")
    try:
        return json_text.read_object(data)
    except ValueError as error:
        raise _bad("bad-json", name, error, "a JSON object") from error


def read_model(values: Any, version: int = FORMAT_VERSION) -> ModelConfig:
    """The `model` of a manifest; up to version 4 its fields are flat."""
    if not isinstance(values, dict):
        raise _bad("bad-model", "model", type(values).__name__, "a JSON object")
    try:
        return config_of(values, flat=version < 5)
    except HalfbyteError as error:
        raise _bad("bad-model", f"model {error.what}", error.got, error.expected) from error
    except (TypeError, ValueError) as error:
        raise _bad("bad-model", "model", error, "the fields of ModelConfig") from error


def _read_head_bits(values: Any) -> dict[int, int]:
    good = isinstance(values, dict) and set(values) == {"4", "8"}
    if not good or not all(type(bits) is int and bits in (4, 8) for bits in values.values()):
        raise bad_field("head_bits", values, 'an object with "4" and "8", each 4 or 8')
    return {int(level): bits for level, bits in values.items()}


def _read_tokenizer(values: dict[str, Any]) -> dict[str, Any]:
    def is_id(value: Any) -> bool:
        return type(value) is int and 0 <= value < 1 << 31

    ids = values.get("eos_ids", [])
    texts = (values.get("bos_token"), values.get("eos_token"))
    if values.get("bos") is not None and not is_id(values["bos"]):
        raise bad_field("tokenizer.bos", values["bos"], "a token id or null")
    if not isinstance(values.get("add_bos", False), bool):
        raise bad_field("tokenizer.add_bos", values["add_bos"], "true or false")
    if not isinstance(ids, list) or not all(is_id(token) for token in ids):
        raise bad_field("tokenizer.eos_ids", ids, "a list of token ids")
    if not all(text is None or isinstance(text, str) for text in texts):
        raise bad_field("tokenizer.bos_token or eos_token", texts, "text or null")
    further = values.get("special_tokens", {})
    if not isinstance(further, dict) or not all(isinstance(x, str) for x in further.values()):
        raise bad_field("tokenizer.special_tokens", further, "an object of texts")
    return values


def read_files(manifest: dict[str, Any]) -> dict[str, int]:
    """The `files` of a manifest: name -> bytes."""
    values = manifest.get("files")
    if not isinstance(values, dict) or not values:
        raise bad_field("files", type(values).__name__, "an object with at least one file")
    for name, size in values.items():
        plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
        if not plain or not name.endswith(".safetensors") or "\0" in name:
            raise _bad("bad-file-name", "files", repr(name), "a plain *.safetensors name")
        if type(size) is not int or size < 0:
            raise bad_field(f"files[{name!r}]", size, "a size in bytes")
    return dict(values)


def _read_transforms(values: dict[str, Any], config: ModelConfig) -> dict[str, SiteTransform]:
    inputs = site_inputs(config)
    transforms: dict[str, SiteTransform] = {}
    for site, value in values.items():
        what = f"transforms[{site!r}]"
        if site not in inputs:
            raise _bad("bad-transform", what, "a transform", "one of " + ", ".join(SITES))
        if value == GATHER:
            transforms[site] = GATHER
            continue
        if not isinstance(value, dict) or set(value) != _ROTATION_KEYS:
            raise _bad("bad-transform", what, value, "'gather', or core, kind, block and stride")
        try:
            rotation = Rotation(**value)
        except HalfbyteError as error:
            raise _bad("bad-transform", what, error.got, error.expected) from error
        if inputs[site] % rotation.span:
            got = f"a rotation over {rotation.span} inputs"
            raise _bad("bad-transform", what, got, f"a divisor of {inputs[site]}")
        transforms[site] = rotation
    return transforms


def _read_wide_groups(
    value: Any, version: Any, group_size: int | None, config: ModelConfig
) -> dict[str, int]:
    """By site; version 2 has one number for all of them."""
    most = {
        site: inputs // group_size if group_size else 0
        for site, inputs in site_inputs(config).items()
    }
    if version < 3:
        least = min(most.values())
        if type(value) is not int or not 0 <= value <= least:
            raise bad_field("wide_groups", value, f"an integer, 0 to {least}")
        return dict.fromkeys(most, value) if value else {}
    if not isinstance(value, dict) or not set(value) <= set(most):
        raise bad_field("wide_groups", value, "an object with keys of " + ", ".join(most))
    for site, count in value.items():
        if type(count) is not int or not 0 <= count <= most[site]:
            raise bad_field(f"wide_groups[{site!r}]", count, f"an integer, 0 to {most[site]}")
    return dict(value)


def read_mapping(values: dict[str, Any], key: str) -> dict[str, Any]:
    """An object of a manifest; absent: empty."""
    value = values.get(key, {})
    if not isinstance(value, dict):
        raise bad_field(key, type(value).__name__, "a JSON object")
    return value


def bad_field(what: str, got: object, expected: object) -> FormatError:
    """A field has a value it cannot have."""
    return _bad("bad-field", what, got, expected)


def _bad(name: str, what: str, got: object, expected: object) -> FormatError:
    text = str(got)
    short = text if len(text) <= 200 else text[:200] + "…"
    return FormatError(name, what, got=short, expected=expected, fix="convert the model again")
