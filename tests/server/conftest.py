"""One server for the tests that only ask it things."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from halfbyte import LLM
from tests.server.running import Served, serving


@pytest.fixture(scope="module")
def served(talking_llm: LLM) -> Iterator[Served]:
    with serving(talking_llm) as server:
        yield server


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client
