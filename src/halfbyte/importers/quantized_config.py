"""Which packing a Hugging Face model has, if any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from halfbyte.errors import SourceError
from halfbyte.importers import mxfp4
from halfbyte.importers.awq import Awq
from halfbyte.importers.compressed_tensors import CompressedTensors
from halfbyte.importers.gptq import Gptq
from halfbyte.importers.json_file import read_json
from halfbyte.importers.packing import Packing

METHODS: Mapping[str, Callable[[Mapping[str, Any]], Packing]] = {
    "gptq": Gptq.parse,
    "awq": Awq.parse,
    "compressed-tensors": CompressedTensors.parse,
}
_OLD_GPTQ_FILE = "quantize_config.json"  # AutoGPTQ before it wrote into config.json


def read_packing(path: Path, config: Mapping[str, Any]) -> Packing | None:
    """From config.json (hostile) of the model in `path`; None: plain weights."""
    settings = config.get("quantization_config")
    if settings is None and (path / _OLD_GPTQ_FILE).is_file():
        settings = {"quant_method": "gptq", **read_json(path / _OLD_GPTQ_FILE)}
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method == mxfp4.METHOD:
        return None  # of experts alone: their tensors tell
    if not isinstance(method, str) or method not in METHODS:
        raise SourceError(
            "config.json quantization_config",
            got=f"method {method!r}"[:80],
            expected=", ".join((*METHODS, mxfp4.METHOD)),
            fix="use the model's unquantized weights, or a GGUF file",
        )
    return METHODS[method](settings)
