"""From stored parts to matrices: each encoding says which parts make one, and reads its rows.

An encoding is one file with a function `assemble` and one row in `ENCODINGS`. `assemble` takes the
stored tensors by name and the checkpoint's quantization settings; it removes from the dict what it
understands and returns a `Matrix` for each logical tensor, named as if it were not quantized
("model.layers.0.self_attn.q_proj.weight"). What is left is taken as it is, by "plain". It reads
nothing larger than settings, and raises ConvertError for parts that do not fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..matrix import Matrix
from ..stored import StoredTensor
from . import awq, bitsandbytes, compressed_tensors, gptq, hqq, mlx, plain
from .ggml import matrix as ggml

__all__ = ["ENCODINGS", "Encoding", "assemble"]

Encoding = Callable[[dict[str, StoredTensor], Mapping[str, Any]], dict[str, Matrix]]

ENCODINGS: dict[str, Encoding] = {  # quantizers under the name that config.json gives them
    "plain": plain.assemble,
    "ggml": ggml.assemble,
    "mlx": mlx.assemble,
    "gptq": gptq.assemble,
    "awq": awq.assemble,
    "bitsandbytes": bitsandbytes.assemble,
    "hqq": hqq.assemble,
    "compressed-tensors": compressed_tensors.assemble,
    "fp8": compressed_tensors.assemble,
    "fbgemm_fp8": compressed_tensors.assemble,
}


def assemble(
    stored: Mapping[str, StoredTensor], encoding: str, settings: Mapping[str, Any]
) -> dict[str, Matrix]:
    """Return the matrices that stored tensors make, by their logical names."""
    parts = dict(stored)
    return ENCODINGS[encoding](parts, settings) | plain.assemble(parts, settings)
