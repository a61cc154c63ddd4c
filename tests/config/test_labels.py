"""The labels of a classifier, from config.json to the model file."""

from __future__ import annotations

import json
from typing import Any

import pytest
from classifier_cases import MOODS, PAD

from cpumix.config import FAMILIES, ModelConfig, Role
from cpumix.errors import ConfigError


def read(**changes: Any) -> ModelConfig:
    return ModelConfig.from_huggingface(MOODS | changes, "config.json")


def test_labels_take_the_place_of_the_language_head():
    config = read()
    assert config.labels == ("calm", "glad", "sad")
    assert config.is_classifier
    assert config.pad_token_id == PAD
    assert config.architecture == "MixtralForCausalLM"
    last = list(config.dense_tensors())[-1]
    assert (last.role, last.shape) == (Role.SCORE, (3, 64))


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"id2label": None}, ("LABEL_0", "LABEL_1")),
        ({"id2label": None, "num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {str(i): f"l{i}" for i in range(12)}}, tuple(f"l{i}" for i in range(12))),
    ],
)
def test_labels_by_number(fields, labels):
    assert read(**fields).labels == labels


@pytest.mark.parametrize("pad", [None, -1, 384, True])
def test_no_padding(pad):
    assert read(pad_token_id=pad).pad_token_id is None


def test_model_file_keeps_them():
    config = read(problem_type="regression", pad_token_id=0)
    assert ModelConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["requires"] == "0.2.0"


def test_model_that_writes_has_none_whatever_its_config_says():
    changes = {"architectures": ["MixtralForCausalLM"], "tie_word_embeddings": True}
    config = read(**changes)
    assert not config.is_classifier
    assert "labels" not in json.loads(config.to_json())
    assert "pad_token_id" not in json.loads(config.to_json())
    assert not read(tie_word_embeddings=True).tie_word_embeddings  # there is nothing to tie


def test_each_familys_other_models_are_under_their_own_names():
    for family in FAMILIES.values():
        stem = family.architecture.removesuffix("ForCausalLM")
        assert family.base == f"{stem}Model"
        assert family.classifier in (None, f"{stem}ForSequenceClassification")


def test_model_without_a_head():
    config = read(architectures=["MixtralModel"], tie_word_embeddings=True)
    assert (config.headless, config.writes, config.labels) == (True, False, ())
    assert config.described == "MixtralModel"
    assert [*config.dense_tensors()][-1].role is Role.OUTPUT_NORM
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "table", [{}, [], "ab", {"1": "a"}, {"0": "a", "2": "b"}, {"0": "a", "x": "b"}]
)
def test_table_that_is_none(table):
    with pytest.raises(ConfigError, match='id2label: expected a name for each number from "0" on'):
        read(id2label=table)


@pytest.mark.parametrize("table", [{"0": 1}, {"0": "a", "1": None}])
def test_labels_that_are_no_text(table):
    with pytest.raises(ConfigError, match="labels: expected a text for each, found"):
        read(id2label=table)


@pytest.mark.parametrize("labels", ["ab", 5, [1], None])
def test_labels_that_are_no_text_in_a_model_file(labels):
    text = json.dumps({**json.loads(read().to_json()), "labels": labels})
    with pytest.raises(ConfigError, match="labels: expected a text for each, found"):
        ModelConfig.from_json(text)


@pytest.mark.parametrize("count", [0, -1, 1.5, "x", 1 << 30])
def test_number_of_labels(count):
    with pytest.raises(ConfigError, match="num_labels: expected"):
        read(id2label=None, num_labels=count)


@pytest.mark.parametrize("kind", ["ranking", [], 5])
def test_problem_type(kind):
    with pytest.raises(ConfigError, match="problem_type: expected one of regression, single"):
        read(problem_type=kind)
