"""A sequence's bits do not depend on which sequences go through the model with it."""

from __future__ import annotations

import numpy as np
import pytest
from naive import config

from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.model import Model
from cpumix.transformer.batch import Batch, Step

pytestmark = pytest.mark.slow

SHAPE = {"num_key_value_heads": 1, "num_attention_heads": 2, "head_dim": 16}


def test_rows_whose_logits_are_wanted_come_last():
    pool = BlockPool(config(**SHAPE), 4, "f16")
    tables = [BlockTable(pool, 1) for _ in range(3)]
    steps = [
        Step([1, 2, 3], 10, tables[0], 1),
        Step([4], 60, tables[1], 1),
        Step([5, 6], 0, tables[2], 0),
    ]
    batch = Batch(steps)
    assert batch.ids.tolist() == [1, 2, 5, 6, 3, 4]
    assert batch.positions.tolist() == [10, 11, 0, 1, 12, 60]
    assert batch.slots.tolist() == [10, 11, 128, 129, 12, 64 + 60]
    assert (len(batch), batch.num_logits) == (6, 2)
    assert (batch.rows_through(False), batch.rows_through(True)) == (6, 2)
    slots, tables_, items = batch.place(is_last_layer=False)
    assert slots is batch.slots
    assert tables_.tolist() == [0, 1, 2]
    assert items.tolist() == [[0, 10, 2, 0], [2, 0, 2, 2], [4, 12, 1, 0], [5, 60, 1, 1]]
    assert batch.place(is_last_layer=True).items.tolist() == [[0, 12, 1, 0], [1, 60, 1, 1]]


def test_rows_that_want_hidden_states_come_after_those_that_want_logits():
    pool = BlockPool(config(**SHAPE), 3, "f16")
    steps = [
        Step([1, 2, 3], 0, BlockTable(pool, 1), 2, hidden=True),
        Step([4], 0, BlockTable(pool, 1), 1),
        Step([5, 6], 0, BlockTable(pool, 1), 1, hidden=True),
    ]
    batch = Batch(steps)
    assert batch.ids.tolist() == [1, 5, 4, 2, 3, 6]
    assert (batch.num_logits, batch.num_hidden) == (4, 3)
    assert batch.wanted_of_steps == [slice(1, 3), slice(0, 1), slice(3, 4)]


def test_long_spans_are_cut():
    pool = BlockPool(config(**SHAPE), 1, "f16")
    batch = Batch([Step(range(20), 0, BlockTable(pool, 1), 1)])
    assert batch.place(False).items.tolist() == [
        [0, 0, 8, 0],
        [8, 8, 8, 0],
        [16, 16, 3, 0],
        [19, 19, 1, 0],
    ]


class Sequences:
    """Several texts in one model, which go on by any mix of chunks."""

    def __init__(self, model: Model, texts: list[list[int]]) -> None:
        engine = model._engine
        engine.session.close()
        blocks = engine.pool.blocks // len(texts)
        self.model, self.texts = model, texts
        self.tables = [BlockTable(engine.pool, blocks) for _ in texts]
        self.done = [0] * len(texts)
        self.found: list[list[np.ndarray]] = [[] for _ in texts]

    def step(self, counts: list[int], wanted: list[int]) -> None:
        """Take `counts` tokens of each text through the model in one batch."""
        steps, who = [], []
        for i, (count, logits) in enumerate(zip(counts, wanted, strict=True)):
            if count:
                ids = self.texts[i][self.done[i] : self.done[i] + count]
                steps.append(Step(ids, self.done[i], self.tables[i], logits))
                who.append(i)
                self.done[i] += count
        batch = Batch(steps)
        transformer = self.model._engine.transformer
        rows = transformer.forward(batch)
        assert sum(map(len, rows)) == batch.num_logits and not transformer.find_faults(batch, rows)
        for i, found in zip(who, rows, strict=True):
            self.found[i] += [(self.done[i], found)] if len(found) else []


@pytest.mark.parametrize("kv", ["f16", "int8", "f32"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["moe", "window"])
@pytest.mark.parametrize("precision", ["int4", "int8", "bf16"])
def test_each_sequence_has_the_logits_that_it_has_alone(model_file, name, precision, kv, threads):
    random = np.random.default_rng(len(name) + threads)
    path = model_file(name, precision)
    with Model(path, threads=threads, kv=kv, parallel=5) as model:
        vocabulary = model.config.vocab_size
        texts = [random.integers(3, vocabulary, n).tolist() for n in (130, 3, 70, 33, 200)]
        alone = [model.logits(text) for text in texts]
        sequences = Sequences(model, texts)
        while any(d < len(t) for d, t in zip(sequences.done, texts, strict=True)):
            left = [len(t) - d for d, t in zip(sequences.done, texts, strict=True)]
            counts = [min(n, int(random.integers(0, 40))) for n in left]
            wanted = [int(random.integers(0, min(n, 3) + 1)) for n in counts]
            if any(counts):
                sequences.step(counts, wanted)
    compared = 0
    for i, pieces in enumerate(sequences.found):
        for end, rows in pieces:
            np.testing.assert_array_equal(rows, alone[i][end - len(rows) : end])
            compared += len(rows)
    assert compared > 10
