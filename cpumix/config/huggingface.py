"""What may stand in a config.json, what an absent field means there, and what is refused.

Of its fields a few are ours (those in a family's `defaults`), a few are run at one value only, many
matter in training or to other programs only; any other is refused, for it may change the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpumix.errors import ConfigError

from .families import FAMILIES
from .values import shown, whole

# Our fields that a family need not have.
_ABSENT: dict[str, Any] = {
    "num_local_experts": 1,
    "num_experts_per_tok": 1,
    "sliding_window": None,
}

# Fields that would change the result, and the values that cpumix runs. Null counts as absent.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),  # two names of one function
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "pretraining_tp": (1,),
    "rope_interleaved": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
}
# Training, bookkeeping, and defaults of generation, which belong to generation_config.json.
_HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _experts_implementation
    _flash_attn_2_enabled _from_model_config _name_or_path architectures attention_dropout
    attn_implementation auto_map bad_words_ids begin_suppress_tokens chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping embd_pdrop encoder_no_repeat_ngram_size encoder_repetition_penalty
    epsilon_cutoff eta_cutoff experts_implementation exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id hidden_dropout id2label
    initializer_range is_decoder is_llama_config label2id length_penalty max_length
    max_new_tokens max_sequence_length min_length model_type name name_or_path
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    original_max_position_embeddings output_attentions output_hidden_states output_router_logits
    output_scores pad_token_id prefix problem_type remove_invalid_values repetition_penalty
    resid_pdrop return_dict return_dict_in_generate router_aux_loss_coef router_jitter_noise
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed
    unsloth_version use_bfloat16 use_cache
    """.split()
)

_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_ROPE_FIELDS = {"rope_theta", "rope_type", "type", "partial_rotary_factor", *_LLAMA3}


def read_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of `ModelConfig`, as plain JSON values not yet checked one by one.

    Raises ConfigError for an architecture or field that cpumix does not run.
    """
    family = FAMILIES[_architecture(config, where)]
    defaults = family.defaults
    for alias, name in family.aliases.items():
        if config.get(alias) is not None:
            config = {**config, name: config[alias], alias: None}
    for name, value in config.items():
        if name not in defaults and value is not None:
            _check_other(name, value, config, where)
    made = {**_ABSENT, **defaults, **{name: config[name] for name in defaults if name in config}}
    made |= family.traits
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    made["rope_scaling"] = _rope_scaling(rope, config, made, where)
    # transformers 5 moved it into rope_parameters; older files have it outside.
    for given in (rope.get("rope_theta"), config.get("rope_theta"), defaults["rope_theta"]):
        if given is not None:
            made["rope_theta"] = given
            break
    heads = whole(made["num_attention_heads"], "num_attention_heads", where)
    if made["num_key_value_heads"] is None:
        made["num_key_value_heads"] = heads
    if made["head_dim"] is None:
        hidden = whole(made["hidden_size"], "hidden_size", where)
        if hidden % heads:
            raise ConfigError(
                f"{where}: hidden_size: expected a multiple of num_attention_heads {heads}, "
                f"found {hidden}. Give head_dim."
            )
        made["head_dim"] = hidden // heads
    made["eos_token_ids"] = made.pop("eos_token_id")
    return {"architecture": family.architecture, **made}


def _architecture(config: Mapping[str, Any], where: str) -> str:
    kind = config.get("model_type")
    named = config.get("architectures")
    if named is None and isinstance(kind, str):  # saved apart from a model
        named = [f.architecture for f in FAMILIES.values() if f.model_type == kind] or [kind]
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise ConfigError(
            f"{where}: architectures: expected a list of one name, found {shown(named)}."
        )
    if named[0] not in FAMILIES:
        raise ConfigError(
            f'{where}: architectures: cpumix runs {", ".join(FAMILIES)}, found "{named[0]}".'
        )
    if kind is not None and kind != FAMILIES[named[0]].model_type:
        raise ConfigError(
            f"{where}: model_type: expected the one of {named[0]}, found {shown(kind)}."
        )
    return named[0]


def _check_other(name: str, value: Any, config: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if a field that is not ours may change the result."""
    if name in _ONLY:
        if value not in _ONLY[name]:
            raise ConfigError(
                f"{where}: {name}: cpumix runs only {shown(_ONLY[name][0])}, found {shown(value)}."
            )
    elif name == "quantization_config":
        method = value.get("quant_method") if isinstance(value, dict) else value
        raise ConfigError(
            f"{where}: quantization_config: expected weights as they were trained, found them "
            f"quantized by {shown(method)}. Convert the checkpoint that they were made from."
        )
    elif name == "layer_types":
        windowed = config.get("sliding_window") is not None
        only = "sliding_attention" if windowed else "full_attention"
        if not isinstance(value, list) or any(layer != only for layer in value):
            raise ConfigError(
                f'{where}: layer_types: cpumix runs "{only}" in every layer with this '
                f"sliding_window, found {shown(value)}."
            )
    elif name not in _HARMLESS and name not in ("rope_theta", "rope_scaling", "rope_parameters"):
        raise ConfigError(
            f"{where}: {name}: a field unknown to cpumix that may change the result, "
            f"found {shown(value)}."
        )


def _rope_scaling(
    rope: Any, config: Mapping[str, Any], made: Mapping[str, Any], where: str
) -> dict[str, Any] | None:
    if not isinstance(rope, dict):
        raise ConfigError(
            f"{where}: rope_scaling: expected an object or null, found {shown(rope)}."
        )
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise ConfigError(
            f'{where}: rope_scaling: cpumix runs the types "default" and "llama3", '
            f"found {shown(kind)}."
        )
    for name, value in rope.items():
        if name not in _ROPE_FIELDS:
            raise ConfigError(
                f"{where}: rope_scaling: a part unknown to cpumix that may change the result, "
                f"found {shown(name)}."
            )
        if name in _ONLY and value is not None:
            _check_other(name, value, config, f"{where}: rope_scaling")
    if kind == "default":
        return None
    length = "original_max_position_embeddings"
    known = {
        **rope,
        length: config.get(length) or rope.get(length) or made["max_position_embeddings"],
    }
    missing = [name for name in _LLAMA3 if name not in known]
    if missing:
        raise ConfigError(
            f"{where}: rope_scaling: expected {', '.join(_LLAMA3)} with llama3, "
            f"found no {', '.join(missing)}."
        )
    return {name: known[name] for name in _LLAMA3}
