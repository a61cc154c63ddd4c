"""The model that ships in the package is whole, small, and writes English."""

from __future__ import annotations

import pytest

import cpumix
from cpumix.model import DEMO_MODEL
from cpumix.store.reader import ModelFile

MOST_BYTES = 25_000_000
PROMPT = "And they returned to the city"


@pytest.fixture
def model():
    with cpumix.load(threads=1) as model:
        yield model


def test_file_is_whole_and_small(demo_model):
    assert demo_model == DEMO_MODEL
    assert demo_model.stat().st_size <= MOST_BYTES
    with ModelFile(demo_model) as file:
        file.verify()
        assert file.precision == "int8"
        assert "tokenizer.model" in file.files


def test_architecture_is_mixtral(model):
    config = model.config
    assert config.architecture == "MixtralForCausalLM"
    assert (config.num_local_experts, config.num_experts_per_tok) == (8, 2)
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.vocab_size == model.tokenizer.vocab_size


def test_licence_comes_along():
    text = (DEMO_MODEL.parent / "LICENSE").read_text()
    assert "public domain" in text.lower()
