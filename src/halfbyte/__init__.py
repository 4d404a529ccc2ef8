"""Fast decoding of quantized LLMs without changing one output token."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfbyte.api.async_engine import AsyncEngine as AsyncEngine
    from halfbyte.api.llm import LLM as LLM
    from halfbyte.api.options import AsyncOptions as AsyncOptions
    from halfbyte.api.results import Chunk as Chunk
    from halfbyte.api.results import Completion as Completion
    from halfbyte.cascade.statistics import Statistics as Statistics
    from halfbyte.engine.options import EngineOptions as EngineOptions
    from halfbyte.errors import ArgumentError as ArgumentError
    from halfbyte.errors import FormatError as FormatError
    from halfbyte.errors import HalfbyteError as HalfbyteError
    from halfbyte.errors import MachineError as MachineError
    from halfbyte.errors import ModelError as ModelError
    from halfbyte.errors import QueueFullError as QueueFullError
    from halfbyte.errors import SourceError as SourceError
    from halfbyte.errors import StoppedError as StoppedError
    from halfbyte.proposers.options import NgramOptions as NgramOptions
    from halfbyte.runtime.options import RuntimeOptions as RuntimeOptions
    from halfbyte.sampling.params import SamplingParams as SamplingParams
    from halfbyte.sampling.params import StructuredOutputs as StructuredOutputs

__version__ = "0.1.0"

# Loaded on first use: `import halfbyte` costs a few milliseconds.
_HOMES = {
    "ArgumentError": "errors",
    "AsyncEngine": "api.async_engine",
    "AsyncOptions": "api.options",
    "Chunk": "api.results",
    "Completion": "api.results",
    "EngineOptions": "engine.options",
    "FormatError": "errors",
    "HalfbyteError": "errors",
    "LLM": "api.llm",
    "MachineError": "errors",
    "ModelError": "errors",
    "NgramOptions": "proposers.options",
    "QueueFullError": "errors",
    "RuntimeOptions": "runtime.options",
    "SamplingParams": "sampling.params",
    "SourceError": "errors",
    "Statistics": "cascade.statistics",
    "StoppedError": "errors",
    "StructuredOutputs": "sampling.params",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'halfbyte' has no attribute {name!r}")
    return getattr(import_module(f"halfbyte.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
