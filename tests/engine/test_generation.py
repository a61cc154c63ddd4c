"""A loaded model writes: how it stops, what it counts, what it refuses."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from stats_names import STATS_NAMES
from tiny_models import CONFIGS, write_model

import cpumix
from cpumix.errors import BudgetError, ConfigError
from cpumix.kernels.compile.isa import active
from cpumix.model import Model
from cpumix.sampling import SamplingParams

CONTEXT = 64


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"), CONFIGS["moe"])


@pytest.fixture
def model(path):
    with cpumix.load(path, context=CONTEXT, threads=1) as model:
        yield model


def greedy(model: Model, ids: list[int], count: int) -> list[int]:
    """Return the likeliest tokens, each from a full pass."""
    made = list(ids)
    for _ in range(count):
        made.append(int(model.logits(made)[-1].argmax()))
    return made[len(ids) :]


def test_temperature_zero_takes_the_likeliest_token(model):
    ids = [1, 300, 17]
    assert model.generate_ids(ids, 12) == greedy(model, ids, 12)
    assert "".join(model.generate("some words", temperature=0)) == "".join(
        model.generate("some words", SamplingParams(temperature=0))
    )


def test_seed_fixes_the_text(model):
    def text(seed: int | None) -> str:
        return "".join(model.generate("ab cd", max_tokens=20, temperature=1.0, seed=seed))

    assert text(3) == text(3)
    assert text(3) != text(4)
    assert text(None) != text(None)


@pytest.mark.slow
def test_threads_do_not_change_the_text(path):
    with cpumix.load(path) as model:
        most = model.threads
    texts = []
    for threads in range(1, most + 1):
        with cpumix.load(path, context=CONTEXT, threads=threads) as other:
            assert other.threads == threads
            generation = other.generate("ab cd", max_tokens=20, temperature=1.0, seed=5)
            texts.append("".join(generation))
            assert generation.stats.threads == threads
    assert len(set(texts)) == 1


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_stops_at_max_tokens(model, count):
    generation = model.generate("one two", max_tokens=count, temperature=0)
    text = "".join(generation)
    assert generation.stop_reason == "length"
    assert generation.stats.generated_tokens == count
    assert (text == "") == (count == 0)


def test_stops_when_the_context_is_full(model):
    ids = model.tokenizer.encode("one two three")
    generation = model.generate("one two three", max_tokens=1000, ignore_eos=True)
    list(generation)
    assert generation.stop_reason == generation.stats.stop_reason == "context"
    assert generation.stats.to_dict()["stop_reason"] == "context"
    assert "end         the context is full (--context)" in generation.stats.summary()
    # The last token needs no place: nothing is computed from it.
    assert generation.stats.generated_tokens == CONTEXT - len(ids) + 1


def test_full_context_and_max_tokens_at_once_is_length(model):
    ids = list(range(3, 3 + CONTEXT))
    assert len(model.generate_ids(ids, 5)) == 1
    assert len(model.generate_ids(ids[:-4], 5)) == 5


@pytest.mark.parametrize("several", [False, True])
def test_stops_at_the_end_that_config_json_names(path, model, tmp_path, several):
    text = "one two"
    ids = model.tokenizer.encode(text)
    tokens = model.generate_ids(ids, 12)
    place = next(i for i in range(3, 12) if tokens[i] not in tokens[:i])
    eos = [tokens[place], 2] if several else tokens[place]
    file = write_model(tmp_path, CONFIGS["moe"] | {"eos_token_id": eos})
    with cpumix.load(file, context=CONTEXT, threads=1) as ending:
        generation = ending.generate(text, max_tokens=12, temperature=0)
        assert "".join(generation) == "".join(model.generate(text, max_tokens=place, temperature=0))
        assert generation.stop_reason == "eos"
        assert generation.stats.generated_tokens == place


def test_generate_ids_stops_before_the_token_asked_for(model):
    ids = [1, 40, 41]
    tokens = model.generate_ids(ids, 10)
    place = tokens.index(tokens[4])
    assert model.generate_ids(ids, 10, stop=[tokens[4]]) == tokens[:place]


def test_stats_are_complete_and_agree(path, model):
    generation = model.generate("one two three", max_tokens=9, temperature=0)
    assert generation.stats.generated_tokens == 0  # it has not begun
    list(generation)
    stats = generation.stats.to_dict()
    assert list(stats) == STATS_NAMES
    assert stats["prompt_tokens"] == len(model.tokenizer.encode("one two three"))
    assert stats["generated_tokens"] == 9
    assert 0 < stats["prompt_seconds"] < stats["time_to_first_token_seconds"]
    assert 0 < stats["generate_seconds"]
    assert stats["mapped_bytes"] == path.stat().st_size
    assert 0 < stats["resident_bytes"] <= stats["mapped_bytes"]
    assert stats["peak_rss_bytes"] > 30 << 20  # Python and NumPy alone take as much
    assert (stats["threads"], stats["isa"]) == (model.threads, active().name)
    assert generation.stats.summary().count("tok/s") == 2


def test_text_is_written_whether_or_not_anybody_reads(model):
    generation = model.generate("one two", max_tokens=20, temperature=0)
    pieces = iter(generation)
    first = next(pieces)
    model.logits([1, 2, 3])  # comes to its turn when there is room: after the text
    assert generation.stats.generated_tokens == 20
    whole = "".join(model.generate("one two", max_tokens=20, temperature=0))
    assert first + "".join(pieces) == whole


def test_summary_of_one_token_claims_no_speed(model):
    generation = model.generate("one two", max_tokens=1, temperature=0)
    list(generation)
    generation.stats.threads = 1
    assert "generation  1 token in 0.0" in generation.stats.summary()
    assert generation.stats.summary().count("tok/s") == 1
    assert "1 thread, " in generation.stats.summary()


def test_stats_of_an_abandoned_text(model):
    generation = model.generate("one two", max_tokens=30, temperature=0)
    pieces = iter(generation)
    next(pieces)
    next(pieces)
    stats = generation.stats
    assert 2 <= stats.generated_tokens <= 30  # the engine does not wait for who reads
    assert stats.threads == model.threads
    assert stats.mapped_bytes > 0
    assert generation.stop_reason == ""


def test_text_of_a_model_closed_meanwhile_is_refused(path):
    with cpumix.load(path, threads=1) as model:
        pieces = iter(model.generate("one two", max_tokens=500, temperature=0))
        next(pieces)
    with pytest.raises(ConfigError, match="text: the model was closed before its end"):
        list(pieces)


def test_model_that_nobody_closes_gives_its_threads_and_files_back(path):
    model = cpumix.load(path, threads=1)
    model.generate_ids([1], 3)
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    with pytest.warns(ResourceWarning, match="dropped without close"):
        del model
        gc.collect()
    assert threading.active_count() < threads
    assert len(os.listdir("/proc/self/fd")) < descriptors


def test_closed_model(path):
    with cpumix.load(path) as model:
        assert len(model.generate_ids([1], 3)) == 3
    model.close()
    model.close()
    for use in (
        lambda: model.logits([1]),
        lambda: model.generate("x"),
        lambda: model.generate_ids([1], 1),
        lambda: model.advance([1]),
    ):
        with pytest.raises(ConfigError, match="model: expected an open one, found it closed"):
            use()


def test_advance_continues_where_it_was(model):
    ids = list(range(5, 25))
    expected = model.logits(ids)
    model.restart()
    np.testing.assert_array_equal(model.advance(ids[:7]), expected[6])
    np.testing.assert_array_equal(model.advance(ids[7:]), expected[-1])
    with pytest.raises(ConfigError, match=r"64 in all, found 45 at once and 65 in all. Load the"):
        model.advance(list(range(45)))


@pytest.mark.parametrize("prompt", ["", " ", "\n\t "])
def test_empty_prompt(model, prompt):
    with pytest.raises(ConfigError, match=r"expected some text, found none\. Give it with -p"):
        model.generate(prompt)
    with pytest.raises(ConfigError, match="prompt: expected at least one token, found none"):
        model.logits([])


def test_prompt_longer_than_the_context(path, model):
    ids = [3] * (CONTEXT + 1)
    with pytest.raises(ConfigError, match=r"65 tokens do not fit .* of 64. Use --context 65 or mo"):
        model.generate_ids(ids, 1)
    with pytest.raises(ConfigError, match=r"65 tokens do not fit into a context of 64"):
        model.logits(ids)
    with pytest.raises(ConfigError, match=r"tokens do not fit .* Use --context \d+ or more"):
        model.generate("word " * 100)
    longest = model.config.max_position_embeddings
    with pytest.raises(ConfigError, match=r"600 tokens do not fit .* Shorten it to 512 tokens"):
        model.logits([3] * 600)
    assert longest == 512


@pytest.mark.parametrize("ids", [[-1], [384], [1, 10**9], np.array([5, 384])])
def test_ids_outside_the_vocabulary(model, ids):
    with pytest.raises(
        ConfigError, match=r"expected token ids from 0 to 383, found .* another mode"
    ):
        model.logits(ids)


def test_ids_in_an_array(model):
    ids = np.array([1, 5, 9], np.int32)
    np.testing.assert_array_equal(model.logits(ids), model.logits(ids.tolist()))
    assert model.generate_ids(ids, 3) == model.generate_ids(ids.tolist(), 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": -0.1}, "temperature: expected 0 or more, found -0.1"),
        ({"temperature": float("nan")}, "temperature: expected 0 or more, found nan"),
        ({"temperature": float("inf")}, "temperature: expected 0 or more, found inf"),
        ({"top_k": -1}, r"top_k: expected 0 \(all tokens\) or more, found -1"),
        ({"top_p": 0.0}, "top_p: expected more than 0 and at most 1, found 0.0"),
        ({"top_p": 1.1}, "top_p: expected more than 0 and at most 1, found 1.1"),
        ({"top_p": float("nan")}, "top_p: expected more than 0 and at most 1, found nan"),
        ({"seed": -1}, "seed: expected 0 or more, found -1"),
        ({"max_tokens": -1}, "max_tokens: expected 0 or more, found -1"),
    ],
)
def test_sampling_that_means_nothing(model, option, message):
    with pytest.raises(ConfigError, match=message):
        model.generate("x", **option)


@pytest.mark.parametrize("temperature", [1e-310, 1e-9, 1e300])
def test_extreme_temperatures_work(model, temperature):
    params = SamplingParams(temperature=temperature, top_k=0, top_p=1, min_p=0, seed=1)
    cold = "".join(model.generate("ab", params, max_tokens=8))
    likeliest = "".join(model.generate("ab", max_tokens=8, temperature=0))
    assert (cold == likeliest) == (temperature < 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"ram": "2M"},
            BudgetError,
            r"budget of 2.0 MiB is below the 1\d\d.\d MiB .* context of 5",
        ),
        ({"ram": 1 << 21}, BudgetError, r"Use --ram 1\d\dM or more.$"),
        ({"ram": "much"}, ConfigError, 'size: expected an amount .* found "much"'),
        (
            {"threads": 0},
            ConfigError,
            r"threads: expected 1 to \d+, the processors of this machine",
        ),
        ({"threads": 5000}, ConfigError, "threads: expected 1 to .* found 5000"),
        ({"context": 513}, ConfigError, "context: expected 1 to 512 tokens, .* found 513"),
        ({"context": 0}, ConfigError, "context: expected 1 to 512 tokens, .* found 0"),
        ({"kv": "f8"}, ConfigError, 'KV cache: expected one of f16, int8, f32, found "f8"'),
    ],
)
def test_load_refuses(path, options, error, message):
    with pytest.raises(error, match=message):
        cpumix.load(path, **options)


def test_context_is_the_models_if_that_is_short(path):
    with cpumix.load(path) as model:
        assert model.context == 512
    with cpumix.load() as demo:
        assert demo.context == min(4096, demo.config.max_position_embeddings)


def test_control_tokens_in_a_prompt_are_tokens_only_if_special(model):
    """Without a second BOS where the prompt begins with one."""
    tokenizer = model.tokenizer
    text = "<s>one two</s>"
    plain, special = (model.generate(text, special=flag, raw=True) for flag in (False, True))
    assert plain.request.ids == tokenizer.encode(text)
    assert special.request.ids == [1, *tokenizer.encode("one two", bos=False), 2]
    assert tokenizer.find_control(text) == "<s>"
    assert tokenizer.find_control("one two") is None
