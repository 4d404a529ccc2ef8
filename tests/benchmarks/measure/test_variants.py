import pytest
from benchmarks.decoding.cascades import VARIANTS
from benchmarks.measure.variants import Variant
from benchmarks.planner.auto import FIXED

from halfbyte.errors import ArgumentError

EVERY = ["w8a16", *VARIANTS, *(text.format("w8a16") for text in FIXED)]


@pytest.mark.parametrize("text", EVERY)
def test_a_variant_is_written_as_it_is_read(text: str) -> None:
    assert str(Variant.parse(text)) == text
    assert Variant.parse(text).plain.draft_length == 0


@pytest.mark.parametrize("text", ["w8a16 @3", "w4a8 > w8a16", "w4a8 > w8a16 @0", "w4a8 @x"])
def test_a_draft_length_goes_with_a_draft(text: str) -> None:
    with pytest.raises(ArgumentError, match="--variant"):
        Variant.parse(text)
