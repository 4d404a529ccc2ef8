"""A checkpoint that was written once, when version 5 was new. It must load, unchanged, forever."""

from pathlib import Path

from halfbyte.config import Experts
from halfbyte.formats.checkpoint import Checkpoint
from tests.formats.test_format_v1 import digests

DIRECTORY = Path(__file__).parents[1] / "data" / "format-v5"
EXPECTED = {
    "vectors": "b321817d670011a656f8e8dc2a37dfc9440d6e24f58587b29b47b3809d3463d1",
    "4 bits": "af6b23e28a077f2aa050755f4f573b1560fcf7fb48d0087c126795da6a9b9b7f",
    "8 bits": "e8e625b02723a2856ed9df2e4f3abb00b9a0741549fa3a3c99f4a4c9b0d580ab",
}


def test_version_5_loads_forever():
    checkpoint = Checkpoint.open(DIRECTORY)
    assert checkpoint.manifest.version == 5
    first, second = (checkpoint.config.layer(index) for index in range(2))
    assert (first.mixer.window, second.mixer.window) == (16, None)
    assert (first.norms, first.mixer.sinks, first.mixer.bias) == ("both", True, True)
    assert isinstance(second.feed_forward, Experts)
    assert (second.feed_forward.count, second.feed_forward.top_k) == (4, 2)
    assert digests(checkpoint) == EXPECTED
