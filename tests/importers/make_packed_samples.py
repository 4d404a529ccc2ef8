"""Write tests/data/packed: small matrices as other libraries pack and dequantize them.

    python -m tests.importers.make_packed_samples OUT

Run it where gptqmodel, autoawq and compressed-tensors can be imported; the samples are committed,
so the tests need none of them. A file has the tensors of one matrix, `reference` (what the library
itself dequantizes them to) and the settings in its metadata.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ROWS, INPUTS = 16, 256
Sample = tuple[dict[str, torch.Tensor], dict[str, Any]]


def linear(seed: int, rows: int = ROWS) -> torch.nn.Linear:
    torch.manual_seed(seed)
    layer = torch.nn.Linear(INPUTS, rows, bias=False, dtype=torch.float32)
    layer.weight.data = torch.randn(rows, INPUTS) * torch.rand(rows, 1)
    layer.weight.data[0, 0], layer.weight.data[1, 7] = 9.0, -9.0
    return layer


def grid(weight: torch.Tensor, groups: torch.Tensor, bits: int, *, symmetric: bool) -> Any:
    """Scales and zeros [rows, groups] of plain round to nearest, zeros in 0 .. 2^bits - 1."""
    count, most = int(groups.max()) + 1, 2**bits - 1
    rows = len(weight)
    scales, zeros = torch.empty(rows, count), torch.empty(rows, count)
    for g in range(count):
        part = weight[:, groups == g]
        low, high = part.min(dim=1).values.clamp(max=0), part.max(dim=1).values.clamp(min=0)
        if symmetric:
            high = torch.maximum(-low, high)
            low = -high
        scales[:, g] = (high - low) / most
        middle = torch.full_like(low, (most + 1) / 2)
        zeros[:, g] = middle if symmetric else torch.round(-low / scales[:, g]).clamp(1, most)
    return scales.half().float(), zeros


def gptq(
    bits: int, group_size: int, *, symmetric: bool, version_2: bool, order: str = "none"
) -> Sample:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    layer, size = linear(bits), INPUTS if group_size == -1 else group_size
    groups = torch.arange(INPUTS) // size
    if order == "act":
        groups = groups[torch.randperm(INPUTS)]
    elif order == "blocks":
        groups = groups.flip(0)
    scales, zeros = grid(layer.weight.data, groups, bits, symmetric=symmetric)
    module = TorchLinear(
        bits=bits,
        group_size=group_size,
        sym=symmetric,
        desc_act=order != "none",
        in_features=INPUTS,
        out_features=ROWS,
        format=FORMAT.GPTQ_V2,
    )
    module.pack_original(layer, scales, zeros, g_idx=groups.to(torch.int32))
    module.post_init()
    reference = module.dequantize_weight().T.contiguous()
    if not version_2:
        config = type("Q", (), {"bits": bits, "pack_dtype": torch.int32})()
        convert_gptq_v2_to_v1_format_module(module, quantize_config=config)
    names = ("qweight", "qzeros", "scales", "g_idx")
    tensors = {name: getattr(module, name).contiguous() for name in names}
    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "sym": symmetric,
        "desc_act": order != "none",
        "checkpoint_format": "gptq_v2" if version_2 else "gptq",
        "writer": f"gptqmodel {_gptqmodel_version()}",
    }
    return tensors | {"reference": reference}, settings


def awq(group_size: int) -> Sample:
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    layer = linear(group_size, 32)  # it packs rows by 32
    groups = torch.arange(INPUTS) // group_size
    scales, zeros = grid(layer.weight.data, groups, 4, symmetric=False)
    module = WQLinear_GEMM.from_linear(
        layer, 4, group_size, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
    )
    tensors = {name: getattr(module, name) for name in ("qweight", "qzeros", "scales")}
    reference = dequantize_gemm(
        module.qweight, module.qzeros, module.scales, 4, group_size
    ).T.contiguous()
    settings = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "version": "gemm",
        "zero_point": True,
        "writer": f"autoawq {version('autoawq')}",
    }
    return tensors | {"reference": reference}, settings


def compressed(form: str, bits: int, strategy: str, *, symmetric: bool) -> Sample:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=symmetric,
        strategy=strategy,
        group_size=64 if strategy == "group" else None,
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    layer = linear(bits + len(strategy))
    size = 64 if strategy == "group" else INPUTS
    scales, zeros = grid(layer.weight.data, torch.arange(INPUTS) // size, bits, symmetric=symmetric)
    if strategy == "tensor":
        scales, zeros = scales.max().reshape(1), zeros[0, :1]
    state = {"weight": layer.weight.data, "weight_scale": scales}
    state["weight_zero_point"] = (zeros - 2 ** (bits - 1)).to(torch.int8)
    compressor = BaseCompressor.get_value_from_registry(form)
    packed = compressor.compress(state, scheme)
    reference = compressor.decompress(packed, scheme)["weight"].contiguous()
    settings = {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
        "ignore": ["lm_head"],
        "writer": f"compressed-tensors {version('compressed-tensors')}",
    }
    return {k: v.contiguous() for k, v in packed.items()} | {"reference": reference}, settings


SAMPLES: dict[str, Callable[[], Sample]] = {
    "gptq-v1-sym-g128": lambda: gptq(4, 128, symmetric=True, version_2=False),
    "gptq-v1-asym-g64": lambda: gptq(4, 64, symmetric=False, version_2=False),
    "gptq-v2-asym-g32": lambda: gptq(4, 32, symmetric=False, version_2=True),
    "gptq-v2-sym-row": lambda: gptq(4, -1, symmetric=True, version_2=True),
    "gptq-v1-8bit-g128": lambda: gptq(8, 128, symmetric=True, version_2=False),
    "gptq-v2-8bit-asym-g32": lambda: gptq(8, 32, symmetric=False, version_2=True),
    "gptq-v1-act-order-g64": lambda: gptq(4, 64, symmetric=True, version_2=False, order="act"),
    "gptq-v2-blocks-g64": lambda: gptq(4, 64, symmetric=False, version_2=True, order="blocks"),
    "awq-g128": lambda: awq(128),
    "awq-g32": lambda: awq(32),
    "ct-pack-4bit-group": lambda: compressed("pack-quantized", 4, "group", symmetric=True),
    "ct-pack-4bit-asym": lambda: compressed("pack-quantized", 4, "group", symmetric=False),
    "ct-pack-8bit-channel": lambda: compressed("pack-quantized", 8, "channel", symmetric=True),
    "ct-int-8bit-channel": lambda: compressed("int-quantized", 8, "channel", symmetric=True),
    "ct-int-8bit-asym": lambda: compressed("int-quantized", 8, "channel", symmetric=False),
    "ct-int-8bit-tensor": lambda: compressed("int-quantized", 8, "tensor", symmetric=True),
}


def _gptqmodel_version() -> str:
    from gptqmodel.version import __version__

    return str(__version__)


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, make in SAMPLES.items():
        tensors, settings = make()
        save_file(tensors, out / f"{name}.safetensors", {"settings": json.dumps(settings)})
        print(name, settings["writer"], {k: list(v.shape) for k, v in tensors.items()})


if __name__ == "__main__":
    main()
