"""Sampling through a loaded model: what ends a text, what is reported, what a grammar saves."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from tiny_models import CONFIGS, write_model, write_source

import cpumix
from cpumix.errors import ConfigError
from cpumix.sampling import SamplingParams
from cpumix.sampling.log_probabilities import log_probability

PROMPT = "one two"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("tiny"), CONFIGS["moe"])
    with cpumix.load(path, context=128, threads=1) as model:
        yield model


def test_the_model_s_own_defaults_count_unless_others_are_given(tmp_path):
    source = write_source(tmp_path / "checkpoint", CONFIGS["moe"])
    wishes = {"do_sample": True, "temperature": 1.5, "top_k": 7, "repetition_penalty": 1.1}
    (source / "generation_config.json").write_text(json.dumps(wishes))
    cpumix.convert(source, target := tmp_path / "int8.bin", "int8")
    with cpumix.load(target, context=64, threads=1) as model:
        asked = SamplingParams(temperature=1.5, top_k=7, repeat_penalty=1.1, repeat_last_n=-1)
        assert model.sampling_defaults == asked
        own = "".join(model.generate(PROMPT, max_tokens=12, seed=4))
        assert own == "".join(model.generate(PROMPT, asked, max_tokens=12, seed=4))
        cold = "".join(model.generate(PROMPT, max_tokens=12, temperature=0))
        also = "".join(model.generate(PROMPT, asked, max_tokens=12, temperature=0))
        assert cold == also != own


def test_a_model_without_wishes_has_llama_cpp_s_defaults(model):
    assert model.sampling_defaults == SamplingParams()


@pytest.mark.parametrize("start", [1, 4, 9])
def test_a_stop_string_ends_the_text_before_it(model, start):
    text = "".join(model.generate(PROMPT, max_tokens=30, temperature=1, seed=2))
    stop = text[start : start + 3]
    generation = model.generate(PROMPT, max_tokens=30, temperature=1, seed=2, stop=[stop, "@@@"])
    assert "".join(generation) == text[: text.index(stop)]
    assert generation.stop_reason == "stop"
    assert generation.stats.generated_tokens < 30


def test_a_stop_string_that_never_comes_changes_nothing(model):
    text = "".join(model.generate(PROMPT, max_tokens=30, seed=2))
    generation = model.generate(PROMPT, max_tokens=30, seed=2, stop=[text[-1] + "@"])
    assert "".join(generation) == text
    assert generation.stop_reason == "length"


def test_a_stop_token_ends_the_text_and_ignore_eos_does_not(model):
    ids = model.tokenizer.encode(PROMPT)
    tokens = model.generate_ids(ids, 10)
    place = next(i for i in range(2, 10) if tokens[i] not in tokens[:i])
    generation = model.generate(PROMPT, temperature=0, stop_token_ids=[tokens[place]])
    list(generation)
    assert generation.stop_reason == "eos"
    assert generation.stats.generated_tokens == place
    eos = dict.fromkeys(model.tokenizer.eos_ids, 100.0)
    assert list(model.generate(PROMPT, logit_bias=eos)) == []
    generation = model.generate(PROMPT, logit_bias=eos, ignore_eos=True, max_tokens=5)
    assert len(list(generation)) > 0


def test_log_probabilities_are_those_of_the_model(model):
    generation = model.generate(PROMPT, max_tokens=6, temperature=1, seed=1, logprobs=3)
    list(generation)
    ids = model.tokenizer.encode(PROMPT)
    tokens = [found.token for found in generation.log_probabilities]
    logits = model.logits(ids + tokens)[len(ids) - 1 : -1]
    expected = [log_probability(row, token, 3) for row, token in zip(logits, tokens, strict=True)]
    assert generation.log_probabilities == expected
    assert all(len(found.top) == 3 for found in expected)


def test_the_drawn_seed_gives_the_same_text_again(model):
    generation = model.generate(PROMPT, max_tokens=20, temperature=1)
    text = "".join(generation)
    again = model.generate(PROMPT, max_tokens=20, temperature=1, seed=generation.seed)
    assert "".join(again) == text


def test_forced_tokens_cost_no_forward_pass(model, monkeypatch):
    passes = []
    transformer = model._engine.transformer
    forward = transformer.forward

    def count(*args, **more):
        passes.append(args)
        return forward(*args, **more)

    monkeypatch.setattr(transformer, "forward", count)
    generation = model.generate(PROMPT, max_tokens=60, regex="(yes|no), and that is final: [0-9]")
    text = "".join(generation)
    assert re.fullmatch("(yes|no), and that is final: [0-9]", text)
    assert (generation.stop_reason, generation.complete) == ("eos", True)
    assert len(passes) < 8 < generation.stats.generated_tokens


def test_the_tokens_of_forced_passes_are_those_of_single_ones(model):
    """Which draws a pass of several tokens gives is what one token after the other gives."""
    options = {
        "max_tokens": 60,
        "seed": 3,
        "temperature": 1,
        "regex": "[ab]{4} is [cd]{4} is [ef]{4}",
    }
    text = "".join(model.generate(PROMPT, **options))
    params = SamplingParams(**{k: v for k, v in options.items() if k != "max_tokens"})
    sampler = cpumix.sampling.Sampler(params, tokenizer=model.tokenizer, ends=(2,), max_tokens=60)
    ids, said = model.tokenizer.encode(PROMPT), []
    while not sampler.finished:
        said.append(sampler(model.logits(ids + said)[-1]))
        said += sampler.forced()
    assert b"".join(model.tokenizer.token_bytes[token] for token in said).decode() == text


@pytest.mark.parametrize("max_tokens", [12, 30, 200])
def test_json_is_complete_at_max_tokens_and_where_the_context_ends(model, max_tokens):
    schema = {"type": "array", "items": {"type": "string"}, "minItems": 2}
    for seed in range(4):
        generation = model.generate(
            PROMPT, max_tokens=max_tokens, json_schema=schema, temperature=1, seed=seed
        )
        text = "".join(generation)
        assert generation.complete
        assert len(json.loads(text)) >= 2
        assert generation.stats.generated_tokens <= max_tokens


def test_a_text_that_could_not_finish_says_so(model):
    generation = model.generate(PROMPT, max_tokens=3, regex="[a-z]{500}")
    list(generation)
    assert (generation.stop_reason, generation.complete) == ("length", False)


def test_a_grammar_that_cannot_be_enforced_is_refused_before_the_prompt_is_read(model):
    message = "^regex: expected one that can be enforced"
    with pytest.raises(ConfigError, match=message):
        model.generate(PROMPT, regex="(")


def test_parameters_that_do_not_exist_are_no_parameters(model):
    with pytest.raises(TypeError, match="heat"):
        model.generate(PROMPT, heat=3)


def test_a_bias_of_minus_infinity_rules_a_token_out(model):
    ids = model.tokenizer.encode(PROMPT)
    best = int(np.argmax(model.logits(ids)[-1]))
    generation = model.generate(
        PROMPT, max_tokens=1, temperature=0, logprobs=0, logit_bias={best: -math.inf}
    )
    list(generation)
    assert generation.log_probabilities[0].token != best
