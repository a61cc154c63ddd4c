"""The scheduler by itself: a seeded simulation with a false clock, and no model."""

from __future__ import annotations

import numpy as np
import pytest
from naive import config

from cpumix.engine.job import Job
from cpumix.engine.scheduler import Scheduler
from cpumix.kv.formats import count_blocks
from cpumix.kv.pool import BlockPool
from cpumix.transformer.batch import Batch, Step

SHAPE = {"num_key_value_heads": 1, "num_attention_heads": 1, "head_dim": 16}
ROWS, MIXED = 128, 16


class Fake(Job):
    """A text whose tokens are known beforehand; each step costs as many ticks as it has rows."""

    def __init__(self, number: int, prompt: list[int], answer: list[int], arrives: int) -> None:
        self.number, self.tokens, self.answer = number, list(prompt), answer
        self.prompt, self.arrives, self.said = len(prompt), arrives, 0
        self.waits: list[int] = []  # ticks between its tokens
        self.last = arrives

    most_tokens = property(lambda self: self.prompt + len(self.answer) - 1)
    writing = property(lambda self: self.said > 0)
    ended = property(lambda self: self.said == len(self.answer))

    def pending(self) -> int:
        return len(self.tokens) - self.computed

    def step(self, count: int) -> Step:
        ids = self.tokens[self.computed : self.computed + count]
        return Step(ids, self.computed, self.table, int(count == self.pending()))

    def take(self, logits) -> None:
        if len(logits):
            self.tokens.append(self.answer[self.said])
            self.said += 1

    def finish(self, reason: str) -> None:
        raise AssertionError

    def fail(self, error: BaseException) -> None:
        raise error


class Simulation:
    """Jobs that arrive and are cancelled at random, over a pool that holds few of them."""

    def __init__(self, seed: int, window: int | None = None, blocks: int = 24) -> None:
        self.random = np.random.default_rng(seed)
        self.config = config(**SHAPE, sliding_window=window)
        self.pool = BlockPool(self.config, blocks, "f16")
        self.scheduler = Scheduler(self.config, self.pool, ROWS, MIXED)
        self.content: dict[int, tuple[int, int]] = {}  # by slot: position and token
        self.pool.copy = self.copy
        self.clock, self.ended, self.admitted = 0, [], []
        shared = self.random.integers(0, 50, 150).tolist()
        self.coming = []
        for number in range(40):
            begin = shared[: int(self.random.integers(0, 150))]
            own = self.random.integers(0, 50, int(self.random.integers(1, 90))).tolist()
            answer = self.random.integers(0, 50, int(self.random.integers(1, 60))).tolist()
            arrives = int(self.random.integers(0, 3000))
            self.coming.append(Fake(number, begin + own, answer, arrives))
        self.coming.sort(key=lambda job: job.arrives)

    def copy(self, source: int, target: int, count: int) -> None:
        for i in range(count):
            self.content[64 * target + i] = self.content[64 * source + i]

    def run(self, cancel: float = 0.0) -> None:
        while self.coming or self.scheduler.jobs:
            while self.coming and self.coming[0].arrives <= self.clock:
                self.scheduler.add(self.coming.pop(0))
            for job in self.scheduler.jobs:
                if self.random.random() < cancel:
                    self.scheduler.drop(job)
            waiting = list(self.scheduler.waiting)
            shares = self.scheduler.plan()
            self.admitted += [job for job in waiting if job not in self.scheduler.waiting]
            if not shares:
                assert not self.scheduler.jobs
                self.clock = self.coming[0].arrives if self.coming else self.clock
                continue
            self.step(shares)

    def step(self, shares) -> None:
        rows = sum(share.rows for share in shares)
        writing = sum(job.writing for job, _ in shares)
        assert 0 < rows <= (max(MIXED, writing + 1) if writing else ROWS)
        batch = Batch([job.step(count) for job, count in shares])
        held = self.pool.held + self.pool.cached
        assert 0 <= self.pool.reserved
        assert held + self.pool.reserved <= self.pool.blocks + self.pool.cached
        for slot, position, token in zip(batch.slots, batch.positions, batch.ids, strict=True):
            self.content[int(slot)] = int(position), int(token)
        for job, count in shares:
            self.check(job, job.computed + count)
        self.clock += rows
        self.scheduler.done(shares)
        counts = [step.num_logits for step in batch.steps]
        for (job, _), logits in zip(shares, counts, strict=True):
            if logits:
                job.waits.append(self.clock - job.last)
                job.last = self.clock
            job.take(range(logits))
            self.scheduler.settle(job)
            if job.ended:
                self.ended.append(job)

    def check(self, job: Fake, end: int) -> None:
        """All that a job's last token sees is where its table says, whoever wrote it."""
        first = max(0, end - self.pool.window)
        slots = job.table.slots(first, end - first)
        for position, slot in enumerate(slots, first):
            assert self.content[int(slot)] == (position, job.tokens[position])


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 30, 200])
@pytest.mark.parametrize("cancel", [0.0, 0.01])
@pytest.mark.parametrize("seed", range(6))
def test_every_text_reads_its_own_tokens_and_all_end(seed, window, cancel):
    simulation = Simulation(seed, window)
    jobs = list(simulation.coming)
    simulation.run(cancel)
    if not cancel:
        assert {job.number for job in simulation.ended} == set(range(40))
    for job in simulation.ended:
        assert job.tokens[job.prompt :] == job.answer
    assert (simulation.pool.held, simulation.pool.reserved) == (0, 0)
    assert simulation.pool.available == simulation.pool.blocks
    order = [job.arrives for job in simulation.admitted]
    assert order == sorted(order)  # first come, first served
    assert sum(job.cached for job in jobs) > 0  # beginnings were shared


def test_those_who_write_get_a_row_in_every_step():
    simulation = Simulation(1, blocks=200)
    simulation.run()
    for job in simulation.ended:
        assert max(job.waits[1:], default=0) <= max(MIXED, len(simulation.ended))


def test_a_prompt_shares_what_those_who_write_leave():
    simulation = Simulation(0, blocks=200)
    writer = Fake(1, [1], [2] * 50, 0)
    readers = [Fake(n, [n] * 100, [3], 0) for n in (2, 3)]
    scheduler = simulation.scheduler
    scheduler.add(writer)
    simulation.step(scheduler.plan())
    for job in readers:
        scheduler.add(job)
    shares = {share.job.number: share.rows for share in scheduler.plan()}
    assert shares == {1: 1, 2: 8, 3: 7}


def test_room_is_reserved_before_a_text_begins():
    simulation = Simulation(0, blocks=4)
    scheduler, pool = simulation.scheduler, simulation.pool
    first, second = Fake(1, [1] * 100, [2] * 60, 0), Fake(2, [3] * 100, [4] * 60, 0)
    assert count_blocks(simulation.config, first.most_tokens, ROWS) == 3
    scheduler.add(first)
    scheduler.add(second)
    scheduler.plan()
    assert (scheduler.running, list(scheduler.waiting)) == ([first], [second])
    assert pool.available == 1
    scheduler.drop(first)
    scheduler.plan()
    assert scheduler.running == [second]


@pytest.mark.parametrize("window", [None, 30, 200])
def test_another_answer_costs_the_last_token_of_the_prompt(window):
    """Also while the first one is being written, and where no block can be shared."""
    simulation = Simulation(0, window, blocks=60)
    scheduler, prompt = simulation.scheduler, simulation.random.integers(0, 50, 333).tolist()
    simulation.coming = []
    first = Fake(1, prompt, [7] * 50, 0)
    scheduler.add(first)
    while not first.writing:
        simulation.step(scheduler.plan())
    for job in (others := [Fake(n, prompt, [n] * 50, 0) for n in (2, 3)]):
        scheduler.add(job)
    simulation.run()
    assert [job.cached for job in others] == [332, 332]
    assert (simulation.pool.held, simulation.pool.reserved) == (0, 0)


def test_a_text_that_waits_is_matched_again_when_something_has_changed(monkeypatch):
    simulation = Simulation(0, blocks=4)
    scheduler, asked = simulation.scheduler, []
    match = scheduler.prefix.match
    monkeypatch.setattr(scheduler.prefix, "match", lambda *args: asked.append(1) or match(*args))
    first, second = Fake(1, [1] * 100, [2] * 60, 0), Fake(2, [1] * 99 + [3], [4] * 90, 0)
    scheduler.add(first)
    scheduler.add(second)
    simulation.step(scheduler.plan())  # both are matched; then a full block is known
    assert len(asked) == 2
    for _ in range(20):
        simulation.step(scheduler.plan())
    assert len(asked) == 3
    scheduler.drop(first)
    scheduler.plan()
    assert (len(asked), scheduler.running) == (4, [second])
