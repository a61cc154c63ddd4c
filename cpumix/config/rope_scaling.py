"""How RoPE is stretched beyond the context that a model was trained on: the parameters of each way.

What is computed from them is the forward pass's business. A model file has them as a JSON object
with their `kind`; only llama3's has none, because version 0.1 knew no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cpumix.errors import ConfigError, quoted

from .values import flag, positive, shown, whole


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow rotations are slowed by `factor`, fast ones left, those between blended (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def check(self, where: str) -> None:
        """Raise ConfigError for values that do not fit one another."""
        if self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError(
                f"{where}: low_freq_factor: expected less than high_freq_factor "
                f"{self.high_freq_factor:g}, found {self.low_freq_factor:g}. Correct one of them."
            )


@dataclass(frozen=True)
class LinearScaling:
    """All rotations are slowed by `factor` (arXiv 2306.15595)."""

    factor: float

    def check(self, where: str) -> None:
        """Accept every factor."""


@dataclass(frozen=True)
class DynamicScaling:
    """Beyond the trained context, the base grows with the context's length (NTK-aware)."""

    factor: float

    def check(self, where: str) -> None:
        """Accept every factor."""


@dataclass(frozen=True)
class YarnScaling:
    """As llama3, with bounds in rotations over the trained context (arXiv 2309.00071)."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    """Dimensions that turn more often than this in the trained context are left as they are."""
    beta_slow: float
    """Those that turn less often are slowed by `factor`."""
    attention_factor: float
    """Queries and keys are multiplied by it."""
    truncate: bool
    """Whether the bounds are rounded to whole dimensions."""

    def check(self, where: str) -> None:
        """Raise ConfigError for values that do not fit one another."""
        if self.beta_slow > self.beta_fast:
            raise ConfigError(
                f"{where}: beta_slow: expected beta_fast {self.beta_fast:g} at most, "
                f"found {self.beta_slow:g}. Correct one of them."
            )


RopeScaling = Llama3Scaling | LinearScaling | DynamicScaling | YarnScaling
SCALINGS: dict[str, type[RopeScaling]] = {
    "llama3": Llama3Scaling,
    "linear": LinearScaling,
    "dynamic": DynamicScaling,
    "yarn": YarnScaling,
}
SINCE = "0.2.0"  # the version that first ran other kinds than llama3
_CHECKS = {"float": positive, "int": whole, "bool": flag}


def to_dict(scaling: RopeScaling) -> dict[str, Any]:
    """Return what a model file has of a scaling; `from_dict` reads it back."""
    if isinstance(scaling, Llama3Scaling):
        return asdict(scaling)
    kind = next(kind for kind, made in SCALINGS.items() if made is type(scaling))
    return {"kind": kind, **asdict(scaling)}


def from_dict(values: Any, where: str) -> RopeScaling:
    """Return the scaling that `to_dict` wrote. Raises ConfigError for anything else."""
    where = f"{where}: rope_scaling"
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a JSON object, found {shown(values)}.")
    kind = values.get("kind", "llama3")
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise ConfigError(
            f"{where}: expected one of the kinds {', '.join(SCALINGS)}, found {shown(kind)}. "
            "Update cpumix, or convert the checkpoint again."
        )
    made = SCALINGS[kind]
    names = {field.name for field in fields(made)}
    if strange := names ^ (values.keys() - {"kind"}):
        raise ConfigError(
            f"{where}: expected {', '.join(sorted(names))} with {kind}, "
            f"{'but no' if min(strange) in names else 'found'} {quoted(min(strange))}. "
            "Update cpumix, or convert the checkpoint again."
        )
    checked: dict[str, Any] = {
        f.name: _CHECKS[str(f.type)](values[f.name], f.name, where) for f in fields(made)
    }
    scaling = made(**checked)
    scaling.check(where)
    return scaling


def yarn_attention_factor(
    factor: float, mscale: float | None, mscale_all_dim: float | None
) -> float:
    """Return what YaRN multiplies queries and keys by, where the checkpoint does not say."""

    def grown(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0

    return grown(mscale) / grown(mscale_all_dim) if mscale and mscale_all_dim else grown(1.0)
