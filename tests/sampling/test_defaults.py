"""What a model's generation_config.json sets."""

from __future__ import annotations

import json

import pytest

from cpumix.errors import ConfigError
from cpumix.sampling import SamplingParams
from cpumix.sampling.defaults import model_defaults


def defaults(config: object) -> SamplingParams:
    return model_defaults({"generation_config.json": json.dumps(config).encode()})


def test_a_model_without_wishes_has_the_usual_ones():
    mixtral = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2}
    assert defaults(mixtral) == model_defaults({}) == SamplingParams()


def test_a_model_s_wishes_are_taken():
    config = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": None}
    assert defaults(config) == SamplingParams(temperature=0.7, top_p=0.8, top_k=20)
    assert defaults({"typical_p": 0.9, "min_p": 0}) == SamplingParams(typical_p=0.9, min_p=0)


def test_a_top_k_of_minus_1_means_all_tokens():
    assert defaults({"top_k": -1}) == SamplingParams(top_k=0)


def test_the_repetition_penalty_looks_at_the_whole_text_as_in_transformers():
    expected = SamplingParams(repeat_penalty=1.05, repeat_last_n=-1)
    assert defaults({"repetition_penalty": 1.05}) == expected


def test_a_model_that_does_not_sample_takes_the_likeliest_token():
    assert defaults({"do_sample": False, "temperature": 0.6}).greedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "^generation_config.json: expected JSON, found text that is none: "),
        (b"[" * 10**6, "^generation_config.json: expected JSON, found text that is none: "),
        (b'{"top_k": 1' + b"0" * 400 + b".5}", "^generation_config.json: top_k: expected 0"),
        (b"[]", "^generation_config.json: expected names with values, found list"),
        (
            b'{"top_p": 7}',
            r"^generation_config.json: top_p: expected more than 0 and at most 1, found 7\. "
            "Correct the file",
        ),
    ],
)
def test_a_file_that_holds_something_else_is_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        model_defaults({"generation_config.json": content})
