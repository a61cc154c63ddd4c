"""Routing, one row an iteration: the experts that a token goes through, and their weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compile.jit import kernel, prange, row_kernel
from .scalar import topk_experts
from .simd.lanes import fma
from .simd.vectors import address, broadcast_f32, load_f32, splat, store_f32

Floats = NDArray[np.float32]


@kernel
def router_logits(x: Floats, row: int, router: Floats, logits: Floats) -> None:
    """Compute one row's logits, (width,); see `route`."""
    for lane in range(0, router.shape[1], 16):
        p, w = address(x) + row * x.strides[0], address(router) + 4 * lane
        total = splat(np.float32(0))
        for i in range(router.shape[0]):
            total = fma(broadcast_f32(p + 4 * i), load_f32(w + i * router.strides[0]), total)
        store_f32(address(logits) + 4 * lane, total)


@row_kernel
def route(
    x: Floats,
    router: Floats,
    experts: int,
    rows: int,
    topk_ids: NDArray[np.int32],
    topk_weights: Floats,
    norm_topk: bool,
) -> None:
    """Compute each row's router logits; keep the top-k experts and their softmax weights.

    With `norm_topk` the weights sum up to one; else they are those among all experts.

    Shapes: x (>= rows, >= k) f32 | router (k, width) f32, one expert a column, width a multiple of
            16 | topk_ids (>= rows, top_k) i32, topk_weights f32: best first, of equal logits the
            lower index.
    """
    for row in prange(rows):
        logits = np.empty(router.shape[1], np.float32)
        router_logits(x, row, router, logits)
        topk_experts(logits, experts, topk_ids[row], topk_weights[row], norm_topk)
