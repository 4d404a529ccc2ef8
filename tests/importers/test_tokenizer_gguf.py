import numpy as np
import pytest
from tokenizers import Tokenizer

from halfbyte.errors import SourceError
from halfbyte.importers.tokenizer_gguf import end_ids, read_tokenizer
from tests.importers.tiny_gguf import GPT2_TOKENS, gpt2_tokenizer

TEXTS = ["hello world", " hello  hello\n\n x = 1234;", "naïve 你好 🙂", "don't DON'T", "a\r\n\tb  "]
PRES = [
    "qwen2",
    "deepseek-r1-qwen",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "tekken",
    "smollm",
    "starcoder",
]
PRES += ["refact", "command-r", "codeshell", "default", "gpt-2", "gpt2"]


def load(metadata):
    files = read_tokenizer(metadata)
    return Tokenizer.from_str(files.json), files


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("pre", PRES)
def test_byte_level_text_round_trips(pre):
    tokenizer, _ = load(gpt2_tokenizer(pre))
    for text in TEXTS:
        ids = encode(tokenizer, text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("qwen2", "it's 1234  x\n\ny", ["it", "'s", "Ġ", "1", "2", "3", "4", "Ġ", "Ġx", "ĊĊ", "y"]),
        ("llama-bpe", "it's 1234", ["it", "'s", "Ġ", "123", "4"]),
        ("smollm", "it's 1234  x", ["it", "'s", "Ġ", "1", "2", "3", "4", "Ġ", "Ġx"]),
        ("default", "it's 1234  x", ["it", "'s", "Ġ1234", "Ġ", "Ġx"]),
        ("tekken", "camelCase 12", ["camel", "Case", "Ġ", "1", "2"]),
    ],
)
def test_each_pre_tokenizer_cuts_as_its_model_was_trained(pre, text, words):
    tokenizer, _ = load(gpt2_tokenizer(pre))
    assert [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] == words


def test_merges_and_special_tokens_give_their_ids():
    tokenizer, files = load(gpt2_tokenizer())
    ids = encode(tokenizer, "<|im_start|>hello hello<|im_end|>").ids
    assert [GPT2_TOKENS[i] for i in ids] == ["<|im_start|>", "hello", "Ġhello", "<|im_end|>"]
    assert tokenizer.decode(ids) == "hello hello"
    start, end = GPT2_TOKENS.index("<|im_start|>"), GPT2_TOKENS.index("<|im_end|>")
    assert files.info == {
        "bos": start,
        "add_bos": False,
        "eos_ids": [end],
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
    }
    assert files.chat_template == "{{ messages }}"


def test_a_word_in_a_llama3_vocabulary_wins_over_merges():
    metadata = gpt2_tokenizer("llama-bpe")
    metadata["tokenizer.ggml.merges"] = []
    tokenizer, files = load(metadata)
    assert encode(tokenizer, "hello").tokens == ["hello"]
    assert files.info["add_bos"]


def test_end_of_turn_tokens_end_generation_beside_eos():
    metadata = gpt2_tokenizer()
    metadata["tokenizer.ggml.eos_token_id"] = GPT2_TOKENS.index("<|im_start|>")
    _, files = load(metadata)
    named = [GPT2_TOKENS[i] for i in files.info["eos_ids"]]
    assert named == ["<|im_start|>", "<|im_end|>"]


def test_where_answers_have_several_messages_the_end_of_one_ends_no_answer():
    """gpt-oss writes its analysis, <|end|>, then its answer."""
    special = {"<|return|>": 2, "<|call|>": 3, "<|end|>": 4, "<|endoftext|>": 5}
    assert sorted(end_ids(special, [2])) == [2, 3, 5]
    assert sorted(end_ids(special, [4])) == [2, 3, 5]  # llama.cpp's converter names it `eot`
    del special["<|call|>"]
    assert sorted(end_ids(special, [2])) == [2, 4, 5]  # Phi has <|end|> at the end of a turn


def test_a_gguf_file_of_several_messages_ends_with_the_answer():
    metadata = gpt2_tokenizer()
    names = ["<|return|>", "<|call|>", "<|end|>"]
    metadata["tokenizer.ggml.tokens"] = [*GPT2_TOKENS, *names]
    kinds = list(metadata["tokenizer.ggml.token_type"]) + [3] * 3
    metadata["tokenizer.ggml.token_type"] = np.array(kinds, np.int32)
    first = len(GPT2_TOKENS)
    metadata["tokenizer.ggml.eos_token_id"] = first
    metadata["tokenizer.ggml.eot_token_id"] = first + 2
    _, files = load(metadata)
    assert first + 2 not in files.info["eos_ids"]
    assert {first, first + 1} <= {*files.info["eos_ids"]}


SPM = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
SPM += ["▁", "h", "e", "l", "o", "he", "ll", "▁he", "llo", "▁hello", "<|user|>"]


def sentencepiece(**changes):
    kinds = [2, 3, 3, *[6] * 256, *[1] * 10, 4]
    scores = [0.0] * (len(SPM) - 6) + [-1.0, -2.0, -3.0, -4.0, -5.0, 0.0]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": SPM,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        **{f"tokenizer.ggml.{key}": value for key, value in changes.items()},
    }


def test_sentencepiece_joins_by_score_and_falls_back_to_bytes():
    tokenizer, files = load(sentencepiece())
    assert encode(tokenizer, "hello").tokens == ["▁hello"]
    assert encode(tokenizer, "hex").tokens == ["▁he", "<0x78>"]
    for text in ["hello", "hello hello", "hé 🙂\n"]:
        assert tokenizer.decode(encode(tokenizer, text).ids) == text
    assert (files.info["add_bos"], files.info["eos_ids"]) == (True, [2])


def test_sentencepiece_prefix_is_a_choice_of_the_file():
    tokenizer, _ = load(sentencepiece(add_space_prefix=False))
    assert encode(tokenizer, "hell").tokens == ["he", "ll"]
    assert tokenizer.decode(encode(tokenizer, "hell").ids) == "hell"


def test_user_defined_tokens_are_found_but_not_skipped_when_decoding():
    tokenizer, _ = load(sentencepiece())
    ids = encode(tokenizer, "<|user|>hello").ids
    assert ids[0] == SPM.index("<|user|>")
    assert "<|user|>" in tokenizer.decode(ids)


def test_a_file_without_tokenizer_has_none():
    for metadata in ({}, {"tokenizer.ggml.model": "no_vocab"}):
        files = read_tokenizer(metadata)
        assert (files.json, files.chat_template, files.info) == (None, None, {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "bert"),
        ("model", np.zeros(3)),
        ("pre", "unheard-of"),
        ("tokens", np.arange(3)),
        ("tokens", []),
        ("merges", ["nospace"]),
        ("merges", ["not there"]),
        ("merges", None),
        ("token_type", np.arange(3)),
        ("add_bos_token", np.zeros(2)),
    ],
)
def test_an_unusable_tokenizer_names_its_metadata(key, value):
    metadata = gpt2_tokenizer()
    metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(SourceError, match=r"tokenizer\.ggml\."):
        read_tokenizer(metadata)


def test_sentencepiece_needs_a_score_a_token():
    with pytest.raises(SourceError, match="scores"):
        read_tokenizer(sentencepiece(scores=np.zeros(3, np.float32)))
