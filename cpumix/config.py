"""What a model is, apart from its weights: the fields of Hugging Face's config.json that cpumix runs.

A field that would change the result and that cpumix does not run is refused by name, never ignored;
so is a field that nobody here has heard of. Fields that only matter in training, or to other
programs, are listed and passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from .errors import ConfigError

# What an absent field means, where Hugging Face's classes differ.
DEFAULTS: dict[str, dict[str, Any]] = {
    "MixtralForCausalLM": {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "MistralForCausalLM": {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "sliding_window": 4096,
    },
    "LlamaForCausalLM": {
        "intermediate_size": 11008,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
    },
}
SHARED_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "head_dim": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
# Fields that change the result, and the only values of theirs that cpumix runs; null counts as
# absent.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1, 1.0),
    "pretraining_tp": (1,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "scale_attn_weights": (True,),
    "use_sliding_window": (True,),
}
HARMLESS = frozenset(
    """
    _attn_implementation _from_model_config _name_or_path architectures attention_dropout auto_map
    bad_words_ids begin_suppress_tokens chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id id2label initializer_range is_decoder label2id
    length_penalty max_length min_length model_type name no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_attentions output_hidden_states output_router_logits
    output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate router_aux_loss_coef router_jitter_noise
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p
    unsloth_version unsloth_fixed use_bfloat16 use_cache
    """.split()
)
ROPE_KEYS = ("rope_parameters", "rope_scaling")


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the slow rotations, for contexts longer than it was first trained on."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape, under Hugging Face's field names. A dense model is one of a single expert and no router."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_local_experts: int
    num_experts_per_tok: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    sliding_window: int | None
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def is_moe(self) -> bool:
        """Whether a router picks experts."""
        return self.num_local_experts > 1

    @property
    def q_size(self) -> int:
        """Columns of all query heads."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Columns of all key (or value) heads."""
        return self.num_key_value_heads * self.head_dim

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor's canonical name and shape, in model-file order: the dense part, then the experts."""
        hidden, inner = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocab_size, hidden)}
        for layer in range(self.num_hidden_layers):
            block = f"blk.{layer}."
            shapes[block + "attn_norm.weight"] = (hidden,)
            shapes[block + "attn_q.weight"] = (self.q_size, hidden)
            shapes[block + "attn_k.weight"] = (self.kv_size, hidden)
            shapes[block + "attn_v.weight"] = (self.kv_size, hidden)
            shapes[block + "attn_output.weight"] = (hidden, self.q_size)
            shapes[block + "ffn_norm.weight"] = (hidden,)
            if self.is_moe:
                shapes[block + "router.weight"] = (self.num_local_experts, hidden)
        shapes["output_norm.weight"] = (hidden,)
        if not self.tie_word_embeddings:
            shapes["output.weight"] = (self.vocab_size, hidden)
        for layer in range(self.num_hidden_layers):
            for expert in range(self.num_local_experts):
                prefix = f"blk.{layer}.expert.{expert}."
                shapes[prefix + "w1"] = shapes[prefix + "w3"] = (inner, hidden)
                shapes[prefix + "w2"] = (hidden, inner)
        return shapes

    def to_json(self) -> str:
        """Write all fields; `from_json` reads them back exactly."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote. Raises ConfigError for anything else."""
        try:
            values = json.loads(text)
            if scaling := values["rope_scaling"]:
                values["rope_scaling"] = RopeScaling(**scaling)
            values["eos_token_ids"] = tuple(values["eos_token_ids"])
            config = cls(**values)
        except (ValueError, TypeError, KeyError) as e:
            raise ConfigError(
                f"model config: expected the fields of ModelConfig as JSON, found other text ({e})."
            ) from e
        config._check("model config")
        return config

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any], where: str) -> ModelConfig:
        """Read a config.json. `where` names it in errors.

        Raises ConfigError for an architecture, field or value that cpumix does not run.
        """
        architecture = _architecture(config, where)
        defaults = {**SHARED_DEFAULTS, **DEFAULTS[architecture]}
        _refuse_others(config, defaults, where)
        value = {name: config.get(name, default) for name, default in defaults.items()}
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        heads = _whole(value["num_attention_heads"], "num_attention_heads", where)
        hidden = _whole(value["hidden_size"], "hidden_size", where)
        if value["head_dim"] is None and hidden % heads:
            raise ConfigError(
                f"{where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}. Give head_dim."
            )
        eos = value["eos_token_id"]
        made = cls(
            architecture=architecture,
            vocab_size=value["vocab_size"],
            hidden_size=hidden,
            intermediate_size=value["intermediate_size"],
            num_hidden_layers=value["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=heads
            if value["num_key_value_heads"] is None
            else value["num_key_value_heads"],
            head_dim=hidden // heads if value["head_dim"] is None else value["head_dim"],
            num_local_experts=value.get("num_local_experts", 1),
            num_experts_per_tok=value.get("num_experts_per_tok", 1),
            max_position_embeddings=value["max_position_embeddings"],
            rms_norm_eps=value["rms_norm_eps"],
            # Top level first: transformers 5 moved it into rope_parameters, older files have it
            # outside.
            rope_theta=config.get("rope_theta", rope.get("rope_theta", defaults["rope_theta"])),
            rope_scaling=_rope_scaling(rope, where),
            sliding_window=value.get("sliding_window"),
            tie_word_embeddings=bool(value["tie_word_embeddings"]),
            bos_token_id=value["bos_token_id"],
            eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        )
        made._check(where)
        return made

    def _check(self, where: str) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" or (field.name == "sliding_window" and value is not None):
                _whole(value, field.name, where)
            elif field.type == "float":
                _positive(value, field.name, where)
        if self.architecture not in DEFAULTS:
            raise ConfigError(
                f'{where}: expected architecture {" or ".join(DEFAULTS)}, found "{self.architecture}".'
            )
        if self.num_experts_per_tok > self.num_local_experts:
            raise ConfigError(
                f"{where}: num_experts_per_tok {self.num_experts_per_tok} is more than num_local_experts "
                f"{self.num_local_experts}."
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"{where}: num_attention_heads {self.num_attention_heads} is no multiple of num_key_value_heads "
                f"{self.num_key_value_heads}."
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"{where}: head_dim must be even to be rotated, found {self.head_dim}."
            )
        for token in (
            *self.eos_token_ids,
            *(() if self.bos_token_id is None else (self.bos_token_id,)),
        ):
            if not isinstance(token, int) or not 0 <= token < self.vocab_size:
                raise ConfigError(
                    f"{where}: expected token ids below vocab_size {self.vocab_size}, found {token!r} among bos and eos."
                )


def _architecture(config: Mapping[str, Any], where: str) -> str:
    named = config.get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise ConfigError(f'{where}: expected one name under "architectures", found {named!r}.')
    if named[0] not in DEFAULTS:
        raise ConfigError(
            f'{where}: cpumix runs {", ".join(DEFAULTS)}, found architecture "{named[0]}".'
        )
    return named[0]


def _refuse_others(config: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for the first field that would change the result, or that is unknown."""
    for name, value in config.items():
        if name in known or name in HARMLESS or name in ROPE_KEYS or name == "rope_theta":
            continue
        if name in ONLY:
            if value is not None and value not in ONLY[name]:
                raise ConfigError(
                    f"{where}: cpumix runs {name} = {json.dumps(ONLY[name][0])} only, found {json.dumps(value)}."
                )
        elif name == "quantization_config":
            raise ConfigError(
                f"{where}: quantization_config: the weights are already quantized for another program. "
                "Convert the original checkpoint."
            )
        elif (
            name == "layer_types"
            and set(value) <= {"full_attention"}
            and not config.get("sliding_window")
        ):
            continue
        elif value is not None:
            raise ConfigError(
                f'{where}: "{name}" is a field that cpumix does not know, and it may change the result.'
            )


def _rope_scaling(rope: Mapping[str, Any], where: str) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ConfigError(
            f'{where}: cpumix runs rope_scaling of type default or llama3, found "{kind}".'
        )
    missing = [f.name for f in fields(RopeScaling) if f.name not in rope]
    if missing:
        raise ConfigError(f"{where}: rope_scaling of type llama3 lacks {', '.join(missing)}.")
    return RopeScaling(
        factor=_positive(rope["factor"], "factor", where),
        low_freq_factor=_positive(rope["low_freq_factor"], "low_freq_factor", where),
        high_freq_factor=_positive(rope["high_freq_factor"], "high_freq_factor", where),
        original_max_position_embeddings=_whole(
            rope["original_max_position_embeddings"], "original_max_position_embeddings", where
        ),
    )


def _whole(value: Any, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise ConfigError(f"{where}: {name}: expected a positive whole number, found {value!r}.")
    return value


def _positive(value: Any, name: str, where: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (isfinite(value) and value > 0)
    ):
        raise ConfigError(f"{where}: {name}: expected a positive number, found {value!r}.")
    return float(value)
