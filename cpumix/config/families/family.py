"""What a family of models is: its config.json, its traits, and its names of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..tensors import Role

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class TensorNames:
    """What a checkpoint in Hugging Face's form calls its tensors.

    Where several tensors of an expert have one name, they are fused: one above the other, in the
    order of `EXPERT_PARTS`.
    """

    by_role: Mapping[Role, str]
    """"{layer}" and "{expert}" stand for their numbers."""
    stacked: bool = False
    """Whether the tensors of experts have a first dimension for the experts of their layer."""


@dataclass(frozen=True)
class Family:
    """Models that differ in size only; a row of `FAMILIES`."""

    architecture: str
    """As config.json's `architectures` names it."""
    model_type: str
    defaults: Mapping[str, Any]
    """Every field of `ModelConfig` that its config.json may set, and what it means when absent."""
    names: tuple[TensorNames, ...]
    """Those that occur, the likeliest first."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _NOTHING)
    """Well-known ones: their config.json as far as it matters for memory."""
    aliases: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Other names that its config.json may have for a field."""
    idle: frozenset[str] = frozenset()
    """Fields that its config.json may have and that change nothing there."""
    traits: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """Fields of `ModelConfig` that are the same in every model of the family."""
    base: str | None = None
    """What `architectures` has for models without a head, which only make embeddings."""
    classifier: str | None = None
    """What `architectures` has for models with a score head instead of a language head."""
    gguf: str = "llama"
    """What GGUF calls the architecture."""
