"""A config.json means to cpumix what it means to transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from typing import Any

import pytest

from cpumix.config import Llama3Scaling, ModelConfig, Role, without_fields

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# What an empty config.json means in transformers 5.23: models/*/configuration_*.py, and
# default_theta of configuration_utils.py. head_dim and Llama's
# num_key_value_heads follow from the heads there.
SHARED: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": 128,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_ids": (2,),
}
DEFAULTS = {
    "MixtralForCausalLM": SHARED
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
    },
    "MistralForCausalLM": SHARED
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "num_local_experts": 1,
        "num_experts_per_tok": 1,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "sliding_window": 4096,
    },
    "LlamaForCausalLM": SHARED
    | {
        "intermediate_size": 11008,
        "num_key_value_heads": 32,
        "num_local_experts": 1,
        "num_experts_per_tok": 1,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "sliding_window": None,
    },
    "Qwen2ForCausalLM": SHARED
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "num_local_experts": 1,
        "num_experts_per_tok": 1,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_ids": (),
        "qkv_bias": True,
    },
    "Qwen3ForCausalLM": SHARED
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "num_local_experts": 1,
        "num_experts_per_tok": 1,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_ids": (),
        "qk_norm": "head",
    },
    "Qwen3MoeForCausalLM": SHARED
    | {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 768,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "num_local_experts": 128,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_ids": (),
        "qk_norm": "head",
        "norm_topk_prob": False,
    },
    "OlmoeForCausalLM": SHARED
    | {
        "vocab_size": 50304,
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_local_experts": 64,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_ids": (50279,),
        "qk_norm": "row",
        "norm_topk_prob": False,
    },
}


def read(architecture: str = "Mixtral", **fields: Any) -> ModelConfig:
    config = {"architectures": [f"{architecture}ForCausalLM"], **fields}
    return ModelConfig.from_huggingface(config, "config.json")


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_absent_fields_mean_what_transformers_says(architecture):
    config = ModelConfig.from_huggingface({"architectures": [architecture]}, "config.json")
    assert config == ModelConfig(architecture=architecture, **DEFAULTS[architecture])


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("mixtral", "Mixtral"), ("mistral", "Mistral"), ("llama", "Llama")],
)
def test_model_type_stands_in_for_architectures(kind, architecture):
    config = ModelConfig.from_huggingface({"model_type": kind}, "config.json")
    assert config == read(architecture) == read(architecture, model_type=kind)


def test_every_field_is_taken_as_given():
    fields = {
        "vocab_size": 100,
        "hidden_size": 36,
        "intermediate_size": 50,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "max_position_embeddings": 77,
        "rms_norm_eps": 0.25,
        "rope_theta": 123.5,
        "sliding_window": 9,
        "tie_word_embeddings": True,
        "bos_token_id": None,
    }
    config = read(**fields, eos_token_id=[7, 8])
    assert {name: getattr(config, name) for name in fields} == fields
    assert config.eos_token_ids == (7, 8)
    assert (config.q_size, config.kv_size, config.is_moe) == (60, 20, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"head_dim": None, "hidden_size": 96, "num_attention_heads": 4},
        {"head_dim": 24, "hidden_size": 97, "num_attention_heads": 4},
    ],
)
def test_head_dim_is_given_or_follows(fields):
    assert read(**fields, num_key_value_heads=2).head_dim == 24


def test_num_experts_is_an_alias_for_mixtral():
    assert read(num_experts=4).num_local_experts == 4


@pytest.mark.parametrize(
    ("fields", "theta"),
    [
        ({"rope_theta": 5.0}, 5.0),
        ({"rope_parameters": {"rope_theta": 6.0, "rope_type": "default"}}, 6.0),
        ({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}}, 6.0),  # as transformers
        ({"rope_scaling": {"type": "default", "rope_theta": 7.0}}, 7.0),
        ({"rope_theta": None, "rope_scaling": None, "rope_parameters": None}, 1e6),
    ],
)
def test_rope_theta_in_either_place(fields, theta):
    assert read(**fields).rope_theta == theta


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", ["rope_type", "type"])
def test_llama3_scaling_in_either_place(place, kind):
    values = {key: value for key, value in LLAMA3.items() if key != "rope_type"} | {kind: "llama3"}
    config = read("Llama", **{place: values | {"rope_theta": 5e5}})
    assert config.rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)
    assert config.rope_theta == 5e5


def test_llama3_length_outside_goes_before_the_one_inside():
    # standardize_rope_params in transformers' modeling_rope_utils.py
    config = read("Llama", rope_scaling=LLAMA3, original_max_position_embeddings=99)
    assert config.rope_scaling.original_max_position_embeddings == 99
    del (values := dict(LLAMA3))["original_max_position_embeddings"]
    config = read("Llama", rope_scaling=values, max_position_embeddings=55)
    assert config.rope_scaling.original_max_position_embeddings == 55


@pytest.mark.parametrize(
    "fields",
    [
        {"sliding_window": 16, "layer_types": ["sliding_attention"] * 32},
        {"sliding_window": None, "layer_types": ["full_attention"] * 32},
        {"hidden_act": "swish", "pretraining_tp": 1, "attention_bias": False, "pruned_heads": {}},
        {"quantization_config": None, "some_future_field": None},
        {"dtype": "bfloat16", "router_aux_loss_coef": 0.02, "transformers_version": "5.23.0"},
        {"use_sliding_window": False, "attn_bias": False, "a": 0, "b": "", "c": [], "d": {}},
        {"mergekit_version": "0.0.4.2", "use_flash_attention_2": True},
        {"num_experts": None, "num_local_experts": 8},
        {"num_experts": None, "num_local_experts": None},
        {"tie_word_embeddings": None, "max_position_embeddings": None, "rms_norm_eps": None},
        {"hidden_size": 4096.0, "num_hidden_layers": 32.0, "head_dim": 128.0},
        {"rope_scaling": {"type": "linear", "factor": 1.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 1}},
        {"rope_scaling": {"rope_type": "default", "finetuned": True, "alpha": None, "new": False}},
    ],
)
def test_fields_that_change_nothing_are_passed_over(fields):
    config = read(**fields)
    assert config == replace(read(), sliding_window=config.sliding_window)


@pytest.mark.parametrize("bos", [-1, 32000, "<s>", 1.5, None])
def test_bos_that_is_no_token_is_left_to_the_tokenizer(bos):
    assert read(bos_token_id=bos) == read(bos_token_id=None)


def test_ignored_fields_count_as_absent():
    fields = {"qk_norm": True, "rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 5}}
    config = {"architectures": ["MixtralForCausalLM"], **fields}
    ignored = ["qk_norm", "rope_scaling.alpha"]
    found = ModelConfig.from_huggingface(without_fields(config, ignored, ""), "config.json")
    assert found == read(rope_scaling={"type": "linear", "factor": 2.0})
    rest = without_fields(config, ["qk_norm", "rope_scaling"], "")
    found = ModelConfig.from_huggingface(rest, "config.json")
    assert found == read()


def test_json_brings_every_field_back():
    config = read(rope_scaling=LLAMA3, rope_theta=1 / 3, sliding_window=7, eos_token_id=[2, 9])
    assert ModelConfig.from_json(config.to_json()) == config
    assert ModelConfig.from_json(read("Llama").to_json()) == read("Llama")
    assert hash(ModelConfig.from_json(config.to_json())) == hash(config)


def test_tensors_are_in_file_order():
    sizes = {"num_hidden_layers": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    names = [spec.name for spec in read(**sizes).tensors()]
    assert names[0] == "token_embd.weight"
    assert names[7] == "blk.0.router.weight"
    experts = [
        f"blk.{b}.expert.{e}.{w}" for b in (0, 1) for e in (0, 1) for w in ("w1", "w3", "w2")
    ]
    assert names[-14:] == ["output_norm.weight", "output.weight", *experts]
    assert Role.OUTPUT not in {spec.role for spec in read(tie_word_embeddings=True).tensors()}
    assert Role.ROUTER not in {spec.role for spec in read("Llama").tensors()}


def test_mixtral_8x7b_has_its_46_7_billion_parameters():
    assert sum(prod(spec.shape) for spec in read().tensors()) == 46_702_792_704


def test_a_bias_of_attention_is_that_of_every_projection():
    config = read("Llama", attention_bias=True)
    assert (config.qkv_bias, config.output_bias) == (True, True)
    roles = {spec.role for spec in config.tensors()}
    assert roles >= {Role.BQ, Role.BK, Role.BV, Role.BO}
    assert Role.BO not in {spec.role for spec in read("Qwen2").tensors()}


def test_norms_of_queries_and_keys_are_of_a_head_or_of_all():
    for name, q, k in (("Qwen3", 128, 128), ("Olmoe", 2048, 1024)):
        shapes = {spec.role: spec.shape for spec in read(name, num_key_value_heads=8).tensors()}
        assert (shapes[Role.Q_NORM], shapes[Role.K_NORM]) == ((q,), (k,))


def test_qwen_has_a_window_only_if_it_uses_one():
    plain = read("Qwen2")
    assert read("Qwen2", sliding_window=4096, max_window_layers=21) == plain
    assert read("Qwen2", sliding_window=8, layer_types=["full_attention"] * 32) == plain


def test_experts_of_qwen_have_a_size_of_their_own():
    config = read("Qwen3Moe", intermediate_size=6144, moe_intermediate_size=512, num_experts=16)
    assert (config.intermediate_size, config.num_local_experts) == (512, 16)
    assert read("Qwen3Moe", intermediate_size=6144) == read("Qwen3Moe")


@pytest.mark.parametrize("name", ["Qwen2", "Qwen3", "Qwen3Moe", "Olmoe"])
def test_a_field_that_came_later_names_the_version_that_knows_it(name):
    stored = json.loads(read(name).to_json())
    assert stored["requires"] == "0.2.0"
    assert ModelConfig.from_json(json.dumps(stored)) == read(name)
    assert "requires" not in json.loads(read().to_json())
