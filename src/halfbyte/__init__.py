"""Fast decoding of quantized LLMs without changing one output token."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfbyte.api.llm import LLM as LLM
    from halfbyte.sampling.params import SamplingParams as SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "SamplingParams", "__version__"]

# Loaded on first use: `import halfbyte` costs a few milliseconds.
_HOMES = {"LLM": "halfbyte.api.llm", "SamplingParams": "halfbyte.sampling.params"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'halfbyte' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
