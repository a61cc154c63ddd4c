"""The names that transformers gives tensors, and the quantizers and mlx-lm after it.

Each family has its own; here they become places.
"""

from __future__ import annotations

from cpumix.config import EXPERT_PARTS, Family, Role, TensorNames

from .places import Naming, Place, Stacked


def namings(family: Family) -> tuple[Naming, ...]:
    """Return the namings that occur in a family, the likeliest first."""
    return tuple(map(_naming, family.names))


def _naming(names: TensorNames) -> Naming:
    return {role: _place(role, names) for role in names.by_role}


def _place(role: Role, names: TensorNames) -> Place:
    name = names.by_role[role]
    if not names.stacked or role not in EXPERT_PARTS:
        return Place(name)
    fused = [part for part in EXPERT_PARTS if names.by_role[part] == name]
    return Stacked(name, part=fused.index(role), parts=len(fused))
