"""The names that transformers gives tensors, and the quantizers and mlx-lm after it.

Each family has its own; here they become places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cpumix.config import EXPERT_PARTS, Family, Role, TensorNames

from .places import Naming, Place, Stacked

_PREFIX = "model."


def namings(family: Family) -> tuple[Naming, ...]:
    """Return the namings that occur in a family, the likeliest first.

    Those of models without a head lack the name that they have as a part of other models.
    """
    bare = tuple(replace(names, by_role=_without_prefix(names.by_role)) for names in family.names)
    return tuple(map(_naming, (*family.names, *bare)))


def _without_prefix(names: Mapping[Role, str]) -> dict[Role, str]:
    return {role: name.removeprefix(_PREFIX) for role, name in names.items()}


def _naming(names: TensorNames) -> Naming:
    return {role: _place(role, names) for role in names.by_role}


def _place(role: Role, names: TensorNames) -> Place:
    name = names.by_role[role]
    if not names.stacked or role not in EXPERT_PARTS:
        return Place(name)
    fused = [part for part in EXPERT_PARTS if names.by_role[part] == name]
    return Stacked(name, part=fused.index(role), parts=len(fused))
