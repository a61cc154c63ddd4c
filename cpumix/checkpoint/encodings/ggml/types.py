"""The table of ggml's tensor types, and the function that reads any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import blocks, grids, super_blocks


class GgmlType(NamedTuple):
    """One type: `values` numbers of a row lie in `nbytes` bytes."""

    name: str
    values: int
    nbytes: int
    dequantize: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Of blocks (n, nbytes): numbers (n, values)."""


# By the number that stands in GGUF files, `enum ggml_type`.
GGML_TYPES = {
    0: GgmlType("F32", 1, 4, blocks.float32),
    1: GgmlType("F16", 1, 2, blocks.float16),
    2: GgmlType("Q4_0", 32, 18, blocks.q4_0),
    3: GgmlType("Q4_1", 32, 20, blocks.q4_1),
    6: GgmlType("Q5_0", 32, 22, blocks.q5_0),
    7: GgmlType("Q5_1", 32, 24, blocks.q5_1),
    8: GgmlType("Q8_0", 32, 34, blocks.q8_0),
    10: GgmlType("Q2_K", 256, 84, super_blocks.q2_k),
    11: GgmlType("Q3_K", 256, 110, super_blocks.q3_k),
    12: GgmlType("Q4_K", 256, 144, super_blocks.q4_k),
    13: GgmlType("Q5_K", 256, 176, super_blocks.q5_k),
    14: GgmlType("Q6_K", 256, 210, super_blocks.q6_k),
    16: GgmlType("IQ2_XXS", 256, 66, grids.iq2_xxs),
    17: GgmlType("IQ2_XS", 256, 74, grids.iq2_xs),
    18: GgmlType("IQ3_XXS", 256, 98, grids.iq3_xxs),
    19: GgmlType("IQ1_S", 256, 50, grids.iq1_s),
    20: GgmlType("IQ4_NL", 32, 18, blocks.iq4_nl),
    21: GgmlType("IQ3_S", 256, 110, grids.iq3_s),
    22: GgmlType("IQ2_S", 256, 82, grids.iq2_s),
    23: GgmlType("IQ4_XS", 256, 136, super_blocks.iq4_xs),
    29: GgmlType("IQ1_M", 256, 56, grids.iq1_m),
    30: GgmlType("BF16", 1, 2, blocks.bfloat16),
    34: GgmlType("TQ1_0", 256, 54, super_blocks.tq1_0),
    35: GgmlType("TQ2_0", 256, 66, super_blocks.tq2_0),
    39: GgmlType("MXFP4", 32, 17, blocks.mxfp4),
}
# Named in errors: whole numbers, types of activations, and those that ggml has given up.
UNREAD_TYPES = {
    **{4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64"},
    **{28: "F64", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4"},
    **{37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 40: "NVFP4", 41: "Q1_0"},
}

# Numbers, so that what lies between bytes and numbers stays in the cache: a third faster than all
# at once, and little memory.
_AT_ONCE = 1 << 17


def dequantize(data: NDArray[np.uint8], kind: GgmlType) -> NDArray[np.float32]:
    """Return the numbers of rows (n, bytes of a row) as float32 (n, columns).

    Infinite scales give infinity and NaN, which whoever reads weights looks for.
    """
    whole = data.reshape(-1, kind.nbytes)
    numbers = np.empty((len(whole), kind.values), np.float32)
    step = _AT_ONCE // kind.values
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(whole), step):
            numbers[start : start + step] = kind.dequantize(whole[start : start + step])
    return numbers.reshape(len(data), -1)
