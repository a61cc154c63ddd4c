"""Decides which rows go through the model together.

Every job that writes gets its rows in every step; what is left of the step's budget is shared
evenly among those that still read their prompts. While one writes the budget is small, so that
nobody waits long for the next token; when all read it is as large as a chunk can be. Jobs are
admitted first come first served, each with all the blocks that it may ever need: no job is put off
once it has begun, and none fails for lack of memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from cpumix.config import ModelConfig
from cpumix.kv.formats import count_blocks
from cpumix.kv.pool import BlockPool
from cpumix.kv.prefix import Match, PrefixCache
from cpumix.kv.table import BlockTable
from cpumix.quant.kv import KV_BLOCK

from .job import Job

# Rows of a step while a job writes. Of two layers of Mixtral 8x7B at int4, a prompt beside four
# texts has 73 % of its speed alone with 128, 53 % with 64 (`tools/measure_waits.py`).
MIXED_ROWS = 128


class Share(NamedTuple):
    """How many rows a job gets in a step."""

    job: Job
    rows: int


class Scheduler:
    """Knows blocks and tokens, but neither a model nor a clock."""

    def __init__(
        self, config: ModelConfig, pool: BlockPool, rows: int, mixed_rows: int = MIXED_ROWS
    ) -> None:
        self._config, self._pool, self.prefix = config, pool, PrefixCache(pool)
        self._rows, self._mixed_rows = rows, min(mixed_rows, rows)
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self._registered: dict[Job, int] = {}  # full blocks in the prefix cache
        self._writing: set[Job] = set()  # those whose whole prompt is there
        self._refused: tuple[Job, int, int] | None = None  # who found no room, and what there was

    def add(self, job: Job) -> None:
        """Let a job wait for its turn."""
        self.waiting.append(job)

    def plan(self) -> list[Share]:
        """Admit who has room, and return the rows of the next step."""
        self._admit()
        writing = [job for job in self.running if job.writing]
        reading = [job for job in self.running if not job.writing]
        left = self._mixed_rows if writing and len(writing) < self._mixed_rows else self._rows
        shares = []
        for i, job in enumerate(writing):
            rows = min(job.pending(), max(left - (len(writing) - 1 - i), 1))
            shares.append(Share(job, rows))
            left -= rows
        return [*shares, *self._spread(reading, max(left, min(len(reading), 1)))]

    def _spread(self, reading: list[Job], rows: int) -> Iterator[Share]:
        """Share rows evenly; what one does not need goes to the others."""
        for i, job in enumerate(sorted(reading, key=lambda job: job.pending())):
            share = min(job.pending(), -(-rows // (len(reading) - i)))
            if share:
                yield Share(job, share)
            rows -= share

    def _admit(self) -> None:
        while self.waiting:
            job = self.waiting[0]
            state = job, self._pool.available, self.prefix.changes
            if state == self._refused:  # nothing that decides has changed since
                return
            for match in self._matches(job):
                need = count_blocks(self._config, job.most_tokens, self._rows) - len(match.held)
                if need + match.revived <= self._pool.available:
                    self.waiting.popleft()
                    self._start(job, match, need)
                    break
            else:
                self._refused = state
                return

    def _matches(self, job: Job) -> Iterator[Match]:
        """Yield what a job may reuse, the most first.

        What is reused cannot make room at the same time: where there is little, less is reused.
        """
        if job.reuses:
            match = self.prefix.match(job.tokens, job.salt)
            shared = any(self._pool.holders(block) for block in match.held)
            # A block that two hold does not come back when the first one's window has passed it.
            if shared and self._config.sliding_window is not None:
                yield self.prefix.as_copies(match)
            else:
                yield match
                yield self.prefix.without_part(match)
        yield Match([], 0)

    def _start(self, job: Job, match: Match, need: int) -> None:
        for block in match.copied:
            self._pool.hold(block)  # so that it does not make room for its own copy
        job.table = BlockTable(self._pool, need, match.blocks)
        for place, block in enumerate(match.copied, len(match.blocks)):
            count = min(match.tokens - place * KV_BLOCK, KV_BLOCK)
            job.table.prepare(place * KV_BLOCK, count)
            self._pool.copy(block, job.table.blocks[place], count)
            self._pool.give_back(block)
        job.computed = job.cached = match.tokens
        self.prefix.asked_tokens += len(job.tokens)
        self.prefix.hit_tokens += match.tokens
        self._registered[job] = len(match.blocks)
        self.running.append(job)

    def done(self, shares: list[Share]) -> None:
        """Note that the rows of a step are in the cache now."""
        for job, rows in shares:
            job.computed = min(job.computed + rows, len(job.tokens))  # a draft's rows not counted

    def settle(self, job: Job) -> None:
        """Offer what a job has computed to others; let it go if it has ended.

        While it goes on, these are its full blocks, and all of its prompt when that is done.
        """
        if job not in self.running:
            return
        full = job.computed // KV_BLOCK
        begins = job.writing and job not in self._writing
        if begins:
            self._writing.add(job)
        if job.reuses and (job.ended or begins):
            self._register(job, job.computed)
        elif job.reuses and full > self._registered[job]:
            self._register(job, full * KV_BLOCK)
        if job.ended:
            self._leave(job)

    def _register(self, job: Job, count: int) -> None:
        first = max(self._registered[job], job.table.first_held)
        self.prefix.register(job.table.blocks, job.tokens[:count], first, job.salt)
        self._registered[job] = count // KV_BLOCK

    def drop(self, job: Job) -> None:
        """Forget a job that waits, or give back what it holds, its blocks not offered to others."""
        if job in self.running:
            self._leave(job)
        elif job in self.waiting:
            self.waiting.remove(job)

    def _leave(self, job: Job) -> None:
        job.table.close()
        self.running.remove(job)
        del self._registered[job]
        self._writing.discard(job)

    @property
    def jobs(self) -> list[Job]:
        """All that has not ended."""
        return [*self.running, *self.waiting]
