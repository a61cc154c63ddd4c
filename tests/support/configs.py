"""One factory for small models' configs: as config.json has them, and as cpumix reads that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpumix.config import ModelConfig

ARCHITECTURES = {
    "mixtral": "MixtralForCausalLM",
    "mistral": "MistralForCausalLM",
    "llama": "LlamaForCausalLM",
}


def config_json(model_type: str = "mixtral", **changes: Any) -> dict[str, Any]:
    """Return the config.json of a tiny model, with these fields changed or added."""
    config = {
        "architectures": [ARCHITECTURES[model_type]],
        "model_type": model_type,
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
    } | changes
    if model_type != "mixtral":
        config = {name: value for name, value in config.items() if "expert" not in name}
    return config


def model_config(model_type: str = "mixtral", **changes: Any) -> ModelConfig:
    """Return the same as a `ModelConfig`."""
    from cpumix.config import ModelConfig  # not above: recording goldens needs no cpumix

    return ModelConfig.from_huggingface(config_json(model_type, **changes), "config.json")
