"""Rounding that makes up for its own errors, in NumPy: the definition of calibrated quantization.

A matrix w is to be rounded so that its outputs change little on inputs x whose second moments are
h = mean of x x^T: the error is the trace of (w - q) h (w - q)^T. Column by column, each is rounded
after it has been moved by what the errors of the columns before it ask for. With h = R R^T, R upper
triangular, and R = (I + feedback) diag(R), the best move of column j is the sum over i < j of
error_i * feedback[i, j], and what is left is the sum over j of R[j, j]^2 |rounding error of j|^2.

That is LDLQ (QuIP, arXiv 2307.13304), which its authors show to be the same as GPTQ (arXiv
2210.17323); it needs one factorization and no inverse. The columns go in panels: all that a panel's
columns owe to those before it is one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rounder import Bytes, Floats, Rounder, Scales, whole_blocks
from .tiles import BLOCK

PANEL = 4 * BLOCK  # columns that owe to those before them in one matrix product


class Rounded(NamedTuple):
    """Some columns of a matrix, rounded."""

    codes: Bytes
    """(n, k)."""
    scales: Scales
    """(n, k / B)."""
    errors: Floats
    """(n, k): the weights as they were less what they became."""


RoundPanel = Callable[[Rounder, Floats, Floats, Floats, Floats], Rounded]


def feedback(h: NDArray[np.float64]) -> Floats:
    """Return the feedback (k, k) of second moments h (k, k); strictly upper triangular.

    Raises LinAlgError if h is not positive definite, by all digits that count.
    """
    upper = np.linalg.cholesky(h[::-1, ::-1])[::-1, ::-1]
    upper /= np.diag(upper).copy()
    return np.triu(upper, 1).astype(np.float32)


def round_panel(
    rounder: Rounder, row_scales: Floats, w: Floats, moved: Floats, feedback: Floats
) -> Rounded:
    """Round one panel of columns.

    w (n, P) as it was, `moved` (n, P) by what is owed to the columns before the panel; feedback
    (P, P) among its own. Sums run over the columns in order: the kernel's equal them bit for bit.
    """
    n, columns = w.shape
    block = rounder.block
    middles = (rounder.tables[:, 1:] + rounder.tables[:, :-1]) / 2
    codes, errors = np.zeros((n, columns), np.uint8), np.zeros((n, columns), np.float32)
    scales = []
    for start in range(0, columns, block):
        x = moved[:, start : start + block].copy()
        for i in range(start):
            x += errors[:, i : i + 1] * feedback[i, start : start + block]
        whole = slice(start, start + block)
        expected = _unrounded(w[:, whole], x, feedback[whole, whole])
        scales.append(rounder.search(expected, row_scales))
        factors, tables = rounder.widen(scales[-1], row_scales)
        inverse = np.divide(np.float32(1), factors, out=np.zeros_like(factors), where=factors != 0)
        for c in range(block):
            column = start + c
            above = (x[:, c] * inverse)[:, None] > middles[tables]
            codes[:, column] = above.sum(1)
            became = factors * rounder.tables[tables, codes[:, column]]
            errors[:, column] = w[:, column] - became
            rest = slice(column + 1, start + block)
            x[:, c + 1 :] += errors[:, column, None] * feedback[column, rest]
    return Rounded(codes, np.stack(scales, axis=1), errors)


def _unrounded(w: Floats, x: Floats, feedback: Floats) -> Floats:
    """Return what a block's weights will be when they are due, as far as that is known before.

    That is if none of the block's own columns were rounded: what its scales are chosen for.
    """
    x = x.copy()
    for c in range(w.shape[1]):
        x[:, c + 1 :] += (w[:, c] - x[:, c])[:, None] * feedback[c, c + 1 :]
    return x


def compensate(
    w: Floats,
    feedbacks: list[Floats],
    rounder: Rounder,
    round_panel: RoundPanel = round_panel,
    row_scales: Floats | None = None,
) -> tuple[Bytes, Floats]:
    """Return the tiles of w (n, k), and its errors (n, k rounded up to whole blocks).

    Each of `feedbacks` (c, c) is of the next c columns, c a multiple of 32; what is wrong in those
    before them they know nothing of. `row_scales` are the rounder's, if they are known already.
    """
    row_scales = rounder.row_scales(w) if row_scales is None else row_scales
    w = whole_blocks(w)
    errors, panels = np.zeros(w.shape, np.float32), []
    start = 0
    for own in feedbacks:
        for first in range(0, len(own), PANEL):
            here = slice(first, min(first + PANEL, len(own)))
            columns = slice(start + here.start, start + here.stop)
            moved = w[:, columns] + errors[:, start : columns.start] @ own[:first, here]
            panel = round_panel(rounder, row_scales, w[:, columns], moved, own[here, here])
            errors[:, columns] = panel.errors
            panels.append(panel)
        start += len(own)
    codes = np.concatenate([panel.codes for panel in panels], axis=1)
    scales = np.concatenate([panel.scales for panel in panels], axis=1)
    return rounder.pack(codes, scales, row_scales), errors
