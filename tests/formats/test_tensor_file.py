import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import FormatError
from halfbyte.formats.tensor_file import TensorFile, write_tensor_file

TENSORS = {
    "a": ("F32", np.arange(6, dtype=np.float32).reshape(2, 3)),
    "b": ("U8", np.arange(5, dtype=np.uint8)),
    "c": ("BF16", np.arange(4, dtype=np.uint16)),
    "d": ("F16", np.ones((1, 1, 2), dtype=np.float16)),
}


def test_tensors_come_back_with_dtype_and_shape(tmp_path):
    path = tmp_path / "x.safetensors"
    assert write_tensor_file(path, TENSORS) == path.stat().st_size
    file = TensorFile.open(path)
    for name, (dtype, array) in TENSORS.items():
        assert file.entries[name].dtype == dtype
        np.testing.assert_array_equal(file.array(name), array)


def test_unaligned_tensors_are_read(tmp_path):
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
        "__metadata__": {"format": "pt"},
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(_file(json.dumps(header).encode(), b"\x07" + struct.pack("<f", 2.5)))
    assert TensorFile.open(path).array("b").tolist() == [2.5]


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [0, 4]},
        "F32",
        None,
    ],
)
def test_entries_that_do_not_agree_are_refused(tmp_path, entry):
    path = tmp_path / "x.safetensors"
    path.write_bytes(_file(json.dumps({"a": entry}).encode(), b"\0" * 4))
    with pytest.raises(FormatError, match="bad-entry"):
        TensorFile.open(path)


def test_a_repeated_key_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    entry = b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    path.write_bytes(_file(b"{" + entry + b"," + entry + b"}", b""))
    with pytest.raises(FormatError, match="bad-header"):
        TensorFile.open(path)


@given(st.data())
def test_changed_bytes_raise_only_format_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    write_tensor_file(path, TENSORS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        file = TensorFile.open(path)
    except FormatError:
        return
    for name, entry in file.entries.items():
        if entry.dtype in ("F32", "F16", "BF16", "U8"):
            assert file.array(name).shape == entry.shape


def _file(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data
