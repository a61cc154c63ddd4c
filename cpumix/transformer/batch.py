"""The tokens that go through the model together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Batch(NamedTuple):
    """T neighbouring tokens of a sequence: one that it writes, or a chunk of its prompt."""

    ids: Sequence[int]
    position: int
    """Of the first token; the others follow it."""
    num_logits: int = 1
    """The last tokens, whose logits are wanted: of the others the last layer needs only keys and
    values."""

    def rows_through(self, is_last_layer: bool) -> int:
        """Return R, how many of the tokens (the last ones) go through all of a layer."""
        return self.num_logits if is_last_layer else len(self.ids)
