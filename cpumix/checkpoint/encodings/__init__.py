"""From stored parts to matrices: each encoding says which parts make one, and reads its rows.

An encoding is one file with a function `assemble` and one row in `ENCODINGS`, which imports the
file when a checkpoint needs it. `assemble` takes the stored tensors by name and the checkpoint's
quantization settings; it removes from the dict what it understands and returns a `Matrix` for each
logical tensor, named as if it were not quantized ("model.layers.0.self_attn.q_proj.weight"). What
is left is taken as it is, by "plain". It reads nothing larger than settings, and raises
ConvertError for parts that do not fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cpumix.lazy import later

from ..matrix import Matrix
from ..stored import StoredTensor
from . import plain

__all__ = ["ENCODINGS", "Encoding", "assemble"]

Encoding = Callable[[dict[str, StoredTensor], Mapping[str, Any]], dict[str, Matrix]]


def _in(module: str) -> Encoding:
    """Return the encoding in a module of this folder."""
    return later(f"{__name__}.{module}", "assemble")


ENCODINGS: dict[str, Encoding] = {  # quantizers under the name that config.json gives them
    "plain": plain.assemble,
    "ggml": _in("ggml.matrix"),
    "mlx": _in("mlx"),
    "gptq": _in("gptq"),
    "awq": _in("awq"),
    "bitsandbytes": _in("bitsandbytes"),
    "hqq": _in("hqq"),
    "compressed-tensors": _in("compressed_tensors"),
    "fp8": _in("compressed_tensors"),
    "fbgemm_fp8": _in("compressed_tensors"),
}


def assemble(
    stored: Mapping[str, StoredTensor], encoding: str, settings: Mapping[str, Any]
) -> dict[str, Matrix]:
    """Return the matrices that stored tensors make, by their logical names."""
    parts = dict(stored)
    return ENCODINGS[encoding](parts, settings) | plain.assemble(parts, settings)
