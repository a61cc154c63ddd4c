"""Many texts at once: each is what it is alone, whoever comes, leaves or fails meanwhile."""

from __future__ import annotations

import asyncio
import math
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_models import CONFIGS, write_model

import cpumix
from cpumix.engine.generation import Generation
from cpumix.errors import ConfigError, FormatError
from cpumix.model import Model
from cpumix.sampling import SamplingParams

WORDS = "one two three four five six seven eight nine ten a b c d e f g".split()


@pytest.fixture(scope="module", params=["moe", "window"])
def path(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"), CONFIGS[request.param], "int8")


@pytest.fixture
def model(path):
    with cpumix.load(path, context=256, parallel=5) as model:
        yield model


def prompts(count: int, seed: int = 0) -> list[str]:
    """Return prompts, some of which begin alike."""
    draw = random.Random(seed)
    begin = " ".join(draw.choices(WORDS, k=40))
    return [
        (begin if draw.random() < 0.5 else "")
        + " ".join(draw.choices(WORDS, k=draw.randint(1, 30)))
        for _ in range(count)
    ]


def options(index: int) -> dict[str, object]:
    return {"max_tokens": 5 + 3 * index % 40, "temperature": 0.9 * (index % 3), "seed": index}


def alone(path: Path, texts: list[str]) -> list[str]:
    """Return what each prompt gives in a model of its own."""
    found = []
    for i, prompt in enumerate(texts):
        with cpumix.load(path, context=256) as model:
            found.append("".join(model.generate(prompt, **options(i))))
    return found


@pytest.mark.slow
def test_random_conversations_give_what_they_give_alone(path, model):
    """16 texts arrive, are cancelled and come back at random, from as many threads."""
    texts = prompts(16)
    expected = alone(path, texts)

    def converse(index: int) -> list[str]:
        draw, found = random.Random(index), []
        for _ in range(4):
            time.sleep(draw.random() / 50)
            pieces = iter(model.generate(texts[index], **options(index)))
            if draw.random() < 0.4:
                next(pieces, None)
                pieces.close()
            else:
                found.append("".join(pieces))
        return found

    with ThreadPoolExecutor(16) as threads:
        for index, found in enumerate(threads.map(converse, range(16))):
            assert found == [expected[index]] * len(found)
    engine = model._engine
    engine.loop.call(lambda: None)
    assert (engine.pool.held, engine.pool.reserved, engine.scheduler.jobs) == (0, 0, [])
    assert engine.scheduler.prefix.hit_tokens > 0


def test_logits_from_many_threads(model):
    draw = np.random.default_rng(0)
    texts = [draw.integers(3, 300, n).tolist() for n in (5, 80, 33, 200, 1, 64)]
    expected = [model.logits(ids) for ids in texts]
    with ThreadPoolExecutor(6) as threads:
        for _ in range(5):
            for found, own in zip(threads.map(model.logits, texts), expected, strict=True):
                np.testing.assert_array_equal(found, own)


def test_asyncio_streams(path, model):
    texts = prompts(6, seed=1)
    expected = alone(path, texts)

    async def one(index: int) -> str:
        return "".join([piece async for piece in model.stream(texts[index], **options(index))])

    async def everything() -> list[str]:
        return await asyncio.gather(*(one(i) for i in range(len(texts))))

    assert asyncio.run(everything()) == expected


@pytest.mark.slow
def test_many_prompts_in_one_call(path, model):
    texts = prompts(9, seed=2)
    found = [""] * 9
    for index, piece in model.generate_many(texts, max_tokens=20, temperature=0.8, seed=5):
        found[index] += piece
    for i, text in enumerate(texts):
        with cpumix.load(path, context=256) as single:
            own = single.generate(text, max_tokens=20, temperature=0.8, seed=5 + i)
            assert "".join(own) == found[i]


def test_answers_to_one_prompt_share_it_to_the_token(path, model):
    prompt = "one two three four five six seven " * 6
    answers = model.generate_many([prompt] * 3, max_tokens=40, temperature=0.8, seed=5)
    list(answers)
    size = len(answers.texts[0].request.ids)
    assert size > 128 and size % 64
    assert [text.stats.cached_tokens for text in answers.texts] == [0, size - 1, size - 1]
    for i, text in enumerate(answers.texts):
        with cpumix.load(path, context=256) as single:
            own = single.generate(prompt, max_tokens=40, temperature=0.8, seed=5 + i)
            assert "".join(own) == text.text


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kv", ["f16", "int8"])
def test_drafts_change_no_text(path, temperature, kv):
    quoting = "a b c one two three " * 6
    with cpumix.load(path, context=256, kv=kv) as model:
        wanted = {"max_tokens": 150, "temperature": temperature, "seed": 1}
        plain = model.generate(quoting, **wanted)
        text = "".join(plain)
        drafted = model.generate(quoting, draft=True, **wanted)
        assert "".join(drafted) == text
        assert drafted.stats.generated_tokens == plain.stats.generated_tokens


def test_next_turn_costs_its_new_tokens(model):
    first = model.generate("one two three " * 12, max_tokens=30, temperature=0)
    said = "".join(first)
    turn = "one two three " * 12 + said + " and now"
    second = model.generate(turn, max_tokens=5, temperature=0)
    with_cache = "".join(second)
    stats = second.stats
    assert stats.cached_tokens > 60
    model._engine.loop.call(model._engine.scheduler.prefix.clear)
    again = model.generate(turn, max_tokens=5, temperature=0)
    assert "".join(again) == with_cache
    assert again.stats.cached_tokens == 0


def test_failing_text_fails_alone(model, monkeypatch):
    bad = model.generate("one two", max_tokens=20, temperature=0)
    monkeypatch.setattr(type(bad._sampler), "__call__", wrong_for(bad._sampler))
    good = iter(model.generate("three four", max_tokens=30, temperature=0))
    first = next(good)
    with pytest.raises(FormatError, match="no good"):
        list(bad)
    assert first + "".join(good)


def test_text_that_meets_a_damaged_weight_fails_alone(path, tmp_path):
    """The embeddings of the first 16 tokens are NaN; a text without them is written to its end."""
    copy = Path(shutil.copy(path, tmp_path / "damaged.bin"))
    with cpumix.load(copy) as model:
        tensor = model.file.tensors["token_embd.weight"]
    mapped = np.memmap(copy, np.uint8, "r+", tensor.offset, tensor.nbytes)
    mapped[512:544] = 0xFF  # 16 scales of float16
    mapped.flush()
    params = SamplingParams(temperature=0, logit_bias=dict.fromkeys(range(16), -math.inf))
    with cpumix.load(copy, context=256, parallel=2) as model:

        def text(first: int) -> Generation:
            ids = list(range(first, first + 20))
            return Generation(model._engine, model._requests.of_ids(ids, params, 30, []))

        list(alone := text(20))
        model._engine.scheduler.prefix.clear()
        good, bad, both = text(20), text(3), threading.Event()
        model._engine.loop.call_soon(both.wait)  # so that they begin in one step
        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(list, one) for one in (good, bad)]
            while good._text is None or bad._text is None:
                time.sleep(0.001)
            both.set()
            with pytest.raises(FormatError, match="the embeddings: expected finite weights in use"):
                ends[1].result()
            ends[0].result()
    assert (good.token_ids, good.stop_reason) == (alone.token_ids, "length")


def wrong_for(sampler):
    """Return a sampler's call that fails for one sampler."""
    draw = type(sampler).__call__

    def call(self, logits):
        if self is sampler:
            raise FormatError("no good")
        return draw(self, logits)

    return call


def test_broken_file_fails_all_and_can_be_told(model, monkeypatch):
    def check():
        raise FormatError("the file is gone")

    monkeypatch.setattr(model._engine.pager, "check", check)
    gate = threading.Event()
    model._engine.loop.call_soon(gate.wait)  # so that all begin in one step
    texts = [model.generate(f"one {i}", max_tokens=9, temperature=0) for i in range(3)]
    events = [queue.SimpleQueue() for _ in texts]
    for text, put in zip(texts, events, strict=True):
        text.begin(put.put)
    gate.set()
    for text, get in zip(texts, events, strict=True):
        with pytest.raises(FormatError, match="the file is gone"):
            text.take(get.get())
    monkeypatch.undo()
    assert "".join(model.generate("one", max_tokens=3, temperature=0)) is not None
    assert model._engine.pool.held == 0


def test_close_while_texts_are_written(path):
    model = cpumix.load(path, context=256, parallel=3)
    ended = []

    def write(index: int) -> None:
        try:
            ended.append("".join(model.generate(f"one {index}", max_tokens=240, temperature=0)))
        except ConfigError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    model.close()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 6


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_is_told_that_it_has_no_threads(path):
    code = """
import os, sys, warnings, cpumix
warnings.simplefilter("ignore")
model = cpumix.load(sys.argv[1])
before = model.generate_ids([1, 2], 4)
if child := os.fork():
    _, status = os.waitpid(child, 0)
    assert model.generate_ids([1, 2], 4) == before
    sys.exit(os.waitstatus_to_exitcode(status))
try:
    model.generate_ids([1, 2], 4)
except Exception as error:
    print(error, flush=True)
    os._exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "found a fork of it" in done.stdout


@pytest.mark.slow
def test_interrupts_at_random_moments_leave_the_model_usable(path):
    """SIGINT acts between pieces: the engine never sees it."""
    with Model(path, context=256) as model:
        expected = model.generate_ids([1, 2, 3], 10)
        draw, hits = random.Random(0), 0
        for _ in range(100):
            timer = threading.Timer(draw.random() / 50, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                while True:
                    model.generate_ids([4, 5, 6], 20)
            except KeyboardInterrupt:
                hits += 1
            timer.join()
        assert hits == 100
        assert model.generate_ids([1, 2, 3], 10) == expected
        assert model._engine.scheduler.jobs == []
