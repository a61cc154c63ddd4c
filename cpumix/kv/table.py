"""Which blocks hold the positions of one sequence."""

from __future__ import annotations

from collections.abc import Sequence

from cpumix.quant.kv import KV_BLOCK

from .formats import UNLIMITED
from .pool import BlockPool


class BlockTable:
    """Blocks by their place in the sequence: position p lies in `blocks[p // KV_BLOCK]`.

    With a sliding window, blocks that no later token can see are given back while it goes on; their
    places in the table stay, and are not looked at.
    """

    def __init__(self, pool: BlockPool, need: int, shared: Sequence[int] = ()) -> None:
        """Reserve `need` blocks, behind `shared` ones, which other sequences filled.

        Of these the first may be -1: no token to come sees them. The caller has seen that as many
        are `available`, cached ones among the shared not counted.
        """
        self._pool = pool
        self.blocks = [max(block, 0) for block in shared]
        self._first = sum(block < 0 for block in shared)  # blocks before this one are not held
        for block in self.blocks[self._first :]:
            pool.hold(block)
        self._reserved = need
        pool.reserved += need
        if pool.window == UNLIMITED and need:
            self._take(need)

    @property
    def first_held(self) -> int:
        """The first block of the sequence that is still its own."""
        return self._first

    def _take(self, count: int) -> None:
        self._reserved -= count
        self.blocks += self._pool.take(count, self.blocks[-1] if self.blocks else -1)

    def prepare(self, position: int, count: int) -> None:
        """Make the slots of `count` positions from `position` on ready to be written."""
        self._give_back(position)
        end = -(-(position + count) // KV_BLOCK)
        if end > len(self.blocks):
            self._take(end - len(self.blocks))
        first = -(-position // KV_BLOCK)  # the first block that begins at or behind the position
        for block in self.blocks[first:end]:
            self._pool.clear(block)

    def _give_back(self, position: int) -> None:
        """Give back the blocks that a token at `position`, and later ones, cannot see."""
        end = max(position - self._pool.window + 1, 0) // KV_BLOCK
        for block in self.blocks[self._first : end]:
            if self._pool.give_back(block):
                self._reserved += 1
                self._pool.reserved += 1
        self._first = max(self._first, end)

    def slots(self, position: int, count: int) -> list[int]:
        """Return the slots of `count` positions from `position` on."""
        blocks = self.blocks
        positions = range(position, position + count)
        return [KV_BLOCK * blocks[p // KV_BLOCK] + p % KV_BLOCK for p in positions]

    def close(self) -> None:
        """Give everything back."""
        for block in reversed(self.blocks[self._first :]):  # so that cached ones end last first
            self._pool.give_back(block)
        self._pool.reserved -= self._reserved
        self._first, self._reserved = len(self.blocks), 0
