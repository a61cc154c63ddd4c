"""The texts of one request: when they begin, and what is counted of them."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

import cpumix
from cpumix.api.choice import Choice
from cpumix.api.completions import Completion, CompletionRequest
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
