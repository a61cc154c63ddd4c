"""What a text goes through, by a clock of our own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from naive import config

from cpumix.engine import phase
from cpumix.engine.pooling import Pooling
from cpumix.engine.reading import Reading
from cpumix.engine.sequence import Request, Text
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.sampling import Sampler, SamplingParams


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(phase, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def on_blocks(job):
    job.table = BlockTable(BlockPool(config(head_dim=16), 1, "f16"), 1)
    return job


def test_a_text_waits_is_read_and_is_written(clock):
    sampler = Sampler(SamplingParams(temperature=0))
    text = on_blocks(Text(Request([1, 2, 3], 9, sampler, frozenset()), 64, 1, lambda event: None))
    clock.now = 102.0
    assert [*text.watch.phases()] == [("queue", 100, 102)]
    text.step(2)  # whose step was given up, for a newcomer
    clock.now = 103.0
    text.step(2)
    text.computed = 2
    text.take(np.empty((0, 8), np.float32))
    clock.now = 105.0
    assert [*text.watch.phases()] == [("queue", 100, 102), ("prompt", 102, 105)]
    for now in (107.0, 108.5):
        text.step(1)
        clock.now, text.computed = now, len(text.tokens)
        text.take(np.zeros((1, 8), np.float32))
    clock.now = 200.0
    assert [*text.watch.phases()] == [
        ("queue", 100, 102),
        ("prompt", 102, 107),
        ("decode", 107, 108.5),
    ]
    stats = text.stats
    assert (stats.queue_seconds, stats.prompt_seconds, stats.generate_seconds) == (2, 5, 1.5)
    assert stats.time_to_first_token_seconds == stats.queue_seconds + stats.prompt_seconds


def test_a_reading_has_a_queue_and_a_prompt(clock):
    reading = on_blocks(Reading([1, 2], Pooling.LAST, lambda x: x, lambda found: None))
    clock.now = 101.0
    reading.step(2)
    clock.now, reading.computed = 104.0, 2
    reading.take(np.ones((1, 4), np.float32))
    clock.now = 200.0
    assert [*reading.watch.phases()] == [("queue", 100, 101), ("prompt", 101, 104)]
