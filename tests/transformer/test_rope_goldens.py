"""RoPE turns as in transformers, however a config.json stretches it.

`data/rope.json` has what transformers makes of each config, written by tools/record_rope.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpumix.config import ModelConfig
from cpumix.transformer.rope import cos_sin, frequencies

CASES = json.loads((Path(__file__).parents[1] / "data" / "rope.json").read_text())["cases"]
U = 2.0**-24  # half a unit in the last place of float32


def read(case: dict[str, Any]) -> ModelConfig:
    config = {"architectures": ["LlamaForCausalLM"], **case["config"]}
    return ModelConfig.from_huggingface(config, "config.json")


def name(case: dict[str, Any]) -> str:
    scaling = case["config"]["rope_scaling"]
    return f"{scaling.get('rope_type', scaling.get('type'))}-{case['tokens']}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_frequencies_are_those_of_transformers(case):
    config = read(case)
    found = frequencies(config, case["tokens"])
    assert found.inv_freq.dtype == np.float32
    # Both round the exponent of the base, and a few products and differences after it.
    bound = U * (8 + 2 * math.log(config.rope_theta))
    np.testing.assert_allclose(found.inv_freq, case["turns"], rtol=bound)
    assert found.factor == pytest.approx(case["factor"], rel=1e-15)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_a_model_file_carries_them(case):
    config = read(case)
    again = ModelConfig.from_json(config.to_json())
    assert again == config
    scaling = json.loads(config.to_json())["rope_scaling"]
    is_new = scaling is not None and case["config"]["rope_scaling"].get("rope_type") != "llama3"
    assert ("kind" in (scaling or {})) == is_new
    assert json.loads(config.to_json()).get("requires") == ("0.2.0" if is_new else None)


def test_yarn_scales_cos_and_sin():
    case = next(case for case in CASES if case["factor"] not in (0.75, 1.0))
    found = frequencies(read(case), 4096)
    positions = np.arange(5, 8)
    plain = cos_sin(found._replace(factor=1.0), positions)
    for scaled, unscaled in zip(cos_sin(found, positions), plain, strict=True):
        assert scaled.dtype == np.float32
        np.testing.assert_array_equal(scaled, unscaled * np.float32(case["factor"]))


@pytest.mark.parametrize(
    ("scaling", "limit"),
    [
        (None, 4096),
        ({"type": "linear", "factor": 4.0}, 16384),
        ({"type": "dynamic", "factor": 2.5}, 10240),
        ({"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}, 32768),
        ({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}, 4096),
    ],
)
def test_the_longest_context_is_stretched_too(scaling, limit):
    case = {"config": {"max_position_embeddings": 4096, "rope_scaling": scaling}}
    assert read(case).context_limit == limit


def test_dynamic_frequencies_are_plain_within_the_trained_context():
    scaling = {"type": "dynamic", "factor": 4.0}
    plain, dynamic = ({"config": {"rope_scaling": s}} for s in (None, scaling))
    for context in (1, 2048):
        expected = frequencies(read(plain), context).inv_freq
        np.testing.assert_array_equal(frequencies(read(dynamic), context).inv_freq, expected)
    assert (frequencies(read(dynamic), 4096).inv_freq[1:] < expected[1:]).all()
