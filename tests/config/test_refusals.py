"""What cpumix would not run as transformers does is refused by name, in a config.json or a file."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cpumix.config import ModelConfig, without_fields
from cpumix.errors import ConfigError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(architecture: str = "Mixtral", **fields: Any) -> ModelConfig:
    config = {"architectures": [f"{architecture}ForCausalLM"], **fields}
    return ModelConfig.from_huggingface(config, "config.json")


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"architectures": None}, "architectures: expected a list of one name, found null."),
    ({"architectures": ["A", "B"]}, 'architectures: expected a list of one name, found ["A", "B"]'),
    ({"architectures": [[]]}, "architectures: expected a list of one name, found [[]]."),
    (
        {"architectures": ["GPT2"]},
        'architectures: cpumix runs MixtralForCausalLM, .* found "GPT2".',
    ),
    ({"model_type": "llama"}, 'model_type: expected the one of MixtralForCausalLM, found "llama".'),
    ({"model_type": []}, "model_type: expected the one of MixtralForCausalLM, found []."),
    ({"hidden_act": "gelu"}, 'hidden_act: cpumix runs only "silu", found "gelu".'),
    ({"attention_bias": True}, "attention_bias: cpumix runs only false, found true."),
    ({"use_sliding_window": True}, "use_sliding_window: cpumix runs only false, found true."),
    ({"decoder_sparse_step": 2}, "decoder_sparse_step: cpumix runs only 1, found 2. If you know"),
    ({"mlp_only_layers": [0]}, '"mlp_only_layers": a field unknown to cpumix that may change'),
    ({"clip_qkv": 8.0}, '"clip_qkv": a field unknown to cpumix that may change the result, found'),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: cpumix runs only 1, found 0.5."),
    ({"pruned_heads": {"1": [2]}}, 'pruned_heads: cpumix runs only {}, found {"1": [2]}.'),
    (
        {"quantization_config": {"quant_method": "awq"}},
        'quantization_config: expected weights as they were trained, .* quantized by "awq". '
        "Convert the checkpoint that they were made from.",
    ),
    (
        {"layer_types": ["sliding_attention"], "sliding_window": None},
        'layer_types: cpumix runs "full_attention" in every layer with this sliding_window, found',
    ),
    (
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8},
        'layer_types: cpumix runs "sliding_attention" in every layer',
    ),
    ({"layer_types": 5}, 'layer_types: cpumix runs "full_attention" in every layer'),
    (
        {"qk_norm": True},
        '"qk_norm": a field unknown to cpumix that may change the result, found true. If you know '
        'that it does not matter here, use --ignore-field "qk_norm".',
    ),
    ({"a\nb": 1}, '"a\\nb": a field unknown to cpumix'),
    ({"rope_scaling": [1]}, "rope_scaling: expected an object or null, found [1]."),
    ({"rope_scaling": "llama3"}, 'rope_scaling: expected an object or null, found "llama3".'),
    (
        {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
        "rope_scaling: cpumix runs the types default, llama3, linear, dynamic, yarn, found "
        '"longrope". Use --ignore-field "rope_scaling" for a model that is run within its',
    ),
    ({"rope_scaling": {"rope_type": []}}, "cpumix runs the types .*, found []."),
    (
        {"rope_scaling": {"type": "linear"}},
        "rope_scaling: expected the parts factor with linear, found no factor.",
    ),
    (
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 1, "beta_slow": 2}},
        "rope_scaling: beta_slow: expected beta_fast 1 at most, found 2. Correct one of them.",
    ),
    (
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1.0},
        "rope_theta: expected more than 1 with yarn, found 1.",
    ),
    (
        {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "head_dim": 2},
        "head_dim: expected more than 2 with dynamic RoPE scaling, found 2.",
    ),
    (
        {"rope_parameters": {"alpha": 1.0}},
        'rope_scaling: a part unknown to cpumix that may change the result, found "alpha". If you '
        'know that it does not matter here, use --ignore-field "rope_scaling.alpha".',
    ),
    (
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
        "rope_scaling: partial_rotary_factor: cpumix runs only 1, found 0.5.",
    ),
    (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        "rope_scaling: expected the parts factor, .* with llama3, found no low_freq_factor, hi",
    ),
    ({"rope_scaling": LLAMA3 | {"factor": 0}}, "rope_scaling: factor: expected a positive number"),
    (
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 1.5}},
        "original_max_position_embeddings: expected a positive whole number, found 1.5.",
    ),
    (
        {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
        "rope_scaling: low_freq_factor: expected less than high_freq_factor 4, found 4.",
    ),
    ({"hidden_size": 100}, "hidden_size: expected a multiple of num_attention_heads 32, found 100"),
    ({"num_attention_heads": 0}, "num_attention_heads: expected a positive whole number, found 0."),
    ({"num_key_value_heads": 5}, "a multiple of num_key_value_heads 5, found 32."),
    ({"head_dim": 127}, "head_dim: expected an even number, whose halves rotate together, found"),
    ({"vocab_size": None}, "vocab_size: expected a positive whole number, found null."),
    ({"vocab_size": "32000"}, 'vocab_size: expected a positive whole number, found "32000".'),
    ({"vocab_size": True}, "vocab_size: expected a positive whole number, found true."),
    ({"vocab_size": 2**31}, "vocab_size: expected 2147483647 at most, found 2147483648."),
    ({"num_hidden_layers": 1001}, "num_hidden_layers: expected 1000 at most, found 1001."),
    ({"num_local_experts": 2**30}, "num_local_experts: expected 1000 at most, found 1073741824."),
    (
        {"num_experts_per_tok": 9},
        "num_experts_per_tok: expected the 8 of num_local_experts at most",
    ),
    ({"sliding_window": 0}, "sliding_window: expected a positive whole number, found 0."),
    ({"rms_norm_eps": 0}, "rms_norm_eps: expected a positive number from .*, found 0."),
    ({"rope_theta": float("nan")}, "rope_theta: expected a positive number from .*, found NaN."),
    ({"rope_theta": float("inf")}, "rope_theta: expected a positive number from .*, found Infini"),
    ({"rope_theta": 1e39}, "expected a positive number from 1.2e-38 to 3.4e+38, found 1e+39."),
    (
        {"rms_norm_eps": 1e-60},
        "rms_norm_eps: expected a positive number from 1.2e-38 .*, found 1e-",
    ),
    ({"eos_token_id": 10**5000}, "found a value too large to show. Correct it in that file."),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings: expected true or false, found 1."),
    (
        {"eos_token_id": [2, 32000]},
        "eos_token_id: expected a token id below vocab_size 32000, foun",
    ),
    ({"eos_token_id": "</s>"}, "expected a token id below vocab_size 32000, found"),
    (
        {"vocab_size": [1] * 50},
        r"found [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1",
    ),
]


def pattern(sentence: str) -> str:
    """Return a regular expression for a sentence in which ".*" stands for anything."""
    return ".*".join(map(re.escape, sentence.split(".*")))


@pytest.mark.parametrize(("fields", "sentence"), REFUSALS)
def test_refusal(fields, sentence):
    with pytest.raises(ConfigError, match=pattern(sentence)) as refused:
        read(**fields)
    assert str(refused.value).startswith("config.json: ")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("name", ["hidden_sise", "rope_scaling.alpha", "rope_theta.x", ""])
def test_a_field_to_ignore_must_be_there(name):
    config = {"architectures": ["MixtralForCausalLM"], "rope_scaling": {"type": "default"}}
    expected = pattern(f'--ignore-field "{name}": expected the name of a field that stands there')
    with pytest.raises(ConfigError, match=expected):
        without_fields(config | {"rope_theta": 5.0}, [name], "config.json")


@pytest.mark.parametrize(
    ("architecture", "field"),
    [("Llama", "sliding_window"), ("Llama", "num_local_experts"), ("Mistral", "num_experts")],
)
def test_field_of_another_architecture_is_unknown(architecture, field):
    with pytest.raises(ConfigError, match=f'"{field}": a field unknown to cpumix'):
        read(architecture, **{field: 4})


HOSTILE_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"architecture": []}, "architecture: expected one of Mixtral.*, found []."),
    ({"architecture": {}}, "architecture: expected one of Mixtral.*, found {}."),
    ({"rope_scaling": []}, "model config: rope_scaling: expected a JSON object, found []."),
    ({"rope_scaling": {}}, 'expected factor, .* with llama3, but no "factor". Update cpumix'),
    ({"rope_scaling": {**LLAMA3}}, 'expected factor, .* with llama3, found "rope_type".'),
    (
        {"rope_scaling": {"kind": "ntk"}},
        'rope_scaling: expected one of the kinds llama3, .* found "nt',
    ),
    (
        {"rope_scaling": {"kind": []}},
        "rope_scaling: expected one of the kinds llama3, .* found [].",
    ),
    (
        {"more": 1},
        '"more": a field that this version of cpumix does not know. Install a newer one with '
        "`pip install --upgrade cpumix`.",
    ),
    ({"more": 1, "requires": "0.7.0"}, 'does not know. Install "0.7.0" with `pip install --upgr'),
    ({"num_hidden_layers": 2**31 - 1}, "num_hidden_layers: expected 1000 at most"),
    ({"num_local_experts": 2**31 - 1}, "num_local_experts: expected 1000 at most"),
    ({"rope_theta": 10**400}, "rope_theta: expected a positive number"),
    ({"eos_token_ids": [[1]]}, "eos_token_id: expected a token id"),
    ({"qk_norm": "column"}, 'qk_norm: expected "head", "row" or null, found "column". Update'),
    ({"qk_norm": []}, 'qk_norm: expected "head", "row" or null, found [].'),
    ({"qkv_bias": 1}, "qkv_bias: expected true or false, found 1."),
    ({"norm_topk_prob": None}, "norm_topk_prob: expected true or false, found null."),
]


@pytest.mark.parametrize(("fields", "sentence"), HOSTILE_FIELDS)
def test_hostile_fields_in_a_model_file(fields, sentence):
    text = json.dumps({**json.loads(read().to_json()), **fields})
    with pytest.raises(ConfigError, match=pattern(sentence)):
        ModelConfig.from_json(text)


@pytest.mark.parametrize("part", ["low_freq_factor", "original_max_position_embeddings"])
@pytest.mark.parametrize("value", [None, [], "8", {}, True, float("nan"), -1])
def test_hostile_rope_scaling_in_a_model_file(part, value):
    made = json.loads(read(rope_scaling=LLAMA3).to_json())
    made["rope_scaling"][part] = value
    with pytest.raises(ConfigError, match=f"model config: rope_scaling: {part}: expected a posit"):
        ModelConfig.from_json(json.dumps(made))


@pytest.mark.parametrize("text", ["", "\x00", "{", "[" * 100_000, "9" * 5000])
def test_text_that_is_not_json(text):
    with pytest.raises(ConfigError, match="model config: expected JSON, found other text"):
        ModelConfig.from_json(text)


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "5", '[["architecture", 1]]'])
def test_json_that_is_not_an_object(text):
    with pytest.raises(ConfigError, match="model config: expected a JSON object, found"):
        ModelConfig.from_json(text)


@pytest.mark.parametrize("name", json.loads(read().to_json()))
def test_field_missing_in_a_model_file(name):
    made = json.loads(read().to_json())
    del made[name]
    with pytest.raises(
        ConfigError, match=f'every field that cpumix writes, but "{name}" is missing. Convert'
    ):
        ModelConfig.from_json(json.dumps(made))
