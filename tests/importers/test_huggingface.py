import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors

from halfbyte.errors import HalfbyteError, ModelError, SourceError
from halfbyte.formats.names import expected_matrices
from halfbyte.formats.tensor_file import write_tensor_file
from halfbyte.importers.families import hugging_face_name
from halfbyte.importers.huggingface import HuggingFaceSource
from halfbyte.importers.huggingface_config import read_config
from tests.importers.tiny_huggingface import CONFIG, tiny_values, write_model
from tests.support.tensors import vectors_of


def read(**changes):
    values = {**CONFIG, **changes}
    return read_config({k: v for k, v in values.items() if v is not ...}, bos_id=None, eos_ids=())


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_keep_their_bits(tmp_path, dtype, shards):
    source = HuggingFaceSource(write_model(tmp_path / "m", dtype=dtype, shards=shards))
    values = tiny_values(CONFIG, dtype)
    for name, (rows, _) in expected_matrices(source.config):
        wanted = values[hugging_face_name(name)]
        dense = source.matrix(name)
        assert dense.dtype == dtype.lower()
        np.testing.assert_array_equal(dense.values, wanted)
        f32 = wanted.astype(np.float32)
        if dtype == "BF16":
            f32 = (wanted.astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_array_equal(source.rows(name, 1, rows), f32[1:])
        assert source.exact_planes(name) is None
    for name, length in vectors_of(source.config):
        assert source.vector(name).dtype == np.float32
        assert source.vector(name).shape == (length,)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_family_opens(tmp_path, kind, tied):
    config = {**CONFIG, "model_type": kind, "tie_word_embeddings": tied, "sliding_window": 64}
    source = HuggingFaceSource(write_model(tmp_path / "m", config))
    ours = source.config
    assert (ours.family, ours.tied_head) == (kind, tied)
    mixer = ours.attention
    assert (mixer.bias, mixer.qk_norm) == (kind == "qwen2", "head" if kind == "qwen3" else "none")
    assert mixer.window == (64 if kind == "mistral" else None)
    assert (ours.bos_id, ours.eos_ids) == (1, (2, 3))
    assert (mixer.rope.base, ours.norm_eps) == (500000.0, 1e-6)


def test_a_tied_head_stored_twice_is_ignored(tmp_path):
    config = {**CONFIG, "tie_word_embeddings": True}
    values = tiny_values(config) | {"lm_head.weight": np.ones((96, 64), np.float32)}
    values["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    assert HuggingFaceSource(write_model(tmp_path / "m", config, values=values)).config.tied_head


def test_sliding_windows_are_honoured_where_the_config_means_them():
    qwen = {"model_type": "qwen2", "sliding_window": 64}
    assert read(**qwen, use_sliding_window=False).attention.window is None
    assert read(**qwen, use_sliding_window=True, max_window_layers=2).attention.window is None
    assert read(**qwen, use_sliding_window=True, max_window_layers=0).attention.window == 64
    with pytest.raises(SourceError, match="some layers"):
        read(**qwen, use_sliding_window=True, max_window_layers=1)
    assert read(model_type="mistral", sliding_window=None).attention.window is None
    assert read(model_type="mistral").attention.window == 4096


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_is_read_from_old_and_new_keys(key):
    linear = read(**{key: {"type": "linear", "factor": 2.0}}).attention.rope
    assert (linear.kind, linear.factor, linear.base) == ("linear", 2.0, 500000.0)
    llama3 = read(**{key: {**LLAMA3, "rope_theta": 1e4}}).attention.rope
    assert (llama3.kind, llama3.original_context, llama3.base) == ("llama3", 128, 1e4)
    plain = read(
        **{key: {"rope_type": "default", "rope_theta": 7.0}}, rope_theta=...
    ).attention.rope
    assert (plain.kind, plain.base) == ("none", 7.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gemma3"},
        {"model_type": ["llama"]},
        {"model_type": ...},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "llama3", "factor": 8.0}},
        {"rope_scaling": 3},
        {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}},
        {"partial_rotary_factor": 0.5},
        {"rope_theta": -1.0},
        {"rope_theta": "x"},
        {"hidden_size": ...},
        {"hidden_size": 1.5},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 3},
        {"head_dim": 20},
        {"vocab_size": -1},
        {"tie_word_embeddings": "yes"},
        {"rms_norm_eps": 0},
    ],
)
def test_configs_that_cannot_run_are_refused_in_one_line(changes):
    with pytest.raises((SourceError, ModelError)) as caught:
        read(**changes)
    assert "\n" not in str(caught.value)


def drop(name):
    def change(directory):
        values = tiny_values(CONFIG)
        del values[name]
        _rewrite(directory, values)

    return change


def replace(name, array):
    return lambda directory: _rewrite(directory, {**tiny_values(CONFIG), name: array})


def _rewrite(directory, values):
    names = {np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}
    tensors = {name: (names[array.dtype], array) for name, array in values.items()}
    write_tensor_file(directory / "model.safetensors", tensors)


def index(weight_map):
    def change(directory):
        (directory / "model.safetensors").unlink()
        text = json.dumps({"weight_map": weight_map})
        (directory / "model.safetensors.index.json").write_text(text)

    return change


Q = "model.layers.1.self_attn.q_proj.weight"
BROKEN = [
    ("config.json", lambda d: (d / "config.json").write_text("{")),
    ("config.json", lambda d: (d / "config.json").write_text("[]")),
    ("config.json", lambda d: (d / "config.json").write_bytes(b"\xff\xfe{}")),
    ("config.json", lambda d: (d / "config.json").unlink()),
    ("model.safetensors", lambda d: (d / "model.safetensors").unlink()),
    ("truncated|bytes", lambda d: os.truncate(d / "model.safetensors", 5000)),
    ("bytes", lambda d: os.truncate(d / "model.safetensors", 0)),
    (Q, drop(Q)),
    (Q, replace(Q, np.ones((64, 65), np.float32))),
    (Q, replace(Q, np.ones((64, 64), np.uint8))),
    ("o_proj.bias", replace("model.layers.1.self_attn.o_proj.bias", np.ones(64, np.float32))),
    ("plain", index({Q: "../../etc/passwd.safetensors"})),
    ("plain", index({Q: "/abs.safetensors"})),
    ("weight_map", index([])),
    ("gone.safetensors", index({Q: "gone.safetensors"})),
    ("tokenizer.json", lambda d: (d / "tokenizer.json").write_text("{}")),
    ("generation_config.json", lambda d: (d / "generation_config.json").write_text("x")),
]


@pytest.mark.parametrize(("what", "break_it"), BROKEN)
def test_a_broken_directory_is_refused_in_one_line_that_names_the_part(tmp_path, what, break_it):
    directory = write_model(tmp_path / "m")
    break_it(directory)
    with pytest.raises(SourceError, match=what) as caught:
        HuggingFaceSource(directory)
    assert "\n" not in str(caught.value)


def tokenizer_json(path, *, add_bos):
    vocab = {"<s>": 0, "</s>": 1, "<|eot_id|>": 2, "a": 3, "b": 4}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.add_special_tokens(["<s>", "</s>", "<|eot_id|>"])
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    tokenizer.save(str(path / "tokenizer.json"))


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_tokenizer_itself_shows_whether_texts_begin_with_bos(tmp_path, add_bos):
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "x"}
    directory = write_model(tmp_path / "m", tokenizer_config=settings)
    tokenizer_json(directory, add_bos=add_bos)
    source = HuggingFaceSource(directory)
    assert source.tokenizer_info == {
        "bos": 0,
        "add_bos": add_bos,
        "eos_ids": [1, 2, 3],
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    assert source.chat_template == "x"
    (directory / "chat_template.jinja").write_text("from the file")
    assert HuggingFaceSource(directory).chat_template == "from the file"


def test_generation_config_and_end_of_turn_tokens_end_generation(tmp_path):
    config = {**CONFIG, "eos_token_id": 5, "bos_token_id": None}
    directory = write_model(tmp_path / "m", config, generation_config={"eos_token_id": [6, 5]})
    assert HuggingFaceSource(directory).config.eos_ids == (6, 5)
    tokenizer_json(directory, add_bos=False)
    assert HuggingFaceSource(directory).config.eos_ids == (6, 5, 2, 1)


def test_ids_beyond_the_vocabulary_are_left_out_of_the_config(tmp_path):
    config = {**CONFIG, "eos_token_id": 100000, "bos_token_id": 100000}
    ours = HuggingFaceSource(write_model(tmp_path / "m", config)).config
    assert (ours.bos_id, ours.eos_ids) == (None, ())


def test_named_templates_give_the_default_one(tmp_path):
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    directory = write_model(tmp_path / "m", tokenizer_config={"chat_template": named})
    tokenizer_json(directory, add_bos=False)
    assert HuggingFaceSource(directory).chat_template == "d"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("hf") / "m")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_changed_weight_headers_raise_only_our_errors(directory, data):
    path = directory / "model.safetensors"
    if not (directory / "whole").exists():
        (directory / "whole").write_bytes(path.read_bytes())
    content = bytearray((directory / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        source = HuggingFaceSource(directory)
        for name, _ in expected_matrices(source.config):
            source.matrix(name)
    except HalfbyteError as error:
        assert "\n" not in str(error)  # noqa: PT017


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([*CONFIG, "rope_scaling", "sliding_window", "use_sliding_window"]), JSON)
def test_any_json_in_a_config_raises_only_our_errors(key, value):
    try:
        read(**{key: value})
    except HalfbyteError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "value",
    ["2", 2.0, True, [2, "3"], [[2]], {"id": 2}, 1 << 31, 10**4000],
    ids=lambda v: str(v)[:9],
)
@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id"])
@pytest.mark.parametrize("file", ["config", "generation_config"])
def test_ids_that_are_no_ids_are_refused(tmp_path, file, key, value):
    if file == "config":
        write_model(tmp_path / "m", CONFIG | {key: value})
    else:
        write_model(tmp_path / "m", generation_config={key: value})
    with pytest.raises(SourceError, match=f"{file}.json {key}") as caught:
        HuggingFaceSource(tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, -1, []])
def test_a_model_may_have_no_first_token(tmp_path, value):
    source = HuggingFaceSource(write_model(tmp_path / "m", CONFIG | {"bos_token_id": value}))
    assert source.config.bos_id is None


HALVES = ["\ud83d", "\udc00", "x\udfff"]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(
    ("file", "make"),
    [
        ("tokenizer_config", lambda half: {"bos_token": half}),
        ("tokenizer_config", lambda half: {"eos_token": {"content": half}}),
        ("tokenizer_config", lambda half: {"chat_template": "{{ messages }}" + half}),
        ("generation_config", lambda half: {half: 1}),
        ("config", lambda half: CONFIG | {"_name": half}),
    ],
)
def test_half_a_surrogate_pair_in_a_file_is_one_line(tmp_path, file, make, half):
    directory = write_model(tmp_path / "m")
    write_tokenizer(directory)
    (directory / f"{file}.json").write_text(json.dumps(make(half)))
    with pytest.raises(SourceError, match="half a surrogate pair") as caught:
        HuggingFaceSource(directory)
    assert f"{file}.json" in str(caught.value)
    str(caught.value).encode("utf-8")


def test_half_a_surrogate_pair_in_a_tokenizer_is_one_line(tmp_path):
    directory = write_model(tmp_path / "m")
    text = json.dumps(json.loads(write_tokenizer(directory)))
    assert '"a"' in text
    (directory / "tokenizer.json").write_text(text.replace('"a"', '"\\ud83d"', 1))
    with pytest.raises(SourceError, match=r"tokenizer\.json"):
        HuggingFaceSource(directory)


def test_whole_pairs_are_text(tmp_path):
    directory = write_model(tmp_path / "m")
    write_tokenizer(directory)
    text = json.dumps({"chat_template": "\N{GRINNING FACE}{{ messages }}"})
    assert "\\ud83d\\ude00" in text
    (directory / "tokenizer_config.json").write_text(text)
    assert HuggingFaceSource(directory).chat_template == "\N{GRINNING FACE}{{ messages }}"


def write_tokenizer(directory):
    tokenizer_json(directory, add_bos=False)
    return (directory / "tokenizer.json").read_text(encoding="utf-8")
