"""How tokens are drawn: every parameter, its default and its range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import ConfigError


class Range(NamedTuple):
    """The numbers that a parameter may have."""

    kind: type[int] | type[float]
    words: str  # what stands in the sentence that refuses others
    low: float = -math.inf
    high: float = math.inf
    open: bool = False  # `low` itself is left out

    def holds(self, value: object) -> bool:
        """Tell whether `value` is such a number; nan and infinity never are."""
        number = (int,) if self.kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, number) or not math.isfinite(value):
            return False
        return self.low < value <= self.high or (value == self.low and not self.open)


RANGES: Mapping[str, Range] = MappingProxyType(
    {
        "temperature": Range(float, "0 or more", 0),
        "top_k": Range(int, "0 (all tokens) or more", 0),
        "top_p": Range(float, "more than 0 and at most 1", 0, 1, open=True),
        "seed": Range(int, "0 or more", 0),
    }
)
OPTIONAL = {"seed"}  # None: not given


@dataclass(frozen=True)
class SamplingParams:
    """How to draw the tokens of one text.

    The same seed and logits give the same tokens. Raises ConfigError for a number out of range.
    """

    temperature: float = 0.8  # 0 takes the likeliest token
    top_k: int = 40  # 0 keeps all tokens
    top_p: float = 0.95  # 1 keeps all tokens
    seed: int | None = None  # None draws one

    def __post_init__(self) -> None:
        """Check every number against its range."""
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if value is None and field.name in OPTIONAL:
                continue
            if not (allowed := RANGES[field.name]).holds(value):
                raise ConfigError(f"{field.name}: expected {allowed.words}, found {value!r}.")
