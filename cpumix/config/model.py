"""The shape of a decoder, and of its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cpumix.errors import ConfigError

from .families import FAMILIES, Family
from .huggingface import read_fields
from .tensors import EXPERT_PARTS, Role, TensorSpec
from .values import LARGEST, flag, positive, shown, token_id, token_ids, whole

_MOST = {"num_hidden_layers": 1000, "num_local_experts": 1000}  # listing the tensors must end


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of the slow rotations, for contexts longer than it was trained on."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """A decoder's shape, under Hugging Face's field names; a dense one has one expert, no router.

    Make one with `from_huggingface` or `from_json`, which check every value.
    """

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

    @property
    def family(self) -> Family:
        """The row of `FAMILIES` that the model belongs to."""
        return FAMILIES[self.architecture]

    def tensors(self) -> Iterator[TensorSpec]:
        """Yield every tensor in file order: the dense part, then the experts, matrix by matrix."""
        yield from self.dense_tensors()
        for layer in range(self.num_hidden_layers):
            for expert in range(self.num_local_experts):
                yield from self.expert_tensors(layer, expert)

    def dense_tensors(self) -> Iterator[TensorSpec]:
        """Yield the tensors that every token uses, in file order."""
        hidden = self.hidden_size
        yield TensorSpec.of(Role.EMBEDDING, (self.vocab_size, hidden))
        for layer in range(self.num_hidden_layers):
            yield TensorSpec.of(Role.ATTN_NORM, (hidden,), layer)
            yield TensorSpec.of(Role.WQ, (self.q_size, hidden), layer)
            yield TensorSpec.of(Role.WK, (self.kv_size, hidden), layer)
            yield TensorSpec.of(Role.WV, (self.kv_size, hidden), layer)
            yield TensorSpec.of(Role.WO, (hidden, self.q_size), layer)
            yield TensorSpec.of(Role.FFN_NORM, (hidden,), layer)
            if self.is_moe:
                yield TensorSpec.of(Role.ROUTER, (self.num_local_experts, hidden), layer)
        yield TensorSpec.of(Role.OUTPUT_NORM, (hidden,))
        if not self.tie_word_embeddings:
            yield TensorSpec.of(Role.OUTPUT, (self.vocab_size, hidden))

    def expert_tensors(self, layer: int, expert: int) -> Iterator[TensorSpec]:
        """Yield the three matrices of an expert, in file order."""
        hidden, inner = self.hidden_size, self.intermediate_size
        for role in EXPERT_PARTS:
            shape = (hidden, inner) if role is Role.W2 else (inner, hidden)
            yield TensorSpec.of(role, shape, layer, expert)

    def to_json(self) -> str:
        """Write all fields; `from_json` reads them back exactly."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote. Raises ConfigError for anything else."""
        where = "model config"
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise ConfigError(f"{where}: expected JSON, found other text ({e}).") from e
        _check_names(values, cls, where)
        if values["rope_scaling"] is not None:
            _check_names(values["rope_scaling"], RopeScaling, f"{where}: rope_scaling")
        return cls._checked(values, where)

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any], where: str) -> ModelConfig:
        """Read a config.json. `where` names it in errors.

        Raises ConfigError for an architecture, field or value that cpumix does not run.
        """
        return cls._checked(read_fields(config, where), where)

    @classmethod
    def _checked(cls, values: Mapping[str, Any], where: str) -> ModelConfig:
        """Return a config of plain JSON values. Raises ConfigError for a wrong one."""
        made = dict(values)
        for field in fields(cls):
            name, value = field.name, made[field.name]
            if field.type == "int" or (field.type == "int | None" and value is not None):
                if name != "bos_token_id":
                    made[name] = whole(value, name, where, _MOST.get(name, LARGEST))
            elif field.type == "float":
                made[name] = positive(value, name, where)
        flag(made["tie_word_embeddings"], "tie_word_embeddings", where)
        if made["bos_token_id"] is not None:
            token_id(made["bos_token_id"], "bos_token_id", where, made["vocab_size"])
        made["eos_token_ids"] = token_ids(
            made["eos_token_ids"], "eos_token_id", where, made["vocab_size"]
        )
        if made["rope_scaling"] is not None:
            made["rope_scaling"] = _rope_scaling(made["rope_scaling"], where)
        config = cls(**made)
        config._check_together(where)
        return config

    def _check_together(self, where: str) -> None:
        """Raise ConfigError for values that do not fit one another."""
        if self.architecture not in list(FAMILIES):  # a list: it may be unhashable
            raise ConfigError(
                f"{where}: architecture: expected one of {', '.join(FAMILIES)}, "
                f"found {shown(self.architecture)}."
            )
        if self.num_experts_per_tok > self.num_local_experts:
            raise ConfigError(
                f"{where}: num_experts_per_tok: expected the {self.num_local_experts} of "
                f"num_local_experts at most, found {self.num_experts_per_tok}."
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"{where}: num_attention_heads: expected a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}, found {self.num_attention_heads}."
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"{where}: head_dim: expected an even number, whose halves rotate together, "
                f"found {self.head_dim}."
            )


def _check_names(values: Any, kind: type, where: str) -> None:
    """Raise ConfigError unless a JSON value is an object with exactly the fields of a dataclass."""
    expected = {field.name for field in fields(kind)}
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {shown(values)}.")
    if strange := expected ^ values.keys():
        name = min(strange)
        missing_or_unknown = "is missing" if name in expected else "is unknown"
        raise ConfigError(
            f'{where}: expected the fields of this version of cpumix, but "{name}" '
            f"{missing_or_unknown}."
        )


def _rope_scaling(values: Mapping[str, Any], where: str) -> RopeScaling:
    where = f"{where}: rope_scaling"
    checked: dict[str, Any] = {
        name: (whole if name == "original_max_position_embeddings" else positive)(
            value, name, where
        )
        for name, value in values.items()
    }
    scaling = RopeScaling(**checked)
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise ConfigError(
            f"{where}: low_freq_factor: expected less than high_freq_factor "
            f"{scaling.high_freq_factor:g}, found {scaling.low_freq_factor:g}."
        )
    return scaling
