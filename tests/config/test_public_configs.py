"""The config.json of well-known models is read, and means the model that it describes.

`data/public-configs.json` has them by their names on the Hugging Face hub, each field that their
files have and its value.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest

from cpumix.config import ModelConfig

CONFIGS = json.loads((Path(__file__).parents[1] / "data" / "public-configs.json").read_text())
# Billions of parameters that their model cards name, and the longest context.
EXPECTED = {
    "mistralai/Mixtral-8x7B-v0.1": (46.7, 32768),
    "mistralai/Mixtral-8x22B-Instruct-v0.1": (140.6, 65536),
    "cognitivecomputations/dolphin-2.5-mixtral-8x7b": (46.7, 32768),
    "NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO": (46.7, 32768),
    "mlabonne/Beyonder-4x7B-v2": (24.2, 32768),
    "mistralai/Mistral-7B-v0.1": (7.24, 32768),
    "mistralai/Mistral-7B-Instruct-v0.2": (7.24, 32768),
    "mistralai/Mistral-7B-Instruct-v0.3": (7.25, 32768),
    "mistralai/Mistral-Nemo-Base-2407": (12.2, 128000),
    "HuggingFaceH4/zephyr-7b-beta": (7.24, 32768),
    "NousResearch/Yarn-Mistral-7b-128k": (7.24, 131072),
    "meta-llama/Llama-2-7b-chat-hf": (6.74, 4096),
    "meta-llama/Meta-Llama-3-8B": (8.03, 8192),
    "meta-llama/Llama-3.1-8B-Instruct": (8.03, 131072),
    "meta-llama/Llama-3.2-1B": (1.24, 131072),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (1.1, 2048),
    "HuggingFaceTB/SmolLM2-135M": (0.135, 8192),
    "deepseek-ai/deepseek-coder-6.7b-instruct": (6.74, 65536),
    "lmsys/vicuna-7b-v1.5-16k": (6.74, 16384),
    "Yukang/Llama-2-13b-longlora-16k-ft": (13.0, 16384),
    "upstage/Llama-2-70b-instruct-v2": (69.0, 8192),
    "NousResearch/Yarn-Llama-2-13b-64k": (13.0, 65536),
    "01-ai/Yi-34B": (34.4, 4096),
    "Qwen/Qwen2.5-Coder-7B": (7.62, 32768),
    "Qwen/Qwen3-8B": (8.19, 40960),
    "Qwen/Qwen3-30B-A3B": (30.5, 40960),
    "allenai/OLMoE-1B-7B-0924": (6.92, 4096),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_public_config_is_read(name):
    billions, context = EXPECTED[name]
    config = ModelConfig.from_huggingface(CONFIGS[name], name)
    found = sum(prod(spec.shape) for spec in config.tensors()) / 1e9
    assert found == pytest.approx(billions, rel=0.005)
    assert config.context_limit == context
    assert ModelConfig.from_json(config.to_json()) == config


def test_none_is_left_out():
    assert EXPECTED.keys() == CONFIGS.keys()
