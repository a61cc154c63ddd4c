"""The tokens that go through the model together: rows of any mix of sequences.

Rows whose logits are wanted come last, so that the last layer can leave the others out: of those it
needs only keys and values. The tokens of one sequence so become up to two spans of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.kernels.operands import ITEM_QUERIES, Placement
from cpumix.kv.table import BlockTable


class Step(NamedTuple):
    """What one sequence brings to a batch: its next tokens."""

    ids: Sequence[int]
    position: int
    """Of the first token."""
    table: BlockTable
    num_logits: int = 1
    """How many of the tokens, the last ones, want logits."""
    hidden: bool = False
    """Whether they want what the last norm makes of them instead."""


class Span(NamedTuple):
    """Neighbouring tokens of one sequence in neighbouring rows of a batch."""

    step: int
    first: int
    """Of the step's tokens."""
    tokens: int


class Batch:
    """T tokens of one or more sequences."""

    def __init__(self, steps: Sequence[Step]) -> None:
        for step in steps:
            step.table.prepare(step.position, len(step.ids))
        self.steps = steps
        self.num_logits = sum(step.num_logits for step in steps)
        """Their rows are the last ones, those that want hidden states behind the others."""
        self.num_hidden = sum(step.num_logits for step in steps if step.hidden)
        order = sorted(range(len(steps)), key=lambda i: steps[i].hidden)
        ends = accumulate(steps[i].num_logits for i in order)
        self.wanted_of_steps = [
            slice(end - steps[i].num_logits, end)
            for i, end in sorted(zip(order, ends, strict=True))
        ]
        """Of the rows that are wanted, those of each step."""
        silent = [Span(i, 0, len(s.ids) - s.num_logits) for i, s in enumerate(steps)]
        ranked = [(i, steps[i]) for i in order]
        wanted = [Span(i, len(s.ids) - s.num_logits, s.num_logits) for i, s in ranked]
        self._spans = [span for span in (*silent, *wanted) if span.tokens]
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for step, first, tokens in self._of():
            position = step.position + first
            ids += step.ids[first : first + tokens]
            positions += range(position, position + tokens)
            slots += step.table.slots(position, tokens)
        self.ids, self.positions = np.array(ids, np.int64), np.array(positions, np.int64)
        self.slots = np.array(slots, np.int64)
        tables = chain.from_iterable(step.table.blocks for step in steps)
        self._tables = np.array([*tables], np.int32)

    def _of(self) -> Iterator[tuple[Step, int, int]]:
        for span in self._spans:
            yield self.steps[span.step], span.first, span.tokens

    def __len__(self) -> int:
        """Return T."""
        return len(self.ids)

    def rows_through(self, is_last_layer: bool) -> int:
        """Return R, how many rows (the last ones) go through all of a layer."""
        return self.num_logits if is_last_layer else len(self.ids)

    @property
    def blocks(self) -> NDArray[np.int32]:
        """The blocks of the KV cache that the batch's sequences hold."""
        return self._tables

    def place(self, is_last_layer: bool) -> Placement:
        """Return where the batch lies in the KV cache, with the queries of a layer."""
        return self._wanted if self.rows_through(is_last_layer) < len(self) else self._all

    @cached_property
    def _all(self) -> Placement:
        return Placement(self.slots, self._tables, self._items(0))

    @cached_property
    def _wanted(self) -> Placement:
        return Placement(self.slots, self._tables, self._items(len(self.ids) - self.num_logits))

    def _items(self, skip: int) -> NDArray[np.int64]:
        """Cut the spans behind the first `skip` rows into items of attention; see `Placement`."""
        begins = [*accumulate((len(step.table.blocks) for step in self.steps), initial=0)]
        items, row = [], -skip
        for span in self._spans:
            if row >= 0:
                position = self.steps[span.step].position + span.first
                for i in range(0, span.tokens, ITEM_QUERIES):
                    queries = min(ITEM_QUERIES, span.tokens - i)
                    items.append((row + i, position + i, queries, begins[span.step]))
            row += span.tokens
        return np.array(items, np.int64).reshape(-1, 4)
