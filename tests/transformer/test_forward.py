"""The forward pass equals its definition, however the tokens come and however many threads work."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import reference
from model_files import relative_error, stored_weights
from tiny_models import CONFIGS

import cpumix

TOKENS = 100  # more than any window, and than a block of the cache
# Largest relative RMS of a token's logits against float64, bfloat16 weights and a float32 cache: as
# measured 1.4e-6, a few roundings of float32 per layer.
EXACT_TOLERANCE = 2e-6
# The same of the median token against float64 on the very weights of the file, as measured: rows
# are rounded to 8 bits before each product (0.5 % each). The median, because a token whose router
# was undecided takes another expert. All levels of instructions agree on seven digits.
CODES_ERROR = {
    ("moe", "int8"): 0.015633,
    ("moe", "int4"): 0.021289,
    ("dense", "int8"): 0.015662,
    ("dense", "int4"): 0.014906,
    ("window", "int8"): 0.017119,
    ("window", "int4"): 0.016161,
    ("odd", "int8"): 0.016865,
    ("odd", "int4"): 0.016249,
}
# A cache of 11 bits (float16), or of 8 with a scale, against a float32 one, as measured 3.05e-4 and
# 6.3e-3 at most.
CACHE_TOLERANCE = {"f16": 3.2e-4, "int8": 6.6e-3}

PRECISIONS = ("bf16", "int8", "int4")


def prompt(name: str, count: int = TOKENS) -> list[int]:
    """Return random ids of a model's vocabulary."""
    random = np.random.default_rng(0)
    return random.integers(3, CONFIGS[name]["vocab_size"], count).tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_reference_in_bf16(model_file, name):
    ids = prompt(name)
    with cpumix.load(model_file(name, "bf16"), threads=1) as model:  # its cache is float32
        expected = reference.forward(model.config, stored_weights(model.file), ids)
        assert relative_error(model.logits(ids), expected).max() < EXACT_TOLERANCE


@pytest.mark.parametrize(("name", "precision"), CODES_ERROR)
def test_equals_the_reference_on_the_quantized_weights(model_file, name, precision):
    ids = prompt(name)
    with cpumix.load(model_file(name, precision), threads=1, kv="f32") as model:
        expected = reference.forward(model.config, stored_weights(model.file), ids)
        error = np.median(relative_error(model.logits(ids), expected))
    assert error == pytest.approx(CODES_ERROR[name, precision], rel=0.01)


@pytest.mark.parametrize("kv", CACHE_TOLERANCE)
@pytest.mark.parametrize("name", ["moe", "window"])
def test_smaller_cache_is_nearly_as_good(model_file, name, kv):
    ids = prompt(name)
    with cpumix.load(model_file(name, "bf16"), threads=1, kv="f32") as model:
        expected = model.logits(ids)
    with cpumix.load(model_file(name, "bf16"), threads=1, kv=kv) as model:
        found = model.logits(ids)
        one_by_one = [model.restart(), *(model.advance([token]) for token in ids)][1:]
    assert 0 < np.median(relative_error(found, expected)) < CACHE_TOLERANCE[kv]
    np.testing.assert_array_equal(found, one_by_one)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_equals_decoding_one_by_one(model_file, name, precision):
    ids = prompt(name)
    with cpumix.load(model_file(name, precision), threads=1) as model:
        together = model.logits(ids)
        model.restart()
        one_by_one = np.stack([model.advance([token]) for token in ids])
    np.testing.assert_array_equal(together, one_by_one)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_only_the_last_token_goes_through_is_right(model_file, name):
    """The last layer leaves out the tokens whose logits nobody asked for."""
    ids = prompt(name)
    with cpumix.load(model_file(name, "int8"), threads=1) as model:
        expected = model.logits(ids)
        for first, end in ((0, len(ids)), (0, 5), (5, 6), (6, len(ids))):
            if first == 0:
                model.restart()
            np.testing.assert_array_equal(model.advance(ids[first:end]), expected[end - 1])
        engine = model._engine
        for wanted in (1, 2, 17, len(ids)):
            model.restart()
            found = engine.loop.call(partial(engine.session.advance, ids, wanted))
            np.testing.assert_array_equal(found, expected[-wanted:])


@pytest.mark.parametrize("batch", [1, 3, 16, 33, 64])
@pytest.mark.parametrize("name", ["moe", "window"])
def test_batches_do_not_show(model_file, monkeypatch, name, batch):
    ids = prompt(name, 200)  # with a window, more than the rolling cache of small batches holds
    with cpumix.load(model_file(name, "int4"), threads=1) as model:
        expected = model.logits(ids)
    monkeypatch.setattr("cpumix.engine.engine.PREFILL_CHUNK", batch)
    with cpumix.load(model_file(name, "int4"), threads=1) as model:
        assert model.prefill_chunk == batch
        np.testing.assert_array_equal(model.logits(ids), expected)
        if name == "window":
            assert 64 * model._engine.pool.blocks < len(ids)
            model.restart()
            for token in ids:
                last = model.advance([token])
            np.testing.assert_array_equal(last, expected[-1])


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["moe", "dense"])
def test_threads_do_not_show(model_file, name, precision):
    ids = prompt(name)
    answers = []
    with cpumix.load(model_file(name, precision)) as model:
        most = model.threads
    for threads in range(1, most + 1):
        with cpumix.load(model_file(name, precision), threads=threads) as model:
            answers.append((model.logits(ids), model.generate_ids(ids, 10)))
    for logits, tokens in answers:
        np.testing.assert_array_equal(logits, answers[0][0])
        assert tokens == answers[0][1]


def test_size_of_the_context_does_not_show(model_file):
    ids = prompt("window", 20)
    path = model_file("window", "int8")
    with (
        cpumix.load(path, context=20, threads=1) as small,
        cpumix.load(path, context=500, threads=1) as large,
    ):
        np.testing.assert_array_equal(small.logits(ids), large.logits(ids))


def test_two_models_at_once_do_not_disturb_each_other(model_file):
    ids = prompt("moe", 30)
    path, other = model_file("moe", "int8"), model_file("dense", "int4")
    with cpumix.load(path, threads=1) as first, cpumix.load(other) as second:
        before = first.logits(ids)
        pieces = iter(first.generate("ab", max_tokens=10))
        next(pieces)
        second.logits(ids)
        list(pieces)
        np.testing.assert_array_equal(first.logits(ids), before)


def test_logits_outlive_the_model(model_file):
    with cpumix.load(model_file("odd", "bf16"), threads=1) as model:
        logits = model.logits([1, 2, 3])
        kept = logits.copy()
        model.logits([4, 5, 6])
    assert logits.shape == (3, CONFIGS["odd"]["vocab_size"])
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, kept)


def test_later_tokens_do_not_change_earlier_logits(model_file):
    ids = prompt("moe")
    with cpumix.load(model_file("moe", "int8"), threads=1) as model:
        np.testing.assert_array_equal(model.logits(ids)[:40], model.logits(ids[:40]))
