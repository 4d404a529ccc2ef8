"""Small tokenizers of every kind that models come with."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

WORDS = ["Hello", "▁Hello", "▁world", "▁", "▁▁", "lo", "▁a", "a", "b", "w", ".", "é", "▁日", "s"]


def added(content: str, *, special: bool = False) -> AddedToken:
    return AddedToken(content, special=special, normalized=False)


def byte_level() -> Tokenizer:
    """GPT-2, Llama 3, Qwen."""
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {"he": len(vocab), "Ġw": len(vocab) + 1}
    tokenizer = Tokenizer(models.BPE(vocab, [("h", "e"), ("Ġ", "w")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_added(tokenizer)


def sentencepiece() -> Tokenizer:
    """Llama 2, Mistral, Phi-3: a space before the first word, bytes for what is unknown."""
    tokenizer = _pieces()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return _with_added(tokenizer)


def sentencepiece_without_prefix() -> Tokenizer:
    """Gemma."""
    tokenizer = _pieces()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return _with_added(tokenizer)


def metaspace() -> Tokenizer:
    """XGLM, T5: SentencePiece pieces without bytes."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _with_added(tokenizer)


def wordpiece() -> Tokenizer:
    """BERT."""
    words = ["[UNK]", "hello", "##lo", "##s", "world", ".", ",", "'", "n", "##t", "do", "日"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _with_added(tokenizer)


def suffixes() -> Tokenizer:
    """GPT-1, CLIP: the end of a word is marked."""
    words = ["h", "e", "he", "he</w>", "h</w>", "e</w>", "é</w>"]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], end_of_word_suffix="</w>")
    )
    tokenizer.decoder = decoders.BPEDecoder()
    return _with_added(tokenizer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    f.__name__: f
    for f in (
        byte_level,
        sentencepiece,
        sentencepiece_without_prefix,
        metaspace,
        wordpiece,
        suffixes,
    )
}


def _pieces() -> Tokenizer:
    """Bytes, letters, and words with all their beginnings, so that letters join up to a word."""
    begun = [word[:n] for word in WORDS for n in range(1, len(word) + 1)]
    letters = [letter for word in WORDS for letter in word]
    tokens = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *letters, *begun]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [(word[:n], word[n]) for word in WORDS for n in range(1, len(word))]
    return Tokenizer(
        models.BPE(
            vocab,
            list(dict.fromkeys(merges)),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )


def _with_added(tokenizer: Tokenizer) -> Tokenizer:
    """Control tokens, and added ones that are plain text, as `<tool_call>` of Qwen is."""
    tokenizer.add_special_tokens([added(t, special=True) for t in ("<s>", "</s>", "<|turn|>")])
    tokenizer.add_tokens([added(t) for t in ("<tool_call>", "  two ", "«日本»")])
    return tokenizer
