"""What may stand in a config.json, what an absent field means there, and what is refused.

Of its fields a few are ours (those in a family's `defaults`), a few are run at some values only,
many matter in training or to other programs only. Any other is refused, for it may change the
result; unless its value switches nothing on, or the user knows better and has it ignored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cpumix.errors import ConfigError, quoted

from .families import FAMILIES, Family
from .huggingface_rope import ROPE, read_rope
from .labels import read_labels
from .values import flag, is_token_id, shown, whole

# Our fields that a family need not have.
_ABSENT: dict[str, Any] = {
    "num_local_experts": 1,
    "num_experts_per_tok": 1,
    "sliding_window": None,
}
# Our fields for which null means absent; for those of the others that may be null it means none.
_NULL_IS_ABSENT = frozenset(
    """
    attention_bias max_position_embeddings norm_topk_prob num_experts_per_tok num_local_experts
    rms_norm_eps rope_theta tie_word_embeddings
    """.split()
)
# Fields that would change the result, and the values that cpumix runs. Null counts as absent.
ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),  # two names of one function
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "pretraining_tp": (1, 0),
    "rope_interleaved": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "use_sliding_window": (False,),
    "decoder_sparse_step": (1,),
    "pruned_heads": ({},),
}
# Training, bookkeeping, ways to compute the same, and defaults of generation, which belong to
# generation_config.json.
_HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _experts_implementation
    _flash_attn_2_enabled _from_model_config _name_or_path architectures attention_dropout
    attn_implementation auto_map bad_words_ids begin_suppress_tokens chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping embd_pdrop encoder_no_repeat_ngram_size encoder_repetition_penalty
    epsilon_cutoff eta_cutoff experts_implementation exponential_decay_length_penalty
    finetuning_task flash_attn forced_bos_token_id forced_eos_token_id fused_linear_cross_entropy
    hidden_dropout id2label initializer_range is_decoder is_llama_config label2id length_penalty
    license max_length max_new_tokens max_sequence_length max_window_layers mergekit_version
    min_length model_max_length model_type name name_or_path no_repeat_ngram_size num_beam_groups
    num_beams num_labels num_return_sequences original_max_position_embeddings output_attentions
    output_hidden_states output_router_logits output_scores pad_token_id prefix problem_type
    remove_invalid_values repetition_penalty resid_pdrop return_dict return_dict_in_generate
    router_aux_loss_coef router_jitter_noise router_z_loss_coef sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
    torch_dtype torchscript transformers.js_config transformers_version typical_p unk_token_id
    unsloth_fixed unsloth_version use_bfloat16 use_cache use_flash_attention use_flash_attention_2
    use_flash_attn use_flashattn use_sdpa
    """.split()
)


def read_fields(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of `ModelConfig`, as plain JSON values not yet checked one by one.

    Raises ConfigError for an architecture or field that cpumix does not run.
    """
    family, named = _family(config, where)
    config = {name: value for name, value in config.items() if name not in family.idle}
    for alias, name in family.aliases.items():
        if config.get(alias) is not None:
            config = {**config, name: config[alias]}
    for name, value in config.items():
        if name not in family.defaults and name not in family.aliases and value is not None:
            _check_other(name, value, config, where)
    made = {**_ABSENT, **family.defaults, **_given(config, family), **family.traits}
    made["rope_scaling"], theta = read_rope(config, made, where)
    if theta is not None:
        made["rope_theta"] = theta
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
    if not is_token_id(made["bos_token_id"], whole(made["vocab_size"], "vocab_size", where)):
        made["bos_token_id"] = None  # the tokenizer knows what begins a text
    made["eos_token_ids"] = made.pop("eos_token_id")
    if flag(made.pop("attention_bias", False), "attention_bias", where):
        made |= {"qkv_bias": True, "output_bias": True}
    if named != family.architecture:
        made["tie_word_embeddings"] = False  # there is nothing to tie
    if named == family.classifier:
        made |= _classifier_fields(config, made, where)
    made["headless"] = named == family.base
    return {"architecture": family.architecture, **made}


def without_fields(
    config: Mapping[str, Any], ignored: Collection[str], where: str
) -> dict[str, Any]:
    """Return a config without fields that the user knows not to matter.

    "rope_scaling.x" is the part x of the object rope_scaling. Raises ConfigError for a field that
    is not there.
    """
    config = dict(config)
    for path in ignored:
        name, _, part = (path, "", "") if path in config else path.partition(".")
        inside = config.get(name)
        if name not in config or (part and not (isinstance(inside, dict) and part in inside)):
            raise ConfigError(
                f"{where}: --ignore-field {quoted(path)}: expected the name of a field that stands "
                f"there, such as {quoted(next(iter(config), ''))}. Compare the spelling."
            )
        config = {key: value for key, value in config.items() if key != name}
        if part and isinstance(inside, dict):
            config[name] = {key: value for key, value in inside.items() if key != part}
    return config


def _given(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Return those of our fields that a config sets."""
    return {
        name: config[name]
        for name in family.defaults
        if name in config and not (config[name] is None and name in _NULL_IS_ABSENT)
    }


def _classifier_fields(
    config: Mapping[str, Any], made: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the fields that only a classifier has."""
    pad = config.get("pad_token_id")
    return {
        "labels": read_labels(config, where),
        "problem_type": config.get("problem_type"),
        "pad_token_id": pad if is_token_id(pad, made["vocab_size"]) else None,
    }


def _family(config: Mapping[str, Any], where: str) -> tuple[Family, str]:
    """Return the family of a model, and the architecture: that of its language models, or not."""
    kind = config.get("model_type")
    named = config.get("architectures")
    if named is None and isinstance(kind, str):  # saved apart from a model
        named = [f.architecture for f in FAMILIES.values() if f.model_type == kind] or [kind]
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise ConfigError(
            f"{where}: architectures: expected a list of one name, found {shown(named)}. "
            "Take the config.json of the checkpoint itself."
        )
    others = ((name, f) for f in FAMILIES.values() for name in (f.base, f.classifier))
    known = FAMILIES | {name: family for name, family in others if name is not None}
    if named[0] not in known:
        raise ConfigError(
            f"{where}: architectures: cpumix runs {', '.join(FAMILIES)}, and their Model and "
            f"ForSequenceClassification, found {quoted(named[0])}. "
            "Convert a checkpoint of one of these."
        )
    if kind is not None and kind != known[named[0]].model_type:
        raise ConfigError(
            f"{where}: model_type: expected the one of {named[0]}, found {shown(kind)}. "
            "Take the config.json of the checkpoint itself."
        )
    return known[named[0]], named[0]


def _check_other(name: str, value: Any, config: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if a field that is not ours may change the result."""
    if name in ONLY:
        if value not in ONLY[name]:
            raise ConfigError(
                f"{where}: {name}: cpumix runs only {shown(ONLY[name][0])}, found {shown(value)}. "
                f"{_ignore(name)}"
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
                f"sliding_window, found {shown(value)}. {_ignore(name)}"
            )
    elif value and name not in _HARMLESS and name not in ROPE:
        raise ConfigError(
            f"{where}: {quoted(name)}: a field unknown to cpumix that may change the result, "
            f"found {shown(value)}. {_ignore(name)}"
        )


def _ignore(name: str) -> str:
    return f"If you know that it does not matter here, use --ignore-field {quoted(name)}."
