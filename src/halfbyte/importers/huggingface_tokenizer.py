"""The tokenizer files of a Hugging Face model: ids that begin and end a text, chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from halfbyte.errors import SourceError
from halfbyte.formats.template_files import is_template_name, template_file, template_names
from halfbyte.importers.json_file import read_json, read_text
from halfbyte.importers.source import TokenizerFiles
from halfbyte.importers.tokenizer_gguf import end_ids, is_library_fault

MAX_TOKENIZER_BYTES = 256 << 20
# What templates may name besides bos_token and eos_token.
SPECIAL_TOKENS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_tokenizer(path: Path, config: dict[str, Any]) -> TokenizerFiles:
    """`config` is config.json. Without tokenizer.json only the ids it states are known."""
    generation = _optional_json(path / "generation_config.json")
    settings = _optional_json(path / "tokenizer_config.json")
    files = (("config.json", config), ("generation_config.json", generation))
    eos_ids = [i for name, values in files[::-1] for i in _ids(name, values, "eos_token_id")]
    starts = [i for name, values in files for i in _ids(name, values, "bos_token_id")]
    bos = starts[0] if starts else None
    if not (path / "tokenizer.json").is_file():
        return TokenizerFiles(
            info=_info(bos, eos_ids, None, add_bos=False) if bos is not None or eos_ids else {}
        )
    text = read_text(path / "tokenizer.json", limit=MAX_TOKENIZER_BYTES)
    try:
        tokenizer = Tokenizer.from_str(text)
        first = tokenizer.encode("a", add_special_tokens=True).ids[:1]
    except BaseException as error:
        if not is_library_fault(error):
            raise
        fix = "download the model again"
        raise SourceError(
            "tokenizer.json", got=str(error)[:200], expected="a usable tokenizer", fix=fix
        ) from error
    named = _token_text(settings.get("bos_token"))
    if named is not None:
        bos = tokenizer.token_to_id(named)
    end = _token_text(settings.get("eos_token"))
    end_id = None if end is None else tokenizer.token_to_id(end)
    if end_id is not None:
        eos_ids.insert(0, end_id)
    added = tokenizer.get_added_tokens_decoder()
    special = {token.content: i for i, token in added.items() if token.special}
    eos_ids = end_ids(special, eos_ids)
    # The tokenizer itself shows whether texts begin with bos; callers add it, so that one rule
    # serves all sources.
    add_bos = bos is not None and first == [bos]
    templates = _templates(path, settings)
    default = templates.pop("default", None)
    info = _info(bos, eos_ids, tokenizer, add_bos=add_bos)
    further = {name: _token_text(settings.get(name)) for name in SPECIAL_TOKENS}
    if any(further.values()):
        info["special_tokens"] = {name: token for name, token in further.items() if token}
    return TokenizerFiles(text, default, templates, info)


def _info(
    bos: int | None, eos_ids: list[int], tokenizer: Tokenizer | None, *, add_bos: bool
) -> dict[str, Any]:
    ids = list(dict.fromkeys(eos_ids))

    def text(token: int | None) -> str | None:
        return None if token is None or tokenizer is None else tokenizer.id_to_token(token)

    return {
        "bos": bos,
        "add_bos": add_bos,
        "eos_ids": ids,
        "bos_token": text(bos),
        "eos_token": text(ids[0]) if ids else None,
    }


def _templates(path: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Chat templates by name: in tokenizer_config.json one or a list, files beside it count."""
    found = dict[str, str]()
    given = settings.get("chat_template")
    for item in given if isinstance(given, list) else [{"name": "default", "template": given}]:
        if isinstance(item, dict) and isinstance(item.get("template"), str):
            found[str(item.get("name"))] = item["template"]
    for name in template_names(path):
        found[name] = read_text(path / template_file(name))
    if (path / "chat_template.jinja").is_file():
        found["default"] = read_text(path / "chat_template.jinja")
    return {name: text for name, text in found.items() if is_template_name(name)}


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _ids(file: str, values: dict[str, Any], key: str) -> list[int]:
    """An id, several, or none: null, or a negative number."""
    value = values.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(item) is int and item < 1 << 31 for item in ids):
        raise SourceError(
            f"{file} {key}",
            got=repr(value)[:80],
            expected="a token id, a list of them or null",
            fix="the file is damaged; download it again",
        )
    return [item for item in ids if item >= 0]


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
