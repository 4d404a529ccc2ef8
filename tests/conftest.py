"""Fixtures that several folders use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from halfbyte.api.llm import LLM
from tests.support.talking_model import write_talking_model

# Examples share a machine with whatever else it runs: how long one takes proves nothing.
settings.register_profile("halfbyte", deadline=None)
settings.load_profile("halfbyte")


@pytest.fixture(autouse=True, scope="session")
def cost_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tables of tiny models are measured once a session and leave nothing behind."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("costs")
        patch.setattr("halfbyte.api.candidates.cache_directory", lambda: directory)
        yield


@pytest.fixture(scope="session")
def talking_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with both planes, a tokenizer and a chat template."""
    return write_talking_model(tmp_path_factory.mktemp("models") / "talking")


@pytest.fixture(scope="session")
def talking_llm(talking_model: Path) -> LLM:
    """The nested pair over `talking_model`."""
    return LLM(talking_model, "w4a8 > w8a16", threads=2, num_tokens=2048, page_size=16)
