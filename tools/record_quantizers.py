"""Record what quantizers write and what they read back, for tests/checkpoint/test_quantizers.py.

    python tools/record_quantizers.py             all of them
    python tools/record_quantizers.py hqq mlx     some

Each needs torch and its own package: bitsandbytes, hqq, mlx[cpu], gptqmodel, compressed-tensors.
For each case the tool itself packs a small matrix, tests/data/quantizers/TOOL.safetensors keeps the
parts under CASE.PART, and TOOL.json their settings and the SHA-256 of the float32 values that the
tool makes of them. Where a tool computes in float16, its scales are widened first: so the values
are those of the format, not of its arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from safetensors.torch import save

TARGET = Path(__file__).parents[1] / "tests" / "data" / "quantizers"


class Made(NamedTuple):
    """One module as a tool has packed it."""

    case: str
    encoding: str
    """Its row in `ENCODINGS`."""
    settings: dict[str, Any]
    parts: dict[str, torch.Tensor]
    values: torch.Tensor
    """float32 (rows, columns), by the tool's own function."""


def weights(rows: int, columns: int) -> torch.Tensor:
    """Return weights of the size that models have, the same every time."""
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn(rows, columns, generator=generator) * 0.05


def bitsandbytes() -> Iterator[Made]:
    """4 bits with and without quantized scales, and 8 bits by row."""
    import bitsandbytes as bnb
    from bitsandbytes import functional

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            module = bnb.nn.Linear4bit(128, 24, bias=False, quant_type=kind)
            module.weight = bnb.nn.Params4bit(
                weights(24, 128), quant_type=kind, compress_statistics=nested, module=module
            )
            module = module.to("cpu")  # this is what quantizes
            values = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            case = kind + ("-nested" if nested else "")
            yield Made(case, "bitsandbytes", {}, module.state_dict(), values)
    int8 = bnb.nn.Linear8bitLt(128, 24, bias=False, has_fp16_weights=False)
    int8.weight = bnb.nn.Int8Params(
        weights(24, 128).half(), requires_grad=False, has_fp16_weights=False
    )
    parts = int8.to("cpu").state_dict()
    values = functional.int8_vectorwise_dequant(parts["weight"], parts["SCB"])
    yield Made("int8", "bitsandbytes", {}, parts, values)


def hqq() -> Iterator[Made]:
    """Every number of bits along both axes."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    for bits, group in ((8, 64), (4, 64), (3, 64), (2, 32), (1, 32)):
        for axis in (0, 1):
            linear = torch.nn.Linear(160, 16, bias=False)
            linear.weight.data = weights(16, 160)
            config = BaseQuantizeConfig(nbits=bits, group_size=group, axis=axis)
            module = HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu")
            yield Made(f"{bits}-axis{axis}", "hqq", {}, module.state_dict(), module.dequantize())


def mlx() -> Iterator[Made]:
    """Each mode; in the affine one bfloat16 scales, whose products with codes are exact."""
    import mlx.core as mx
    import numpy as np

    modes = [("affine", bits, 32) for bits in (1, 2, 3, 4, 5, 6, 8)]
    modes += [("affine", 3, 64), ("affine", 4, 128)]
    modes += [("mxfp4", 4, 32), ("nvfp4", 4, 16), ("mxfp8", 8, 32)]
    names = ("weight", "scales", "biases")
    for mode, bits, group in modes:
        given = mx.array(weights(8, 128).numpy()).astype(mx.bfloat16)
        packed = mx.quantize(given, group_size=group, bits=bits, mode=mode)
        wide = [part if part.dtype == mx.uint8 else part.astype(mx.float32) for part in packed[1:]]
        values = mx.dequantize(
            packed[0], *wide, group_size=group, bits=bits, mode=mode, dtype=mx.float32
        )
        parts = {
            name: torch.from_numpy(np.array(part.astype(mx.float32))).bfloat16()
            if part.dtype == mx.bfloat16
            else torch.from_numpy(np.array(part))
            for name, part in zip(names, packed, strict=False)
        }
        settings = {"group_size": group, "bits": bits, "mode": mode}
        yield Made(
            f"{mode}-{bits}-{group}", "mlx", settings, parts, torch.from_numpy(np.array(values))
        )


def gptq() -> Iterator[Made]:
    """Every number of bits, symmetric and not, in both versions, one with act-order."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT, QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    rows, columns, group = 32, 64, 32
    for bits in (2, 3, 4, 8):
        for name, symmetric, ordered, form in (
            ("sym", True, False, FORMAT.GPTQ),
            ("asym", False, False, FORMAT.GPTQ),
            ("asym-v2", False, False, FORMAT.GPTQ_V2),
            ("asym-actorder", False, True, FORMAT.GPTQ),
        ):
            weight, most = weights(rows, columns), 2**bits - 1
            order = torch.randperm(columns, generator=torch.Generator().manual_seed(bits))
            of_column = torch.arange(columns) // group
            if ordered:
                of_column = of_column[order]
            groups = [weight[:, of_column == g] for g in range(columns // group)]
            low = torch.stack([g.amin(1).clamp(max=0) for g in groups], 1)
            high = torch.stack([g.amax(1).clamp(min=0) for g in groups], 1)
            if symmetric:
                high = torch.maximum(-low, high)
                low = -high
            scales = (high - low) / most
            zeros = (
                torch.full_like(scales, 2 ** (bits - 1)) if symmetric else (-low / scales).round()
            )
            linear = torch.nn.Linear(columns, rows, bias=False)
            linear.weight.data = weight
            module = TorchLinear(
                bits, group, symmetric, ordered, columns, rows, format=form, register_buffers=True
            )
            module.pack_original(linear, scales, zeros, of_column.to(torch.int32))
            module.post_init()
            packed = {
                part: getattr(module, part).clone()
                for part in ("qweight", "qzeros", "scales", "g_idx")
            }
            module.scales = module.scales.float()
            values = module.dequantize_weight().T.contiguous()
            if form == FORMAT.GPTQ:
                config = QuantizeConfig(bits=bits, group_size=group, sym=symmetric)
                convert_gptq_v2_to_v1_format_module(module, config)
                packed["qzeros"] = module.qzeros
            settings = {"bits": bits, "group_size": group, "sym": symmetric, "desc_act": ordered}
            settings["checkpoint_format"] = str(form.value)
            yield Made(f"{bits}-{name}", "gptq", settings, packed, values)


def compressed_tensors() -> Iterator[Made]:
    """Packed in several numbers of bits, int8, float8 and nvfp4."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    whole = {"type": "int", "symmetric": True, "strategy": "channel"}
    group = {"type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    cases: list[tuple[str, str, dict[str, Any]]] = [
        (f"packed-{bits}", "pack-quantized", {"num_bits": bits, **group})
        for bits in (2, 3, 4, 5, 6, 8)
    ]
    cases += [
        ("packed-4-asym", "pack-quantized", {"num_bits": 4, **group, "symmetric": False}),
        ("packed-3-asym", "pack-quantized", {"num_bits": 3, **group, "symmetric": False}),
        ("packed-8-channel", "pack-quantized", {"num_bits": 8, **whole}),
        ("int8", "int-quantized", {"num_bits": 8, **whole}),
        ("int8-asym", "int-quantized", {"num_bits": 8, **whole, "symmetric": False}),
        ("float8", "float-quantized", {"num_bits": 8, **whole, "type": "float"}),
        (
            "nvfp4",
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
        ),
    ]
    for case, form, fields in cases:
        args = QuantizationArgs(**fields)
        scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
        weight = weights(32, 128)
        size = args.group_size or weight.shape[1]
        groups = weight.reshape(len(weight), -1, size)
        low, high = groups.amin(-1), groups.amax(-1)
        shared = generate_gparam(low.min(), high.max()).reshape(1) if case == "nvfp4" else None
        scale, zero = calculate_qparams(low, high, args, global_scale=shared)
        state = {"weight": weight, "weight_scale": scale}
        if not args.symmetric:
            state["weight_zero_point"] = zero
        if shared is not None:
            state["weight_global_scale"] = shared
        compressor = BaseCompressor.get_value_from_registry(form)
        parts = compressor.compress(state, scheme)
        if shared is None:
            values = compressor.decompress(dict(parts), scheme)["weight"]
        else:  # its decompress computes in bfloat16
            codes = unpack_fp4_from_uint8(parts["weight_packed"], *weight.shape, torch.float32)
            values = dequantize(
                codes, parts["weight_scale"].float(), args=args, global_scale=shared
            )
        settings = {"format": form, "config_groups": {"group_0": {"weights": fields}}}
        yield Made(case, "compressed-tensors", settings, parts, values)


TOOLS: dict[str, tuple[str, Callable[[], Iterator[Made]]]] = {  # its package, and its cases
    "bitsandbytes": ("bitsandbytes", bitsandbytes),
    "hqq": ("hqq", hqq),
    "mlx": ("mlx", mlx),
    "gptq": ("gptqmodel", gptq),
    "compressed-tensors": ("compressed-tensors", compressed_tensors),
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TOOLS)))
def main(names: tuple[str, ...]) -> None:
    """Write tests/data/quantizers/TOOL.safetensors and TOOL.json."""
    TARGET.mkdir(exist_ok=True)
    torch.manual_seed(0)
    for name in names or TOOLS:
        package, make = TOOLS[name]
        tensors, cases = {}, {}
        for made in make():
            for part, tensor in made.parts.items():
                tensors[f"{made.case}.{part}"] = tensor.detach().contiguous().clone()
            values = made.values.detach().float().contiguous().numpy()
            cases[made.case] = {
                "settings": made.settings,
                "shape": list(values.shape),
                "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
            }
            encoding = made.encoding
        (TARGET / f"{name}.safetensors").write_bytes(save(tensors))
        made_by = f"{package} {version(package)}, torch {torch.__version__}"
        facts = {"made_by": made_by, "encoding": encoding, "cases": cases}
        (TARGET / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        click.echo(f"{name}: {len(cases)} cases")


if __name__ == "__main__":
    main()
