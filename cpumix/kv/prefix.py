"""The prefix cache: blocks that hold the beginning of an earlier text, found by their tokens.

A full block is known by a digest of all tokens up to its end, so whoever begins with the same
tokens finds it. Of a block that matches only in part, or was never full, the matching positions
are copied. What is found are the very bits that would be computed: reuse changes time, not text.

Blocks that no sequence holds stay until room is needed; the least recently used go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from cpumix.quant.kv import KV_BLOCK

from .formats import UNLIMITED
from .pool import BlockPool

Digest = bytes


class Match(NamedTuple):
    """What is already there of a text."""

    blocks: list[int]
    """Full blocks to share, by place; -1 where a window has passed and the block is gone."""
    tokens: int
    """How many tokens they hold, with those to be copied."""
    copied: tuple[int, ...] = ()
    """The blocks that go on from there, to be copied: the last one as far as `tokens` says."""
    revived: int = 0
    """How many of these blocks are cached: they can no longer make room for others."""

    @property
    def held(self) -> list[int]:
        """The blocks to share that are there."""
        return [block for block in self.blocks if block >= 0]


class _Entry(NamedTuple):
    parent: Digest
    digest: Digest
    tokens: tuple[int, ...]


class PrefixCache:
    """Registers blocks of one pool, and finds them again."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._entries: dict[int, _Entry] = {}  # by block
        self._full: dict[Digest, int] = {}
        self._children: dict[Digest, set[int]] = {}  # blocks that go on from a digest
        self._idle: OrderedDict[int, None] = OrderedDict()  # held by nobody, oldest first
        self.hit_tokens = self.asked_tokens = 0  # counted by the scheduler
        self.changes = 0
        """Counts the blocks that were registered or forgotten: while it stands, matches do."""
        pool.keeps, pool.evict, pool.revive = self._keep, self._evict, self._revive

    def match(self, ids: Sequence[int], salt: bytes = b"") -> Match:
        """Return what is there of a text; at least its last token is left to be computed.

        `salt` separates those who must not learn from the time whether others asked the same.
        """
        digests = self._digests(ids[:-1], salt)
        known = [digest in self._full for digest in digests[1:]]
        count = self._longest(known)
        first = self._first_seen(count * KV_BLOCK)
        blocks = [-1] * first + [self._full[d] for d in digests[first + 1 : count + 1]]
        source, length = self._best_part(digests[count], tuple(ids[count * KV_BLOCK : -1]))
        copied = (source,) if length else ()
        revived = sum(block in self._idle for block in (*blocks, *copied))
        return Match(blocks, count * KV_BLOCK + length, copied, revived)

    def without_part(self, match: Match) -> Match:
        """Return a match of whole blocks only."""
        revived = sum(block in self._idle for block in match.blocks)
        return Match(match.blocks, KV_BLOCK * len(match.blocks), revived=revived)

    def as_copies(self, match: Match) -> Match:
        """Return a match that shares no block: all that the next token sees are copied."""
        gone = match.blocks[: len(match.blocks) - len(match.held)]
        return match._replace(blocks=gone, copied=(*match.held, *match.copied))

    def _longest(self, known: list[bool]) -> int:
        """Return the most blocks to share: all that the window behind them sees are known."""
        count = len(known)
        while count:
            missing = [i for i in range(self._first_seen(count * KV_BLOCK), count) if not known[i]]
            if not missing:
                return count
            count = missing[0] if self._pool.window == UNLIMITED else count - 1
        return 0

    def _first_seen(self, position: int) -> int:
        """Return the first block that a token at a position sees."""
        return max(position - self._pool.window + 1, 0) // KV_BLOCK

    def _best_part(self, digest: Digest, tokens: tuple[int, ...]) -> tuple[int, int]:
        """Return the block that goes on with most of these tokens, and with how many."""
        best = -1, 0
        for block in self._children.get(digest, ()):
            length = _common(self._entries[block].tokens, tokens)
            if length > best[1]:
                best = block, length
        return best

    def register(
        self, blocks: Sequence[int], ids: Sequence[int], first: int, salt: bytes = b""
    ) -> None:
        """Remember the blocks from `first` on, which hold ids; the last one may not be full."""
        digests = self._digests(ids, salt)
        for i in range(first, -(-len(ids) // KV_BLOCK)):
            tokens = tuple(ids[i * KV_BLOCK : (i + 1) * KV_BLOCK])
            digest = digests[i + 1] if len(tokens) == KV_BLOCK else b""
            if digest and digest in self._full:  # another one's block holds the same
                continue
            self._forget(blocks[i])
            self.changes += 1
            self._entries[blocks[i]] = _Entry(digests[i], digest, tokens)
            self._children.setdefault(digests[i], set()).add(blocks[i])
            if digest:
                self._full[digest] = blocks[i]

    def clear(self) -> None:
        """Forget all that no sequence holds."""
        while self._idle:
            self._pool.release_cached(self._evict())

    def _keep(self, block: int) -> bool:
        if block not in self._entries:
            return False
        self._idle[block] = None
        return True

    def _revive(self, block: int) -> None:
        del self._idle[block]

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        self._forget(block)
        return block

    def _forget(self, block: int) -> None:
        entry = self._entries.pop(block, None)
        if entry is None:
            return
        self.changes += 1
        if entry.digest:
            del self._full[entry.digest]
        siblings = self._children[entry.parent]
        siblings.discard(block)
        if not siblings:
            del self._children[entry.parent]

    def _digests(self, ids: Sequence[int], salt: bytes) -> list[Digest]:
        """Return the digest of nothing, and of each full block with all before it."""
        data = np.asarray(ids, "<u4").tobytes()
        running = blake2b(salt, digest_size=16, person=b"cpumix prefix")
        found = [running.digest()]
        for end in range(4 * KV_BLOCK, len(data) + 1, 4 * KV_BLOCK):
            running.update(data[end - 4 * KV_BLOCK : end])
            found.append(running.digest())
        return found


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many of the first tokens are the same."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
