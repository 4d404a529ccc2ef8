from dataclasses import replace

import numpy as np
import pytest

from halfbyte import LLM, SamplingParams
from halfbyte.calibration.quantize import (
    QuantizeOptions,
    check_scheme,
    four_bit_share,
    quantize,
)
from halfbyte.calibration.text import Amount
from halfbyte.config import Level
from halfbyte.errors import ArgumentError, HalfbyteError
from halfbyte.formats.checkpoint import Checkpoint
from halfbyte.formats.names import expected_matrices, site_inputs
from halfbyte.formats.planes import dequantize
from halfbyte.importers.convert import open_source
from halfbyte.quantize.schemes import SCHEMES, scheme_named
from tests.calibration.models import model, text
from tests.config.test_model import MODEL
from tests.support.runtimes import all_logits, build, relative_error
from tests.support.tiny_models import CONFIGS

AMOUNT = Amount(tokens=512, length=64)


@pytest.fixture
def source(tmp_path):
    return model(tmp_path / "model")


def options(tmp_path, **changes):
    changes = {"calibration": text(tmp_path / "text.txt"), "amount": AMOUNT, "threads": 2} | changes
    return QuantizeOptions(**changes)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("planes", [8, 4])
def test_every_scheme_makes_a_checkpoint_that_runs(tmp_path, source, scheme, planes):
    dest = tmp_path / "out"
    quantize(source, dest, options(tmp_path, scheme=scheme, planes=planes))
    llm = LLM(dest, None, threads=2, num_tokens=256)
    done = llm.generate("fox", SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))[0]
    assert len(done.token_ids) == 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "out", "text.txt"]
    assert scheme in Checkpoint.open(dest).source["method"]


def test_weights_stay_near_the_source(tmp_path, source):
    dest = tmp_path / "out"
    quantize(source, dest, options(tmp_path))
    checkpoint, dense = Checkpoint.open(dest), open_source(source)
    for name, _ in expected_matrices(dense.config):
        wanted = dense.matrix(name).values
        got = dequantize(checkpoint.matrix(name), 8)
        assert np.linalg.norm(got - wanted) < 0.03 * np.linalg.norm(wanted), name


def test_wide_inputs_bring_four_planes_nearer_to_the_source(tmp_path, source):
    dense = open_source(source)
    level = Level.parse("w4a16")
    tokens = np.arange(48, dtype=np.int32) % dense.config.vocab_size
    wanted = all_logits(build("native-scalar", dense), tokens, Level.parse("f32"))
    errors = []
    for wide in (0.0, 0.25, 1.0):
        dest = tmp_path / f"out{wide}"
        quantize(source, dest, options(tmp_path, planes=4, wide=wide))
        checkpoint = Checkpoint.open(dest)
        groups = {site: inputs // 32 for site, inputs in site_inputs(checkpoint.config).items()}
        wide_groups = {site: max(1, round(wide * n)) for site, n in groups.items()}
        assert checkpoint.wide_groups == (wide_groups if wide else {})
        got = all_logits(build("native-scalar", checkpoint), tokens, level)
        errors.append(relative_error(got, wanted))
    assert errors[2] < 0.55 * errors[0]  # what is left is the embedding, of 4 planes
    assert errors[1] < 0.9 * errors[0]


def test_gptq_of_four_planes_has_wide_inputs_and_a_small_head_unless_asked_otherwise(
    tmp_path, source
):
    def made(**changes):
        dest = quantize(source, tmp_path / str(len(seen)), options(tmp_path, **changes))
        seen.append(Checkpoint.open(dest))
        return seen[-1]

    seen: list[Checkpoint] = []
    plain = made(planes=4)
    assert plain.wide_groups == made(planes=4, wide=0.22).wide_groups != {}
    for other in (made(planes=4, wide=0.0), made(planes=8), made(planes=4, scheme="rtn")):
        assert other.wide_groups == {}
    assert [c.matrix("head").lo_bits for c in seen] == [2, 2, 2, 4, 2]
    assert {c.manifest.version for c in seen} == {4}
    older = made(planes=4, scales="f16")
    assert (older.manifest.version, older.matrix("head").lo_bits) == (2, 4)
    assert "int8+offset scales" in plain.source["method"]


def test_wide_models_have_smaller_shares(source):
    config = open_source(source).config
    assert four_bit_share(config) == 0.22
    assert four_bit_share(replace(config, hidden_size=1536)) < 0.1


@pytest.mark.parametrize("scheme", ["rtn", "gptq", "gptq-act-order", "quarot", "atom", "awq-gptq"])
@pytest.mark.parametrize("scales", ["int8", "int8+offset"])
def test_every_scheme_takes_every_form_of_scales(tmp_path, source, scheme, scales):
    dest = quantize(source, tmp_path / "out", options(tmp_path, scheme=scheme, scales=scales))
    planes = Checkpoint.open(dest).matrix("layers.0.mlp.down")
    assert planes.scale.dtype == np.int8
    assert (planes.offset is None) == (scales == "int8")


def test_sites_can_have_shares_of_their_own(tmp_path, source):
    shares = {"attn.qkv": 0.5, "attn.o": 0.25, "mlp.gate_up": 0.1, "mlp.down": 0.75}
    checkpoint = Checkpoint.open(
        quantize(source, tmp_path / "out", options(tmp_path, planes=4, wide=shares))
    )
    inputs = site_inputs(checkpoint.config)
    wanted = {site: max(1, round(share * (inputs[site] // 32))) for site, share in shares.items()}
    assert checkpoint.wide_groups == wanted
    assert "wide inputs: 0.5 of attn.qkv" in checkpoint.source["method"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wide": -0.1}, "wide: got -0.1, expected a number, 0 < x <= 1"),
        ({"wide": 1.5}, "wide: got 1.5, expected a number, 0 < x <= 1"),
        ({"wide": 0.1, "scheme": "quarot"}, "wide: got scheme quarot"),
        ({"wide": 0.1, "scheme": "gptq-act-order"}, "wide: got scheme gptq-act-order"),
    ],
)
def test_wide_inputs_that_cannot_be_are_refused(tmp_path, source, changes, message):
    with pytest.raises(ArgumentError, match=message):
        quantize(source, tmp_path / "out", options(tmp_path, planes=4, **changes))


def test_without_a_file_the_model_writes_its_own_text(tmp_path, source):
    told = []
    plain = options(tmp_path, calibration=None)
    quantize(source, tmp_path / "a", plain, tell=told.append)
    assert "the model writes 512 tokens" in told[0]
    quantize(source, tmp_path / "b", plain)
    for name in ("layer-000.safetensors", "embed.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_text_that_is_too_short_is_refused(tmp_path, source):
    short = options(tmp_path, calibration=text(tmp_path / "short.txt", 300))
    with pytest.raises(ArgumentError, match=r"got 300 tokens, expected at least 512; .*--tokens"):
        quantize(source, tmp_path / "out", short)
    with pytest.raises(ArgumentError, match=r"missing\.txt"):
        quantize(source, tmp_path / "o", options(tmp_path, calibration=tmp_path / "missing.txt"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_refused_by_name(tmp_path, bad):
    from tests.importers.tiny_huggingface import CONFIG, tiny_values, write_model

    values = tiny_values(CONFIG)
    values["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    source = write_model(tmp_path / "model", values=values)
    with pytest.raises(HalfbyteError, match=r"layers\.1\.mlp\.up.*NaN or infinity"):
        quantize(source, tmp_path / "out", QuantizeOptions(scheme="rtn"))


def test_a_linear_that_reads_only_zeros_is_refused_by_name(tmp_path):
    from tests.calibration.models import byte_tokenizer
    from tests.importers.tiny_huggingface import CONFIG, tiny_values, write_model

    config = CONFIG | {"vocab_size": 288}
    values = tiny_values(config)
    values["model.layers.1.self_attn.v_proj.weight"][:] = 0
    source = write_model(tmp_path / "model", config, values=values, tokenizer=byte_tokenizer())
    with pytest.raises(HalfbyteError, match=r"layers\.1\.attn\.o.*all zero.*--scheme rtn"):
        quantize(source, tmp_path / "out", options(tmp_path, scheme="gptq"))


def test_sizes_and_destinations_that_cannot_be_are_refused(tmp_path, source):
    for changes in ({"planes": 5}, {"group": 48}, {"seed": -1}, {"scheme": "gtpq"}):
        with pytest.raises(ArgumentError):
            quantize(source, tmp_path / "out", options(tmp_path, **changes))
    with pytest.raises(ArgumentError, match="exists"):
        quantize(source, source, options(tmp_path))
    with pytest.raises(ArgumentError, match="sequence"):
        Amount(tokens=100, length=200)


def test_a_scheme_is_not_used_on_parts_it_would_get_wrong() -> None:
    plain, mixed = CONFIGS["llama"], MODEL.only(2)
    after = replace(plain, kinds=(replace(plain.kinds[0], norms="both"),))
    for name in SCHEMES:
        check_scheme(scheme_named(name), plain)
    for name in ("gptq", "awq", "quarot", "atom-rtn"):
        with pytest.raises(ArgumentError, match=r"experts.*--scheme rtn"):
            check_scheme(scheme_named(name), mixed)
    for name in ("awq", "quarot", "atom-rtn"):
        with pytest.raises(ArgumentError, match=r"norms both.*--scheme rtn or gptq"):
            check_scheme(scheme_named(name), after)
    check_scheme(scheme_named("gptq"), after)
    check_scheme(scheme_named("rtn"), mixed)
