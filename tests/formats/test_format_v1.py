"""A checkpoint that was written once, when version 1 was new. It must load, unchanged, forever."""

import hashlib
from pathlib import Path

from halfbyte.config import RopeConfig, uniform_model
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.names import expected_matrices
from halfbyte.formats.planes import dequantize
from tests.support.tensors import vectors_of

DIRECTORY = Path(__file__).parents[1] / "data" / "format-v1"
EXPECTED = {
    "vectors": "51f258cb6410d01f1c901a54becebc7ca02e375fcbb35a1e3099c0b5ef340659",
    "4 bits": "f26a162aee27f19507936d173411a8f5abebd397f6a7e98d03f9f7a6be32a4ba",
    "8 bits": "55303e1de86b3bcba79bb39668bcc182f4802bd3d1a21ff126ec9539e3dc279c",
}


def digests(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of all vectors, and of all matrices dequantized at 4 and at 8 bits."""
    names = {"vectors": hashlib.sha256(), "4 bits": hashlib.sha256(), "8 bits": hashlib.sha256()}
    for name, _ in vectors_of(checkpoint.config):
        names["vectors"].update(checkpoint.vector(name).astype("<f4").tobytes())
    for name, _ in expected_matrices(checkpoint.config):
        for bits in (4, 8):
            values = dequantize(checkpoint.matrix(name), bits)
            names[f"{bits} bits"].update(values.astype("<f4").tobytes())
    return {name: digest.hexdigest() for name, digest in names.items()}


def test_version_1_loads_forever():
    checkpoint = Checkpoint.open(DIRECTORY)
    assert checkpoint.config == uniform_model(
        family="qwen2",
        vocab_size=48,
        hidden_size=64,
        intermediate_size=96,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_context=128,
        norm_eps=1e-5,
        rope=RopeConfig(kind="llama3", factor=8.0, original_context=64),
        qkv_bias=True,
        bos_id=1,
        eos_ids=(2,),
    )
    assert (checkpoint.group_size, checkpoint.weights) == (32, "planes")
    assert checkpoint.head_bits == {4: 4, 8: 8}
    assert checkpoint.source == {"kind": "random", "seed": 11}
    assert checkpoint.tokenizer_info == {"bos": 1, "add_bos": False, "eos_ids": [2]}
    assert checkpoint.chat_template == "{{ messages }}"
    # every kind of matrix is in it: hi alone, hi and lo, and with offsets
    assert not checkpoint.has_lo("layers.0.mlp.gate")
    assert checkpoint.has_lo("layers.0.attn.q")
    assert checkpoint.matrix("layers.0.mlp.down").offset is not None
    assert digests(checkpoint) == EXPECTED
