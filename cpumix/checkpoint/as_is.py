"""Which precision keeps most of a checkpoint's numbers, and whether they were rounded before."""

from __future__ import annotations

from math import prod

from cpumix.quant.precision import CODED, PRECISIONS, Precision

from .tensor import Checkpoint, SourceTensor

_FLOATS = ("F8_E4M3", "F8_E5M2", "MLX mxfp8", "scaled float8")  # 8 bits of what bfloat16 has too
_QUANTIZED_BITS = 10.0  # a weight takes less; 8 bits with a scale and a bias for 32 take 9


def is_quantized(tensor: SourceTensor) -> bool:
    """Whether a tensor is stored as whole numbers with scales."""
    bits = 8 * tensor.nbytes / max(prod(tensor.shape), 1)
    return bits < _QUANTIZED_BITS and tensor.encoding not in _FLOATS


def choose_precision_as_is(checkpoint: Checkpoint) -> Precision:
    """Return the precision that loses least of what the experts have now.

    Of a model without experts those are its feed-forward matrices. int4 with code books takes up to
    16 values, if they are the same in all experts; int8 all types that are whole numbers times one
    float16 scale for 32 columns or more, and comes closest to the other quantized ones; bf16 is for
    what was not quantized.
    """
    config = checkpoint.config
    experts = [checkpoint.tensors[s.name] for s in config.tensors() if s.expert is not None]
    values = {tensor.code_values for tensor in experts}
    if len(values) == 1 and None not in values:
        return CODED
    return PRECISIONS["int8" if all(map(is_quantized, experts)) else "bf16"]
