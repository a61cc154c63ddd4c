"""Conversations from Python: what is written, what it costs, and several answers at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chat_models import write_chat_model
from tiny_models import CONFIGS, write_model

import cpumix
from cpumix.errors import ConfigError
from cpumix.sampling import SamplingParams

ASKED = [
    {"role": "system", "content": "one two three four five six seven eight nine ten " * 3},
    {"role": "user", "content": "a b c d"},
]
GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def model(path):
    with cpumix.load(path, context=512, parallel=3) as model:
        yield model


def test_chat_writes_what_follows_the_rendered_conversation(model):
    answer = model.chat(ASKED, GREEDY, max_tokens=12)
    text = "".join(answer)
    ids = model.tokenizer.encode_chat(ASKED)
    made = model.generate_ids(ids, 12, stop=model.tokenizer.eos_ids)
    assert answer.token_ids == made
    assert answer.text == text == model.tokenizer.decode(made)
    assert answer.stop_reason == "length"
    assert answer.stats.prompt_tokens == len(ids)
    assert answer.stats.generated_tokens == 12


def test_generate_asks_through_the_template(model):
    asked = model.chat([{"role": "user", "content": "a b"}], GREEDY, max_tokens=8)
    assert "".join(model.generate("a b", GREEDY, max_tokens=8)) == "".join(asked)


def test_chat_streams_in_asyncio_too(model):
    async def write() -> str:
        return "".join([piece async for piece in model.chat(ASKED, GREEDY, max_tokens=8)])

    assert asyncio.run(write()) == "".join(model.chat(ASKED, GREEDY, max_tokens=8))


def test_log_probabilities_come_with_the_answer(model):
    answer = model.chat(ASKED, max_tokens=5, logprobs=2, seed=1)
    assert "".join(answer) == answer.text
    assert [entry.token for entry in answer.log_probabilities] == answer.token_ids
    assert {len(entry.top) for entry in answer.log_probabilities} == {2}


def test_without_a_limit_the_context_ends_the_answer(model):
    answer = model.chat(ASKED, GREEDY, ignore_eos=True)
    assert "".join(answer)
    assert answer.stop_reason == "context"
    assert answer.stats.prompt_tokens + answer.stats.generated_tokens == 513  # the last is not read


def test_a_turn_computes_only_what_is_new(model):
    first = model.chat(ASKED, GREEDY, max_tokens=40)
    turn = [*ASKED, {"role": "assistant", "content": "".join(first)}]
    turn.append({"role": "user", "content": "e f g"})
    second = model.chat(turn, GREEDY, max_tokens=4)
    text = "".join(second)
    same = 0
    before = [*first.request.ids, *first.token_ids]
    for old, new in zip(before, second.request.ids, strict=False):
        if old != new:
            break
        same += 1
    assert same >= len(first.request.ids)  # else the template does not go on from it
    assert same - 1 <= second.stats.cached_tokens <= same  # the last token of an answer is not read
    with cpumix.load(model.file.path, context=512) as fresh:
        assert "".join(fresh.chat(turn, GREEDY, max_tokens=4)) == text


def test_the_last_message_can_be_continued(model):
    begun = [*ASKED, {"role": "assistant", "content": "one two"}]
    going_on = {"continue_final_message": True}
    answer = model.chat(begun, GREEDY, max_tokens=3, template=going_on)
    assert "".join(answer)
    assert answer.request.ids == model.tokenizer.encode_chat(begun, **going_on)


def test_several_answers_share_the_prompt(model):
    answers = model.chat_many([ASKED] * 3, max_tokens=20, temperature=1.0, seed=5)
    found = [""] * len(answers)
    for index, piece in answers:
        found[index] += piece
    assert found == [text.text for text in answers.texts]
    assert len(set(found)) == 3
    for i, text in enumerate(answers.texts):
        assert text.seed == 5 + i
        with cpumix.load(model.file.path, context=512) as single:
            own = single.chat(ASKED, max_tokens=20, temperature=1.0, seed=5 + i)
            assert "".join(own) == found[i]
    cached = [text.stats.cached_tokens for text in answers.texts]
    prompt = len(answers.texts[0].request.ids)
    assert prompt > 64 and prompt % 64
    assert cached == [0, prompt - 1, prompt - 1]


def test_answers_that_are_broken_off_are_cancelled(model):
    answers = model.chat_many([ASKED] * 2, max_tokens=100, ignore_eos=True)
    for _, _piece in answers:
        break
    assert {text.stop_reason for text in answers.texts} <= {"cancelled", ""}
    model._engine.loop.call(lambda: None)
    assert model._engine.scheduler.jobs == []


def test_a_model_without_a_template_says_so(tmp_path):
    path = write_model(tmp_path, CONFIGS["moe"])
    with cpumix.load(path, context=64) as model:
        with pytest.raises(ConfigError, match="expected one among the tokenizer's files"):
            model.chat(ASKED)
        spelled = "{% for m in messages %}{{ m.content }} {% endfor %}"
        answer = model.chat(ASKED[1:], max_tokens=2, template={"chat_template": spelled})
        assert len([*answer]) <= 2
