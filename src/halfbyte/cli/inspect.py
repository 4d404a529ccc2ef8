"""`halfbyte inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfbyte.cli.options import Ckpt, Json
from halfbyte.cli.output import conversion_progress, gigabytes, print_json

if TYPE_CHECKING:
    from halfbyte.config import LayerConfig
    from halfbyte.formats.checkpoint import Checkpoint


def inspect(ckpt: Ckpt, json: Json = False) -> None:
    """Show what a checkpoint is: its model, its planes, which levels it runs, where it is from."""
    from halfbyte.formats.checkpoint import Checkpoint
    from halfbyte.importers.resolve import resolve

    with conversion_progress() as progress:
        checkpoint = Checkpoint.open(resolve(ckpt, progress=progress))
    described = _describe(checkpoint)
    if json:
        print_json(described)
        return
    config = checkpoint.config
    rows = [
        ("path", str(checkpoint.path)),
        (
            "model",
            f"{config.family}, {config.num_layers} layers of {config.hidden_size}, "
            + " or ".join(_layers_line(kind) for kind in config.layer_kinds),
        ),
        ("vocabulary", f"{config.vocab_size}, {'tied' if config.tied_head else 'own'} head"),
        ("context", f"{config.max_context} tokens"),
        ("weights", _weights_line(checkpoint)),
        ("size", gigabytes(checkpoint.num_bytes)),
        ("levels", ", ".join(levels(checkpoint))),
        ("text", _text_line(checkpoint)),
        *((f"source: {key}", str(value)) for key, value in checkpoint.source.items()),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def levels(checkpoint: Checkpoint) -> list[str]:
    """Levels that the stored planes can run."""
    if checkpoint.weights == "dense":
        return ["f32"]
    eight = ["w8a8", "w8a16"] if _planes(checkpoint) == 8 else []
    return ["w4a4", "w4a8", "w4a16", *eight]


def _planes(checkpoint: Checkpoint) -> int:
    return 8 if checkpoint.has_lo("layers.0.mlp.down") else 4


def _layers_line(kind: LayerConfig) -> str:
    from halfbyte.config import Experts

    mixer, inner = kind.mixer, kind.feed_forward
    parts = [f"{mixer.num_heads} heads on {mixer.num_kv_heads} KV heads of {mixer.head_dim}"]
    if mixer.window:
        parts.append(f"a window of {mixer.window}")
    if mixer.rope is None:
        parts.append("no positions")
    if isinstance(inner, Experts):
        parts.append(f"{inner.top_k} of {inner.count} experts")
    return ", ".join(parts)


def _describe(checkpoint: Checkpoint) -> dict[str, object]:
    from halfbyte.config import model_values

    return {
        "path": str(checkpoint.path),
        "model": model_values(checkpoint.config),
        "weights": checkpoint.weights,
        "planes": _planes(checkpoint) if checkpoint.weights == "planes" else None,
        "group_size": checkpoint.group_size,
        "head_bits": {str(bits): planes for bits, planes in checkpoint.head_bits.items()},
        "bytes": checkpoint.num_bytes,
        "files": checkpoint.files,
        "levels": levels(checkpoint),
        "tokenizer": checkpoint.tokenizer_path is not None,
        "chat_template": checkpoint.chat_template is not None,
        "source": checkpoint.source,
    }


def _weights_line(checkpoint: Checkpoint) -> str:
    if checkpoint.weights == "dense":
        return "dense"
    heads = ", ".join(f"w{b}: {p}" for b, p in sorted(checkpoint.head_bits.items()))
    scales = ", integer scales" if checkpoint.has_units else ""
    return (
        f"{_planes(checkpoint)} bits in planes, groups of {checkpoint.group_size}{scales}, "
        f"head bits {heads}"
    )


def _text_line(checkpoint: Checkpoint) -> str:
    have = [
        name
        for name, there in (
            ("tokenizer", checkpoint.tokenizer_path is not None),
            ("chat template", checkpoint.chat_template is not None),
        )
        if there
    ]
    return " and ".join(have) or "no tokenizer: token ids only"
