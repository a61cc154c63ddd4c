"""The tensor types of ggml, which GGUF files hold: blocks of codes along a row, each with a scale.

`GGML_TYPES` has one row for each type that cpumix reads. Their numbers are defined in float32, in
this order of operations: (scale of the block * scale of the group) * code - (its minimum likewise).
So every value equals that of `gguf.dequantize` of the package gguf, bit for bit.

Source: https://github.com/ggml-org/ggml, src/ggml-common.h (layouts) and src/ggml-quants.c.
"""

from .types import GGML_TYPES, UNREAD_TYPES, GgmlType, dequantize

__all__ = ["GGML_TYPES", "UNREAD_TYPES", "GgmlType", "dequantize"]
