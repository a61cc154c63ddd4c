"""How tokens are drawn: every parameter, its default and the values that it may have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from cpumix.errors import ConfigError, escaped

ALL = -1  # a window over the whole text
MOST_DIGITS = 18  # of a token id; Python refuses to read thousands
GRAMMARS = ("json_schema", "regex", "grammar")


class Grammar(NamedTuple):
    """What a text has to be: `kind` is one of GRAMMARS, `source` is text of that kind."""

    kind: str
    source: str


class Range(NamedTuple):
    """The numbers that a parameter may have."""

    kind: type[int] | type[float]
    words: str  # what stands in the sentence that refuses others
    low: float = -math.inf
    high: float = math.inf
    open: bool = False  # `low` itself is left out
    without: float | None = None  # a number in between that is left out

    def holds(self, value: object) -> bool:
        """Tell whether `value` is such a number; nan, infinity and beyond never are."""
        number = (int,) if self.kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, number):
            return False
        try:
            if self.kind is float and not math.isfinite(value):
                return False
        except OverflowError:  # an int of more than 308 digits
            return False
        inside = self.low < value <= self.high or (value == self.low and not self.open)
        return inside and value != self.without


_SHARE = Range(float, "0 to 1", 0, 1)
_WINDOW = Range(int, "-1 (the whole text), 0 (off) or more", -1)
RANGES: Mapping[str, Range] = MappingProxyType(
    {
        "temperature": Range(float, "0 or more", 0),
        "dynatemp_range": Range(float, "0 (off) or more", 0),
        "dynatemp_exponent": Range(float, "0 or more", 0),
        "top_k": Range(int, "0 (all tokens) or more", 0),
        "top_p": Range(float, "more than 0 and at most 1", 0, 1, open=True),
        "min_p": _SHARE,
        "typical_p": Range(float, "more than 0 and at most 1", 0, 1, open=True),
        "top_n_sigma": Range(float, "-1 (off), 0 (off) or more", -1),
        "xtc_probability": _SHARE,
        "xtc_threshold": _SHARE,
        "repeat_last_n": _WINDOW,
        "repeat_penalty": Range(float, "more than 0", 0, open=True),
        "presence_penalty": Range(float, "a number"),
        "frequency_penalty": Range(float, "a number"),
        "dry_multiplier": Range(float, "0 (off) or more", 0),
        "dry_base": Range(float, "1 or more", 1),
        "dry_allowed_length": Range(int, "1 or more", 1),
        "dry_penalty_last_n": _WINDOW,
        "mirostat": Range(int, "0 (off) or 2", 0, 2, without=1),
        "mirostat_tau": Range(float, "more than 0", 0, open=True),
        "mirostat_eta": Range(float, "more than 0 and at most 1", 0, 1, open=True),
        "seed": Range(int, "0 or more", 0),
        "logprobs": Range(int, "0 (only the token itself) or more", 0),
    }
)
OPTIONAL = frozenset({"seed", "logprobs"})  # None: not asked for


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to draw the tokens of one text, and where it ends.

    Names, defaults and meaning are llama.cpp's; docs/sampling.md explains each. The same seed and
    logits give the same tokens. Raises ConfigError for a value that a parameter cannot have.
    """

    temperature: float = 0.8  # 0 takes the likeliest token
    dynatemp_range: float = 0.0  # how far the temperature moves with the entropy, up and down
    dynatemp_exponent: float = 1.0
    top_k: int = 40  # 0 keeps all tokens
    top_p: float = 0.95  # 1 keeps all
    min_p: float = 0.05  # 0 keeps all
    typical_p: float = 1.0  # 1 keeps all
    top_n_sigma: float = -1.0  # 0 or less keeps all
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_last_n: int = 64  # tokens of prompt and text that the three penalties look at
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0  # bits of surprise in a token to aim at
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # by token; -inf rules it out
    seed: int | None = None  # None draws one
    stop: tuple[str, ...] = ()  # texts that end the answer and are cut off
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    json_schema: str | None = None  # what the text has to be; at most one of these three
    regex: str | None = None
    grammar: str | None = None  # Lark or GBNF
    logprobs: int | None = None  # so many likeliest tokens are reported beside each drawn one

    def __post_init__(self) -> None:
        """Check every value; lists become tuples, a schema becomes text."""
        if isinstance(self.json_schema, Mapping | bool):
            object.__setattr__(self, "json_schema", json.dumps(self.json_schema))
        _check_grammars({name: getattr(self, name) for name in GRAMMARS})
        for name in ("dry_sequence_breakers", "stop"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        object.__setattr__(self, "stop_token_ids", _tokens(self.stop_token_ids))
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        for entry in fields(self):
            value: Any = getattr(self, entry.name)
            allowed = RANGES.get(entry.name)
            if not allowed or (value is None and entry.name in OPTIONAL):
                continue
            if not allowed.holds(value):
                raise ConfigError(f"{entry.name}: expected {allowed.words}, found {_shown(value)}.")

    @property
    def constraint(self) -> Grammar | None:
        """What the text has to be, if anything."""
        given = ((name, getattr(self, name)) for name in GRAMMARS)
        return next((Grammar(name, text) for name, text in given if text is not None), None)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, and nothing drawn."""
        return self.temperature == 0 and (self.dynatemp_range == 0 or self.mirostat != 0)

    def seeded(self, index: int) -> SamplingParams:
        """Return the parameters of text number `index` of several: each has a seed of its own."""
        return self if self.seed is None else replace(self, seed=self.seed + index)


def token_id(text: str) -> int | None:
    """Return the token id that a text spells; None if it spells none, or more than any has."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None


def _check_grammars(given: Mapping[str, object]) -> None:
    texts = {name: text for name, text in given.items() if text is not None}
    if len(texts) > 1:
        raise ConfigError(
            f"{' and '.join(texts)}: expected one of them, found {len(texts)}. Choose one."
        )
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{name}: expected its text, found {_shown(text)}.")


def _texts(name: str, texts: object) -> tuple[str, ...]:
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) and t for t in texts):
        raise ConfigError(
            f"{name}: expected a list of texts that are not empty, found {_shown(texts)}."
        )
    return tuple(texts)


def _tokens(tokens: object) -> tuple[int, ...]:
    token = Range(int, "", 0)
    if not isinstance(tokens, list | tuple) or not all(map(token.holds, tokens)):
        raise ConfigError(f"stop_token_ids: expected a list of token ids, found {_shown(tokens)}.")
    return tuple(tokens)


def _biases(biases: object) -> dict[int, float]:
    token, number = Range(int, "", 0), Range(float, "")
    if not isinstance(biases, Mapping) or not all(
        token.holds(key) and (number.holds(value) or value == -math.inf)
        for key, value in biases.items()
    ):
        raise ConfigError(
            "logit_bias: expected numbers by token id (-inf rules a token out), "
            f"found {_shown(biases)}."
        )
    return {int(key): float(value) for key, value in biases.items()}


def _shown(value: object) -> str:
    return escaped(repr(value))
