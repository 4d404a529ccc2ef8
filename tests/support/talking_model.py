"""A tiny random checkpoint that can read and write: byte-level tokenizer, chat template."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from halfbyte.formats.names import expected_tensors
from halfbyte.formats.weights import Dense
from halfbyte.formats.writer import CheckpointWriter
from tests.support.tiny_models import CONFIGS, Kind, make

BOS, EOS, TURN = 256, 257, 258
VOCAB = 272
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no such role: ' + m.role) }}{% endif %}"
    "<turn>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant: {% endif %}"
)


@cache
def tokenizer(added: tuple[AddedToken, ...] = ()) -> Tokenizer:
    """Bytes as tokens 0 .. 255, three special tokens, a few merges, and what else is added."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    merges = [("t", "h"), ("th", "e"), ("i", "n")]
    for i, (a, b) in enumerate(merges):
        vocab[a + b] = 259 + i
    vocab |= {"<bos>": BOS, "<eos>": EOS, "<turn>": TURN}
    result = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens([AddedToken(t, special=True) for t in ("<bos>", "<eos>", "<turn>")])
    result.add_tokens(list(added))
    return result


def write_talking_model(
    dest: Path,
    *,
    kind: Kind | None = None,
    text: bool = True,
    template: str | None = CHAT_TEMPLATE,
    max_context: int = 512,
    added: tuple[AddedToken, ...] = (),
    other: Tokenizer | None = None,
) -> Path:
    """A llama of 2 layers; `text` False leaves tokenizer and template out.

    `other`: a tokenizer with <s> and </s> in place of the usual one.
    """
    spelling = other or tokenizer(added)
    bos, eos = (BOS, EOS) if other is None else map(other.token_to_id, ("<s>", "</s>"))
    vocab = VOCAB if other is None else other.get_vocab_size() + 6
    config = replace(
        CONFIGS["llama"], vocab_size=vocab, max_context=max_context, bos_id=bos, eos_ids=(eos,)
    )
    storage = kind or Kind()
    weights = make(config, storage, 3)
    with CheckpointWriter(dest) as writer:
        for name, shape in expected_tensors(config):
            if len(shape) == 1:
                writer.add_vector(name, weights.vector(name))
            else:
                writer.add_matrix(name, weights.matrix(name))
        dense = isinstance(weights.matrix("embed"), Dense)
        return writer.finish(
            config,
            group_size=None if dense else storage.group_size,
            head_bits={4: 4, 8: 8},
            source={"kind": "random"},
            tokenizer_json=spelling.to_str() if text else None,
            tokenizer_info={
                "bos": bos,
                "add_bos": True,
                "eos_ids": [eos],
                "bos_token": spelling.id_to_token(bos),
                "eos_token": spelling.id_to_token(eos),
            },
            chat_template=template if text else None,
        )
