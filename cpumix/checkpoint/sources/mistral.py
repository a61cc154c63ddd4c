"""A folder as Mistral releases it, with params.json, or as mlx-examples makes npz files of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cpumix.config import ModelConfig, without_fields
from cpumix.config.values import shown
from cpumix.errors import ConfigError, ConvertError, quoted

from ..encodings import assemble
from ..files import read_json
from ..head import Heads
from ..namings import mistral as namings
from ..shards import ShardNames, read_shards
from ..tensor import Contents
from . import huggingface
from .quantization import take_quantization
from .side_files import read_side_files

PARAMS = "params.json"
SHARDS = (
    ShardNames("consolidated*.safetensors", index_name="consolidated.safetensors.index.json"),
    ShardNames("consolidated.*.pth"),
    ShardNames("consolidated.*.pt"),
    ShardNames("weights*.npz"),
)
_CONTEXT = 32768  # params.json does not say; so much have Mistral's models since Mixtral
# Mistral's name of a field, and transformers', which occurs in a params.json too.
_FIELDS = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "sliding_window": "sliding_window",
    "max_seq_len": "max_position_embeddings",
}
_MOE = {"num_experts": "num_local_experts", "num_experts_per_tok": "num_experts_per_tok"}
_NEEDED = ("dim", "hidden_dim", "n_layers", "n_heads", "vocab_size")
# Of no matter for the result, or read elsewhere.
_OTHERS = frozenset(
    "moe quantization model_type architectures max_batch_size _sliding_window".split()
)


def claims(path: Path, heads: Heads) -> bool:
    """Whether this is a folder with Mistral's own weights, or with nothing but its params.json."""
    if not path.is_dir():
        return False
    if any(kind.exists(path, heads) for kind in huggingface.SHARDS):
        return False
    if any(kind.exists(path, heads) for kind in SHARDS):
        return True
    return (path / PARAMS).exists() and not (path / huggingface.CONFIG).exists()


def read_config(path: Path, ignored: Collection[str] = ()) -> ModelConfig:
    """Return the model that a folder's params.json describes, or its config.json without one."""
    file, fields = _read_params(path)
    if "dim" not in fields and "n_layers" not in fields:
        return huggingface.read_config(path, ignored)
    return from_params(without_fields(fields, ignored, f'"{file}"'), f'"{file}"')


def read_files(path: Path) -> dict[str, bytes]:
    """Return a folder's side files."""
    return read_side_files(path).files


def read(path: Path, ignored: Collection[str], heads: Heads) -> Contents:
    """Return what a folder holds."""
    config = read_config(path, ignored)
    side = read_side_files(path)
    kind = next((kind for kind in SHARDS if kind.exists(path, heads)), None)
    if kind is None:
        raise ConvertError(
            f"weights: expected consolidated.* or weights.*.npz beside {PARAMS}, found none in "
            f'"{path}". Download them there.'
        )
    quantization = take_quantization(_read_params(path)[1], path)
    matrices = assemble(read_shards(path, kind, heads), *quantization)
    names = namings.MIXTURE if config.is_moe else (namings.DENSE,)
    return Contents(path, config, matrices, names, *side)


def from_params(params: Mapping[str, Any], where: str) -> ModelConfig:
    """Return the model that the fields of a params.json describe. `where` names it in errors.

    Raises ConfigError for a field that is missing, wrong or unknown.
    """
    if "multiple_of" in params:  # its weights may be slices of matrices, one in each file
        raise ConfigError(
            f"{where}: expected the params.json of a model of Mistral's, found that of a Llama of "
            "Meta's. Get the model in the form of transformers, or as a GGUF file."
        )
    known = {*_FIELDS, *_FIELDS.values(), *_MOE.values(), *_OTHERS}
    for name, value in params.items():
        if name not in known and value not in (None, False):
            raise ConfigError(
                f"{where}: {quoted(name)}: a field of params.json unknown to cpumix, found "
                f"{shown(value)}."
            )
    fields = {ours: params.get(theirs, params.get(ours)) for theirs, ours in _FIELDS.items()}
    for name in _NEEDED:
        if fields[_FIELDS[name]] is None:
            raise ConfigError(f"{where}: expected the field {name} of a params.json, found none.")
    moe = params.get("moe") or {k: params[v] for k, v in _MOE.items() if v in params}
    if not isinstance(moe, dict):
        raise ConfigError(
            f"{where}: moe: expected an object with num_experts, found another value."
        )
    for name in _MOE if moe else ():
        if moe.get(name) is None:
            raise ConfigError(f"{where}: expected the field {name} of a params.json, found none.")
        fields[_MOE[name]] = moe[name]
    window = fields["sliding_window"]
    if isinstance(window, str) and window.isdecimal() and len(window) < 10:
        fields["sliding_window"] = window = int(window)
    # Mistral 7B v0.1 has a window and means 1e4; Mixtral has none and means 1e6, as
    # mistral-inference takes it (src/mistral_inference/transformer.py).
    fields["rope_theta"] = fields["rope_theta"] or (1e6 if window is None else 1e4)
    fields["max_position_embeddings"] = fields["max_position_embeddings"] or _CONTEXT
    fields["num_key_value_heads"] = fields["num_key_value_heads"] or fields["num_attention_heads"]
    kind = "MixtralForCausalLM" if moe else "MistralForCausalLM"
    given = {name: value for name, value in fields.items() if value is not None}
    defaults = {"architectures": [kind], "sliding_window": None, "bos_token_id": 1}
    return ModelConfig.from_huggingface(defaults | given, where)


def _read_params(path: Path) -> tuple[Path, dict[str, Any]]:
    file = path / PARAMS if (path / PARAMS).exists() else path / huggingface.CONFIG
    return file, read_json(file)
