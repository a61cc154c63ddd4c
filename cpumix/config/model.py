"""The shape of a decoder, and of its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from cpumix.errors import ConfigError, quoted

from . import rope_scaling
from .families import FAMILIES, Family
from .huggingface import read_fields
from .labels import PROBLEM_TYPES, check_labels
from .rope_scaling import DynamicScaling, LinearScaling, RopeScaling, YarnScaling
from .tensors import EXPERT_PARTS, Role, TensorSpec
from .values import LARGEST, flag, positive, shown, token_id, token_ids, whole

QK_NORMS = (None, "head", "row")
_IDS = ("bos_token_id", "pad_token_id")
_SINCE_0_2 = {"since": "0.2.0"}  # the version that first knew a field
REQUIRES = "requires"  # a version of cpumix, in a config with fields that older ones do not know
_MOST = {"num_hidden_layers": 1000, "num_local_experts": 1000}  # listing the tensors must end


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
    qkv_bias: bool = field(default=False, metadata=_SINCE_0_2)
    """Whether a bias is added to queries, keys and values."""
    output_bias: bool = field(default=False, metadata=_SINCE_0_2)
    """Whether a bias is added to what attention adds to the stream."""
    qk_norm: str | None = field(default=None, metadata=_SINCE_0_2)
    """What of queries and keys is normed before rotation: each "head", or a token's whole "row"."""
    norm_topk_prob: bool = field(default=True, metadata=_SINCE_0_2)
    """Whether the weights of a token's experts sum up to one, or to their share of all experts'."""
    labels: tuple[str, ...] = field(default=(), metadata=_SINCE_0_2)
    """What a classifier tells texts apart by; none of a model that writes."""
    problem_type: str | None = field(default=None, metadata=_SINCE_0_2)
    """What a classifier was trained for, a name in `PROBLEM_TYPES`, if its checkpoint says so."""
    pad_token_id: int | None = field(default=None, metadata=_SINCE_0_2)
    """What a classifier passes over at the end of a text."""

    headless: bool = field(default=False, metadata=_SINCE_0_2)
    """Whether there is no head: the model only makes embeddings."""

    @property
    def writes(self) -> bool:
        """Whether there is a language head."""
        return not (self.headless or self.is_classifier)

    @property
    def is_classifier(self) -> bool:
        """Whether the model has a score head, and none that writes."""
        return bool(self.labels)

    @property
    def described(self) -> str:
        """What config.json calls the architecture."""
        family = self.family
        named = family.classifier if self.is_classifier else self.headless and family.base
        return named or self.architecture

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
    def context_limit(self) -> int:
        """The longest text, in tokens, that RoPE is made for as it is stretched.

        Linear and dynamic factors lengthen max_position_embeddings, YaRN's the trained context; as
        vLLM has it (https://github.com/vllm-project/vllm, _get_and_verify_max_len).
        """
        scaling, most = self.rope_scaling, self.max_position_embeddings
        if isinstance(scaling, LinearScaling | DynamicScaling):
            return max(most, int(most * scaling.factor))
        if isinstance(scaling, YarnScaling):
            return max(most, int(scaling.original_max_position_embeddings * scaling.factor))
        return most

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
            if self.qkv_bias:
                yield TensorSpec.of(Role.BQ, (self.q_size,), layer)
                yield TensorSpec.of(Role.BK, (self.kv_size,), layer)
                yield TensorSpec.of(Role.BV, (self.kv_size,), layer)
            if self.qk_norm is not None:
                by_head = self.qk_norm == "head"
                q, k = (self.head_dim,) * 2 if by_head else (self.q_size, self.kv_size)
                yield TensorSpec.of(Role.Q_NORM, (q,), layer)
                yield TensorSpec.of(Role.K_NORM, (k,), layer)
            yield TensorSpec.of(Role.WO, (hidden, self.q_size), layer)
            if self.output_bias:
                yield TensorSpec.of(Role.BO, (hidden,), layer)
            yield TensorSpec.of(Role.FFN_NORM, (hidden,), layer)
            if self.is_moe:
                yield TensorSpec.of(Role.ROUTER, (self.num_local_experts, hidden), layer)
        yield TensorSpec.of(Role.OUTPUT_NORM, (hidden,))
        if self.is_classifier:
            yield TensorSpec.of(Role.SCORE, (len(self.labels), hidden))
        elif not (self.headless or self.tie_word_embeddings):
            yield TensorSpec.of(Role.OUTPUT, (self.vocab_size, hidden))

    def expert_tensors(self, layer: int, expert: int) -> Iterator[TensorSpec]:
        """Yield the three matrices of an expert, in file order."""
        hidden, inner = self.hidden_size, self.intermediate_size
        for role in EXPERT_PARTS:
            shape = (hidden, inner) if role is Role.W2 else (inner, hidden)
            yield TensorSpec.of(role, shape, layer, expert)

    def to_json(self) -> str:
        """Write the fields; `from_json` reads them back exactly.

        A field that version 0.1 did not have is written only where it is needed: so old versions
        read all that they can run, and refuse the rest by the name of a field.
        """
        values, needed = {}, []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.default is MISSING:
                values[one.name] = value
            elif value != one.default:
                values[one.name] = value
                needed.append(one.metadata["since"])
        if self.rope_scaling is not None:
            values["rope_scaling"] = stored = rope_scaling.to_dict(self.rope_scaling)
            if "kind" in stored:
                needed.append(rope_scaling.SINCE)
        if needed:
            values[REQUIRES] = max(needed, key=_number)
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote, in this version or an older one. Raises ConfigError."""
        where = "model config"
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise ConfigError(
                f"{where}: expected JSON, found other text ({e}). Convert the checkpoint again."
            ) from e
        if not isinstance(values, dict):
            raise ConfigError(
                f"{where}: expected a JSON object, found {shown(values)}. "
                "Convert the checkpoint again."
            )
        version = values.pop(REQUIRES, None)
        known = {one.name: one for one in fields(cls)}
        if unknown := values.keys() - known.keys():
            raise ConfigError(
                f"{where}: {quoted(min(unknown))}: a field that this version of cpumix does not "
                f"know. Install {'a newer one' if version is None else quoted(version)} "
                "with `pip install --upgrade cpumix`."
            )
        missing = [n for n in known if n not in values and known[n].default is MISSING]
        if missing:
            raise ConfigError(
                f'{where}: expected every field that cpumix writes, but "{missing[0]}" is missing. '
                "Convert the checkpoint again."
            )
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
        for one in fields(cls):
            name, kind = one.name, str(one.type)
            value = made.get(name)
            if name not in made or name in _IDS or (value is None and "None" in kind):
                continue
            if kind.startswith("int"):
                made[name] = whole(value, name, where, _MOST.get(name, LARGEST))
            elif kind == "float":
                made[name] = positive(value, name, where)
            elif kind == "bool":
                flag(value, name, where)
        for name in _IDS:
            if made.get(name) is not None:
                token_id(made[name], name, where, made["vocab_size"])
        made["labels"] = check_labels(made.get("labels", ()), where)
        made["eos_token_ids"] = token_ids(
            made["eos_token_ids"], "eos_token_id", where, made["vocab_size"]
        )
        if made["rope_scaling"] is not None:
            made["rope_scaling"] = rope_scaling.from_dict(made["rope_scaling"], where)
        config = cls(**made)
        config._check_together(where)
        return config

    def _check_together(self, where: str) -> None:
        """Raise ConfigError for values that do not fit one another."""
        if self.architecture not in list(FAMILIES):  # a list: it may be unhashable
            raise ConfigError(
                f"{where}: architecture: expected one of {', '.join(FAMILIES)}, "
                f"found {shown(self.architecture)}. Update cpumix, or convert another model."
            )
        if self.qk_norm not in QK_NORMS:
            raise ConfigError(
                f'{where}: qk_norm: expected "head", "row" or null, found {shown(self.qk_norm)}. '
                "Update cpumix, or convert the checkpoint again."
            )
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ConfigError(
                f"{where}: problem_type: expected one of {', '.join(PROBLEM_TYPES)}, "
                f"found {shown(self.problem_type)}. Correct it in that file."
            )
        if self.num_experts_per_tok > self.num_local_experts:
            raise ConfigError(
                f"{where}: num_experts_per_tok: expected the {self.num_local_experts} of "
                f"num_local_experts at most, found {self.num_experts_per_tok}. "
                "Correct one of them."
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"{where}: num_attention_heads: expected a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}, found {self.num_attention_heads}. "
                "Correct one of them."
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"{where}: head_dim: expected an even number, whose halves rotate together, "
                f"found {self.head_dim}. Correct it in that file."
            )
        scaling = self.rope_scaling
        if isinstance(scaling, YarnScaling) and self.rope_theta <= 1:
            raise ConfigError(
                f"{where}: rope_theta: expected more than 1 with yarn, found "
                f"{self.rope_theta:g}. Correct it in that file."
            )
        if isinstance(scaling, DynamicScaling) and self.head_dim == 2:
            raise ConfigError(
                f"{where}: head_dim: expected more than 2 with dynamic RoPE scaling, found 2. "
                "Correct it in that file."
            )


def with_requirement(text: str, version: str) -> str:
    """Return what `to_json` wrote, for a file that needs a version of cpumix at least."""
    values = json.loads(text)
    values[REQUIRES] = max(values.get(REQUIRES, version), version, key=_number)
    return json.dumps(values, sort_keys=True)


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
