from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from halfbyte.errors import HalfbyteError, ModelError, SourceError
from halfbyte.formats.names import expected_matrices
from halfbyte.formats.planes import dequantize
from halfbyte.importers.families import gguf_name, half_split_rows
from halfbyte.importers.gguf_blocks import to_f32, to_planes
from halfbyte.importers.gguf_source import GgufSource
from tests.importers.tiny_gguf import HEAD, HEADS, HIDDEN, KV_HEADS, VOCAB, TinyGguf
from tests.support.tensors import vectors_of

WRITABLE = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q8_0]


@pytest.mark.parametrize("kind", WRITABLE)
def test_values_are_those_of_the_reference_library(tmp_path, kind):
    tiny = TinyGguf(arch="qwen2", matrix_type=kind, outer_type=kind)
    source = GgufSource(tiny.write(tmp_path / "m.gguf"))
    for name, (rows, _) in expected_matrices(source.config):
        wanted = tiny.values[gguf_name(name)]
        np.testing.assert_array_equal(source.rows(name, 0, rows), wanted)
        np.testing.assert_array_equal(source.rows(name, 3, 9), wanted[3:9])
        dense = source.matrix(name)
        assert dense.dtype == {Type.F16: "f16", Type.BF16: "bf16"}.get(kind, "f32")
        values = dense.values
        if dense.dtype == "bf16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(values.astype(np.float32), wanted)
    for name, _ in vectors_of(source.config):
        np.testing.assert_array_equal(source.vector(name), tiny.values[gguf_name(name)])


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q5_K, Type.Q6_K])
def test_super_blocks_are_dequantized_row_by_row(kind):
    """The library cannot write these types: random blocks with finite scales stand in."""
    rng = np.random.default_rng(0)
    block_bytes = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (12, block_bytes), dtype=np.uint8)
    scales = rng.normal(size=(12, 2)).astype(np.float16).view(np.uint8)
    if kind == Type.Q6_K:
        blocks[:, -2:] = scales[:, :2]
    else:
        blocks[:, :4] = scales
    rows = blocks.reshape(4, -1)  # three blocks a row
    wanted = gguf.quants.dequantize(rows, kind)
    assert wanted.shape == (4, 768)
    np.testing.assert_array_equal(to_f32(rows[1:3], kind.name), wanted[1:3])


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_architecture_has_its_tensors(tmp_path, arch, tied):
    source = GgufSource(TinyGguf(arch=arch, tied=tied).write(tmp_path / "m.gguf"))
    config = source.config
    assert (config.family, config.tied_head) == (arch, tied)
    assert (config.attention.bias, config.attention.qk_norm) == (
        arch == "qwen2",
        "head" if arch == "qwen3" else "none",
    )
    assert (config.attention.head_dim, config.attention.num_kv_heads, config.vocab_size) == (
        HEAD,
        KV_HEADS,
        VOCAB,
    )
    assert config.norm_eps == 1e-5  # not the float64 of its float32
    assert source.head_bits == {4: 4, 8: 8}


def test_llama_rows_of_q_and_k_return_to_half_split_order(tmp_path):
    """GGUF stores head rows pairwise; the same permutation is written here the other way round."""
    tiny = TinyGguf(arch="llama", matrix_type=Type.F32)
    source = GgufSource(tiny.write(tmp_path / "m.gguf"))
    for name, heads in (("layers.1.attn.q", HEADS), ("layers.1.attn.k", KV_HEADS)):
        ours = source.matrix(name).values
        pairwise = ours.reshape(heads, 2, HEAD // 2, HIDDEN).swapaxes(1, 2).reshape(ours.shape)
        np.testing.assert_array_equal(pairwise, tiny.values[gguf_name(name)])
        np.testing.assert_array_equal(source.rows(name, 5, 20), ours[5:20])
    values = source.matrix("layers.1.attn.v").values
    np.testing.assert_array_equal(values, tiny.values["blk.1.attn_v.weight"])


def test_half_split_rows_is_a_permutation_inside_each_head():
    rows = half_split_rows(3, 8)
    assert rows[:8].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert sorted(rows) == list(range(24))
    assert (rows // 8 == np.arange(24) // 8).all()


def _blocks(scale_bytes: int, code_bytes: int):
    """Random quantization blocks [2 rows, 3 blocks]: finite f16 fields, then code bytes."""
    fields = scale_bytes // 2
    scales = arrays(
        np.float16, (2, 3, fields), elements=st.floats(-100, 100, width=16, allow_subnormal=True)
    )
    codes = arrays(np.uint8, (2, 3, code_bytes), elements=st.integers(0, 255))
    return st.tuples(scales, codes).map(
        lambda pair: np.concatenate(
            [np.ascontiguousarray(pair[0]).view(np.uint8), pair[1]], axis=2
        ).reshape(2, -1)
    )


@settings(deadline=None)
@given(_blocks(2, 16))
def test_q4_0_planes_have_the_file_s_bits(raw):
    planes = to_planes(raw, "Q4_0")
    wanted = gguf.quants.dequantize(raw, Type.Q4_0)
    assert planes.lo is None
    assert planes.offset is None
    np.testing.assert_array_equal(dequantize(planes, 8).view(np.uint32), wanted.view(np.uint32))


@settings(deadline=None)
@given(_blocks(4, 16))
def test_q4_1_planes_have_the_file_s_bits_or_are_refused(raw):
    planes = to_planes(raw, "Q4_1")
    if planes is None:
        return
    wanted = gguf.quants.dequantize(raw, Type.Q4_1)
    np.testing.assert_array_equal(dequantize(planes, 8).view(np.uint32), wanted.view(np.uint32))


def test_q4_1_of_ordinary_weights_is_never_refused():
    rng = np.random.default_rng(3)
    for size in (1e-3, 0.02, 1.0, 30.0):
        raw = gguf.quants.quantize((rng.normal(size=(8, 256)) * size).astype(np.float32), Type.Q4_1)
        planes = to_planes(raw, "Q4_1")
        wanted = gguf.quants.dequantize(raw, Type.Q4_1)
        np.testing.assert_array_equal(dequantize(planes, 8).view(np.uint32), wanted.view(np.uint32))


def test_q4_1_with_an_inexact_offset_is_refused():
    block = np.zeros((1, 20), np.uint8)
    block[0, :4] = np.array([2.0**-24, 60000.0], np.float16).view(np.uint8)
    assert to_planes(block, "Q4_1") is None


@settings(deadline=None)
@given(_blocks(2, 32))
def test_q8_0_planes_have_the_file_s_values(raw):
    """Equal numbers; a zero may change its sign where a block's signs are flipped."""
    planes = to_planes(raw, "Q8_0")
    np.testing.assert_array_equal(dequantize(planes, 8), gguf.quants.dequantize(raw, Type.Q8_0))


@pytest.mark.parametrize(
    ("low", "high", "offsets"), [(-128, 119, False), (-119, 127, False), (-128, 127, True)]
)
def test_q8_0_needs_offsets_only_where_both_ends_are_out_of_reach(low, high, offsets):
    rng = np.random.default_rng(0)
    raw = np.zeros((4, 34), np.uint8)
    raw[:, :2] = np.array([0.01], np.float16).view(np.uint8)
    codes = rng.integers(low, high + 1, (4, 32)).astype(np.int8)
    codes[:, 0], codes[:, 1] = low, high
    raw[:, 2:] = codes.view(np.uint8)
    planes = to_planes(raw, "Q8_0")
    assert (planes.offset is not None) == offsets
    np.testing.assert_array_equal(dequantize(planes, 8), gguf.quants.dequantize(raw, Type.Q8_0))


def test_scales_beyond_f16_or_not_finite_are_not_exact():
    for kind, size, scale in (("Q8_0", 34, 5000.0), ("Q8_0", 34, np.nan), ("Q4_0", 18, np.inf)):
        raw = np.zeros((1, size), np.uint8)
        raw[0, :2] = np.array([scale], np.float16).view(np.uint8)
        assert to_planes(raw, kind) is None
    assert to_planes(np.zeros((1, 22), np.uint8), "Q5_0") is None


def test_rope_factors_and_linear_scaling_reach_the_config(tmp_path):
    factors = np.linspace(1, 8, HEAD // 2).astype(np.float32)
    source = GgufSource(TinyGguf(extra={"rope_freqs.weight": factors}).write(tmp_path / "a.gguf"))
    assert source.config.attention.rope.frequency_factors == tuple(factors.tolist())
    numbers = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    rope = GgufSource(TinyGguf(numbers=numbers).write(tmp_path / "b.gguf")).config.attention.rope
    assert (rope.kind, rope.factor) == ("linear", 4.0)


def test_a_sliding_window_makes_a_mistral(tmp_path):
    numbers = {"attention.sliding_window": 128}
    config = GgufSource(TinyGguf(numbers=numbers).write(tmp_path / "a.gguf")).config
    assert (config.family, config.attention.window) == ("mistral", 128)
    numbers = {"attention.sliding_window": 4096}  # longer than the context: no window
    assert (
        GgufSource(TinyGguf(numbers=numbers).write(tmp_path / "b.gguf")).config.attention.window
        is None
    )


REFUSED = {
    "architecture": TinyGguf(arch="gpt2"),
    "expert_count": TinyGguf(arch="qwen2", numbers={"expert_count": 8}),
    r"blk\.0\.ffn_gate_inp": TinyGguf(numbers={"expert_count": 8}),
    "rope.scaling.type": TinyGguf(numbers={"rope.scaling.type": "yarn"}),
    "rope.dimension_count": TinyGguf(numbers={"rope.dimension_count": 8}),
    "attention.value_length": TinyGguf(numbers={"attention.value_length": 32}),
    "attention.head_count": TinyGguf(numbers={"attention.head_count": 0}),
    "head_dim": TinyGguf(numbers={"attention.head_count": 8}),
    "block_count": TinyGguf(numbers={"block_count": -1.5}),
    "embedding_length": TinyGguf(numbers={"embedding_length": "64"}),
    "norm_eps": TinyGguf(numbers={"attention.layer_norm_rms_epsilon": 0.0}),
    r"blk\.2\.attn_norm": TinyGguf(numbers={"block_count": 3}),
    r"blk\.1\.attn_k": TinyGguf(numbers={"block_count": 1}),
    "shape": TinyGguf(numbers={"feed_forward_length": 128}),
    "no token_embd": TinyGguf(drop=("token_embd.weight",)),
    r"blk\.1\.ffn_up": TinyGguf(drop=("blk.1.ffn_up.weight",)),
    "attn_output.bias": TinyGguf(extra={"blk.0.attn_output.bias": np.ones(4, np.float32)}),
    "rope_freqs": TinyGguf(extra={"rope_freqs.weight": np.ones(3, np.float32)}),
    "positive numbers": TinyGguf(extra={"rope_freqs.weight": np.zeros(8, np.float32)}),
    "tokens": TinyGguf(
        metadata={
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [f"t{i}" for i in range(VOCAB + 1)],
            "tokenizer.ggml.merges": ["t 1"],
        }
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_run_is_refused_in_one_line_that_names_it(tmp_path, what):
    path = REFUSED[what].write(tmp_path / "m.gguf")
    with pytest.raises((SourceError, ModelError), match=what) as caught:
        GgufSource(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"GGUF\x03\0\0\0", b"PK\x03\x04" * 9, b"GGUF\0\0\0\x03"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(SourceError):
        GgufSource(tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def file_bytes(tmp_path_factory) -> bytes:
    tiny = TinyGguf(layers=1, outer_type=Type.Q4_1)
    return tiny.write(tmp_path_factory.mktemp("gguf") / "m.gguf").read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "m.gguf"


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_a_truncated_file_is_always_refused(file_bytes, scratch, data):
    scratch.write_bytes(file_bytes[: data.draw(st.integers(0, len(file_bytes) - 1))])
    with pytest.raises(SourceError):
        GgufSource(scratch)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_changed_header_bytes_raise_only_our_errors(file_bytes, scratch, data):
    header = file_bytes.index(b"output_norm.weight") + 64
    content = bytearray(file_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, header))] = data.draw(st.integers(0, 255))
    scratch.write_bytes(content)
    try:
        source = GgufSource(scratch)
        for name, (rows, _) in expected_matrices(source.config):
            assert source.rows(name, 0, rows).shape[0] == rows
        for name, _ in vectors_of(source.config):
            source.vector(name)
    except HalfbyteError as error:
        assert "\n" not in str(error)  # noqa: PT017
