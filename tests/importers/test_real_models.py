"""The demo model itself, fetched if it is not cached: run before a release."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from halfbyte.formats.names import expected_matrices
from halfbyte.formats.planes import dequantize
from halfbyte.importers.resolve import open_weights

pytestmark = pytest.mark.slow


def test_the_demo_model_imports_bit_for_bit_at_four_planes():
    checkpoint = open_weights("smollm2-135m", planes=4)
    source = open_weights("smollm2-135m", dense=True)
    assert checkpoint.source["exact"] is True
    for name, _ in expected_matrices(source.config):
        ours = dequantize(checkpoint.matrix(name), 8)
        theirs = source.matrix(name).values
        assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32)) or name == "embed"
        np.testing.assert_array_equal(ours, theirs)


def test_the_demo_model_is_requantized_within_a_per_cent():
    checkpoint = open_weights("smollm2-135m")
    source = open_weights("smollm2-135m", dense=True)
    for name, _ in expected_matrices(source.config):
        wanted = source.matrix(name).values
        error = np.linalg.norm(dequantize(checkpoint.matrix(name), 8) - wanted)
        assert error < 0.01 * np.linalg.norm(wanted)


def test_the_demo_tokenizer_gives_the_known_ids():
    source = open_weights("smollm2-135m", dense=True)
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    ids = tokenizer.encode("Once upon a time", add_special_tokens=False).ids
    assert ids == [6403, 1980, 253, 655]
    text = "<|im_start|>user\nhi<|im_end|>"
    assert tokenizer.encode(text, add_special_tokens=False).ids == [1, 4093, 198, 6004, 2]
    assert source.config.eos_ids[0] == 2
