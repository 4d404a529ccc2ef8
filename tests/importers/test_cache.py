"""Keys of the cache: what an earlier version converted is found again."""

import os

from halfbyte.importers.cache import cached_checkpoint


def test_a_model_has_the_key_it_always_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HALFBYTE_CACHE", "/cache")
    source = tmp_path / "model.gguf"
    source.write_bytes(b"weights")
    os.utime(source, ns=(10**18, 10**18))
    found = cached_checkpoint(source, planes=2, group=32)
    assert str(found) == "/cache/checkpoints/model-2p-g32-25b2bf92d7d309dc"
