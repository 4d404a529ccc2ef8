"""The tokenizer inside GGUF metadata -> Hugging Face tokenizers, plus what those do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from halfbyte.errors import HalfbyteError, SourceError
from halfbyte.formats.template_files import MAX_TEMPLATES, is_template_name
from halfbyte.importers.source import TokenizerFiles

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MAX_TOKEN_CHARS = 1024
MAX_MERGES = 4 << 20  # a vocabulary of 262k tokens has 0.6 M; a hostile one a thousand per token

# Tokens that end a turn or a text, whatever the metadata names as `eos`.
_END_TOKENS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
    "</s>",
)

# Where an answer is made of several messages, in channels, one token ends a message and others end
# the answer (gpt-oss, "harmony").
_END_OF_MESSAGE = "<|end|>"
_ENDS_OF_MESSAGES = ("<|return|>", "<|call|>")

_NAMED_TEMPLATE = "tokenizer.chat_template."
# What templates may name besides bos_token and eos_token (GGUF spells the second like this).
_SPECIAL_TOKENS = {
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}

_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_TAIL}"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_TAIL}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "tekken": _TEKKEN,
}
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_PLAIN_GPT2 = ("default", "gpt-2", "gpt2")
_WHOLE_WORDS_FIRST = (
    "llama-bpe",
    "llama3",
    "llama-v3",
    "tekken",
)  # a word in the vocabulary is not merged up
_STARTS_WITH_BOS = ("llama-bpe", "llama3", "llama-v3", "tekken")
_NFC = ("qwen2", "deepseek-r1-qwen")


def read_tokenizer(metadata: Mapping[str, Any]) -> TokenizerFiles:
    """No tokenizer in the file gives an empty result; an unusable one raises SourceError."""
    model = metadata.get("tokenizer.ggml.model")
    if model is None or (isinstance(model, str) and model in ("no_vocab", "none")):
        return TokenizerFiles()
    tokens = _strings(metadata, "tokens")
    kinds = _token_types(metadata, len(tokens))
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    try:
        if str(model) == "gpt2":
            tokenizer = _byte_level(metadata, tokens, pre)
        elif str(model) == "llama":
            tokenizer = _sentencepiece(metadata, tokens, kinds)
        else:
            raise _fault("model", repr(model)[:80], "gpt2 or llama")
        _add_special_tokens(tokenizer, tokens, kinds)
        text = tokenizer.to_str()
    except BaseException as error:
        if not is_library_fault(error):
            raise
        raise _fault("tokens", str(error)[:200], "a usable vocabulary") from error
    template = metadata.get("tokenizer.chat_template")
    info = _info(metadata, tokens, kinds, spm=str(model) == "llama", pre=pre)
    default = template if isinstance(template, str) else None
    return TokenizerFiles(text, default, _named_templates(metadata), info)


def _named_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """tokenizer.chat_template.NAME, as converters write the templates of a list."""
    found = {
        key.removeprefix(_NAMED_TEMPLATE): value
        for key, value in metadata.items()
        if key.startswith(_NAMED_TEMPLATE) and isinstance(value, str)
    }
    return {name: found[name] for name in sorted(found)[:MAX_TEMPLATES] if is_template_name(name)}


def is_library_fault(error: BaseException) -> bool:
    """Whether `tokenizers` raised it: a bare Exception, or a Rust panic (a BaseException)."""
    return not isinstance(error, HalfbyteError | KeyboardInterrupt | SystemExit | MemoryError)


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], pre: str) -> Tokenizer:
    merges = [_pair(merge) for merge in _strings(metadata, "merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre in _WHOLE_WORDS_FIRST))
    if pre in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[pre]), "isolated")
        steps: list[Any] = [
            split,
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    elif pre in _DIGITS_APART:
        steps = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    elif pre in _PLAIN_GPT2:
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        known = ", ".join((*_SPLITS, *_DIGITS_APART, *_PLAIN_GPT2))
        raise _fault("pre", repr(pre)[:80], f"one of {known}")
    if pre in _NFC:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> Tokenizer:
    """SentencePiece BPE: merges follow from the scores, unknown text falls back to byte tokens."""
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens):
        raise _fault("scores", "none that fit", f"{len(tokens)} numbers")
    if scores.dtype.kind not in "iuf" or not np.isfinite(scores).all():
        raise _fault("scores", "values that are no finite numbers", "finite numbers")
    vocab = {token: i for i, token in enumerate(tokens)}
    unknown = next(
        (token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None
    )
    tokenizer = Tokenizer(
        models.BPE(
            vocab,
            _merges_from_scores(vocab, tokens, kinds, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=BYTE in kinds,
        )
    )
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    last: list[Any] = []
    if _flag(metadata, "add_space_prefix", default=True):
        steps.insert(0, normalizers.Prepend("▁"))
        last = [decoders.Strip(" ", 1, 0)]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last]
    )
    return tokenizer


def _merges_from_scores(
    vocab: dict[str, int], tokens: list[str], kinds: list[int], scores: Any
) -> list[tuple[str, str]]:
    """Every split of a token into two, best score first: the order SentencePiece joins pairs in."""
    found = []
    for token, kind, score in zip(tokens, kinds, scores.tolist(), strict=True):
        if kind not in (NORMAL, USER_DEFINED) or len(token) > MAX_TOKEN_CHARS:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                found.append((-score, vocab[token], vocab[left], vocab[right], left, right))
        if len(found) > MAX_MERGES:
            raise _fault("tokens", f"over {MAX_MERGES} ways to join tokens", "a real vocabulary")
    return [(left, right) for *_, left, right in sorted(found)]


def _add_special_tokens(tokenizer: Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    added = [
        AddedToken(token, special=kind != USER_DEFINED, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED, UNKNOWN) and token
    ]
    tokenizer.add_tokens(added)


def end_ids(special: Mapping[str, int], named: Iterable[int]) -> list[int]:
    """Ids that end an answer: those that files have named, and what tokens are known to mean.

    `special`: a tokenizer's control tokens by their names.
    """
    known = [special[token] for token in _END_TOKENS if token in special]
    found = dict.fromkeys((*named, *known))
    if all(token in special for token in _ENDS_OF_MESSAGES):
        found.pop(special.get(_END_OF_MESSAGE, -1), None)
        found |= dict.fromkeys(special[token] for token in _ENDS_OF_MESSAGES)
    return list(found)


def _info(
    metadata: Mapping[str, Any], tokens: list[str], kinds: list[int], *, spm: bool, pre: str
) -> dict[str, Any]:
    def token_id(key: str) -> int | None:
        value = metadata.get(f"tokenizer.ggml.{key}")
        return value if type(value) is int and 0 <= value < len(tokens) else None

    bos, eos = token_id("bos_token_id"), token_id("eos_token_id")
    added = {t: i for i, t in enumerate(tokens) if kinds[i] in (CONTROL, USER_DEFINED)}
    named = (eos, token_id("eot_token_id"), token_id("eom_token_id"))
    add_bos = _flag(metadata, "add_bos_token", default=spm or pre in _STARTS_WITH_BOS)
    further = {name: token_id(key) for name, key in _SPECIAL_TOKENS.items()}
    special = {name: tokens[i] for name, i in further.items() if i is not None}
    return {
        "bos": bos,
        "add_bos": add_bos and bos is not None,
        "eos_ids": end_ids(added, (i for i in named if i is not None)),
        "bos_token": None if bos is None else tokens[bos],
        "eos_token": None if eos is None else tokens[eos],
    } | ({"special_tokens": special} if special else {})


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list) or (not value and key == "tokens"):
        raise _fault(key, type(value).__name__, "a list of strings")
    return value


def _token_types(metadata: Mapping[str, Any], size: int) -> list[int]:
    value = metadata.get("tokenizer.ggml.token_type")
    if value is None:
        return [NORMAL] * size
    if not isinstance(value, np.ndarray) or len(value) != size or value.dtype.kind not in "iu":
        raise _fault("token_type", "none that fit", f"{size} integers")
    kinds: list[int] = value.astype(np.int64).tolist()
    return kinds


def _flag(metadata: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(value, bool):
        raise _fault(key, repr(value)[:80], "true or false")
    return value


def _pair(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not (left and space and right):
        raise _fault("merges", repr(merge)[:80], "two tokens and a space")
    return left, right


def _fault(key: str, got: str, expected: str) -> SourceError:
    fix = "use another file of the model, or its Hugging Face directory"
    return SourceError(f"GGUF tokenizer.ggml.{key}", got=got, expected=expected, fix=fix)
