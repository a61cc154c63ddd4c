"""The texts of one request: when they begin, and what is counted of them."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

import cpumix
from cpumix.api.choice import Choice
from cpumix.api.completions import Completion, CompletionRequest
from cpumix.api.errors import ApiError
from cpumix.api.readings import Embedded, EmbeddingRequest
from cpumix.engine.events import Event, Failure, Token
from cpumix.engine.stats import Stats
from cpumix.serve import writing
from cpumix.serve.readings import Readings
from cpumix.serve.service import Service


@pytest.fixture(scope="module")
def model():
    with cpumix.load(parallel=4, context=1024, threads=1) as model:
        yield model


@pytest.fixture
def service(model):
    service = Service(model)
    yield service
    service.close()


def ask(service: Service, **fields: object) -> Completion:
    return Completion(service, msgspec.convert(fields, CompletionRequest))


def write(service: Service, asked: Completion) -> list[Choice]:
    async def all_of_it() -> list[Choice]:
        writing = service.write(asked.requests)
        try:
            return await writing.all()
        finally:
            writing.close()

    return asyncio.run(all_of_it())


def test_texts_wait_for_their_own_prompt_only(service):
    """A prompt that the first step reads does not let those begin that share a longer one."""
    long = np.random.default_rng(1).integers(300, 4000, 700).tolist()
    asked = ask(service, prompt=[long, [301, 302, 303]], n=2, max_tokens=2, temperature=0)
    found = [choice.stats.cached_tokens for choice in write(service, asked)]
    assert found == [0, 699, 0, 2]


def played(
    service: Service, monkeypatch, *script: tuple[float, int, Event], **stats: float
) -> None:
    """Ask for two texts, and let (seconds, index, event) come of them by a clock of our own."""
    clock, tells = SimpleNamespace(now=0.0), []

    def write(request, tell):
        tells.append(tell)
        return SimpleNamespace(stats=Stats(**stats))

    monkeypatch.setattr(writing, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(service.model.engine, "write", write)

    async def play() -> None:
        under_way = service.write(ask(service, prompt=["a", "b"]).requests)
        try:
            events = under_way.events()
            for clock.now, index, event in script:
                coming = asyncio.ensure_future(anext(events))
                await asyncio.sleep(0)  # both have begun
                tells[index](event)
                await coming
        finally:
            under_way.close()

    asyncio.run(play())


def number(service: Service, name: str) -> float:
    found = re.search(rf"^cpumix_{re.escape(name)} (.*)$", service.metrics.render().decode(), re.M)
    return float(found[1]) if found else 0.0


def test_the_time_between_tokens_is_that_of_each_text(service, monkeypatch):
    token = Token(300, "a")
    played(service, monkeypatch, (1, 0, token), (2, 1, token), (5, 0, token), (7, 1, token))
    assert number(service, "inter_token_latency_seconds_count") == 2
    assert number(service, "inter_token_latency_seconds_sum") == (5 - 1) + (7 - 2)
    assert number(service, "time_to_first_token_seconds_sum") == 1 + 2


def test_cached_tokens_are_no_work_that_tells_when_to_come_back(service, monkeypatch):
    """Prompts of 2 tokens, of which 1 was computed in 2 s: 10 tokens take 20 s, not 10."""
    script = ((1, 0, Token(300, "a")), (2, 1, Token(300, "a")))
    played(service, monkeypatch, *script, prompt_tokens=2, cached_tokens=1, prompt_seconds=2.0)
    most = 16 * service.model.context
    ticket = service.admission.enter(most)
    with pytest.raises(ApiError, match=r"tokens of prompts wait\. Come back in 20 s"):
        service.admission.check(1, 10)
    ticket.leave()


def test_a_text_that_fails_is_not_counted_as_cancelled(service, monkeypatch):
    with pytest.raises(ApiError, match="The engine failed"):
        played(service, monkeypatch, (1, 1, Failure(RuntimeError("broken"))))
    assert number(service, 'request_success_total{finished_reason="error"}') == 1
    assert number(service, 'request_success_total{finished_reason="cancelled"}') == 1  # the other


def test_a_reading_that_fails_is_not_counted_as_cancelled(service, monkeypatch):
    asked = Embedded(service, EmbeddingRequest(input=["a", "b"]))

    def read(ids, pooling, tell, salt):
        tell(RuntimeError("broken"))
        return SimpleNamespace(watch=None)

    monkeypatch.setattr(service.model.engine, "read", read)

    async def run() -> None:
        readings = Readings(service, asked, b"")
        try:
            await readings.all()
        finally:
            readings.close()

    with pytest.raises(ApiError, match="The engine failed"):
        asyncio.run(run())
    assert number(service, 'request_success_total{finished_reason="error"}') == 1
    assert number(service, 'request_success_total{finished_reason="cancelled"}') == 0
