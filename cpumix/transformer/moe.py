"""The sparse mixture of experts: each token goes through the experts that the router picks for it.

A model without a router has one expert, which every token goes through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise

from cpumix.config import ModelConfig
from cpumix.experts import Expert, ExpertPager, take_low_copies
from cpumix.kernels.backend import Backend
from cpumix.kernels.operands import Matmul, MatmulGroup, Residual
from cpumix.kernels.rows import Rows

from .buffers import Buffers
from .matmul_cache import KEPT_ROWS, MatmulCache
from .weights import LayerWeights


class MoE:
    """sum over the top-k experts e of weight_e * w2_e(silu(w1_e h) * w3_e h)."""

    def __init__(
        self, config: ModelConfig, backend: Backend, buffers: Buffers, pager: ExpertPager
    ) -> None:
        self._config, self._backend, self._buffers, self._pager = config, backend, buffers, pager
        self._groups = MatmulCache[MatmulGroup]()  # of one token
        self._products = MatmulCache[Matmul]()  # of a few

    def __call__(
        self, layer: LayerWeights, h: Rows, n: int, meanwhile: Callable[[], None]
    ) -> Residual:
        """Return what the experts add to n rows of h [R, D].

        `meanwhile` is called when the layer's reads have begun: what it asks for comes after them.
        """
        b = self._buffers
        if not n:  # a chunk of a prompt, in the last layer
            return Residual(b.expert_out, b.inverse_order[:0], b.topk_weights[:0])
        if layer.router is not None:
            experts, norm_topk = self._config.num_local_experts, self._config.norm_topk_prob
            self._backend.route(h, layer.router, experts, n, b.topk_ids, b.topk_weights, norm_topk)
            if self._pager.low_copies:
                take_low_copies(b.topk_ids[:n], b.topk_weights[:n], experts)
        self._backend.sort_by_expert(
            b.topk_ids, n, b.expert_offsets, b.sorted_tokens, b.inverse_order
        )
        offsets = b.expert_offsets.tolist()
        used = [e for e, (first, end) in enumerate(pairwise(offsets)) if first < end]
        if n > 1:
            self._gather(layer.index, used, h, n)
        with self._pager.lease(layer.index, used, b.topk_ids[:n]) as parts:
            meanwhile()
            for ready in parts:
                key = (layer.index, *((e, offsets[e]) for e in ready.experts)) if n == 1 else None
                make = partial(self._matmuls, layer.index, ready.experts, offsets, h, n)
                gate_up, down = self._groups.get(key, make)
                ready.wait_for_gate_up()
                self._backend.multiply(gate_up)  # expert_hidden [R * A, I]
                ready.wait_for_down()
                self._backend.multiply(down)  # expert_out [R * A, D]
        return Residual(b.expert_out, b.inverse_order[:n], b.topk_weights[:n])

    def _gather(self, layer: int, used: Sequence[int], h: Rows, n: int) -> None:
        """Copy the rows of h in the order of the sorted pairs, in the forms that experts read."""
        b = self._buffers
        pairs = b.sorted_tokens[: n * self._config.num_experts_per_tok]
        for codes in {self._pager.view(layer, e).w1.takes_codes for e in used}:
            b.expert_in.gather(h, pairs, codes)

    def _matmuls(
        self, layer: int, experts: Mapping[int, Expert], offsets: Sequence[int], h: Rows, n: int
    ) -> tuple[MatmulGroup, MatmulGroup]:
        """Return silu(w1 x) * w3 x, and w2 times that, of some experts of a layer."""
        b, made = self._buffers, []
        for e, expert in experts.items():
            first, count = offsets[e], offsets[e + 1] - offsets[e]
            rows = *((h, 0) if n == 1 else (b.expert_in, first)), b.expert_hidden, b.expert_out
            make = partial(expert_matmuls, expert, first, count, *rows)
            key = (layer, e, first, count) if 1 < n <= KEPT_ROWS else None
            made.append(self._products.get(key, make))
        return grouped(made)


def expert_matmuls(
    expert: Expert, first: int, count: int, x: Rows, x_first: int, hidden: Rows, out: Rows
) -> tuple[Matmul, Matmul]:
    """Return silu(w1 x) * w3 x, to `hidden`, and w2 times that, to `out`, of one expert.

    It has `count` rows: of x those from `x_first` on, of the others those from `first` on.
    """
    w1, w3, w2 = expert
    gate_up = Matmul(w1, x, x_first, count, hidden.values[first:], w3)
    return gate_up, Matmul(w2, hidden, first, count, out.values[first:])


def grouped(products: Iterable[tuple[Matmul, Matmul]]) -> tuple[MatmulGroup, MatmulGroup]:
    """Return the products of experts in the two groups that run one after the other."""
    gate_up, down = zip(*products, strict=True)
    return MatmulGroup(gate_up), MatmulGroup(down, quantize_inputs=True)
