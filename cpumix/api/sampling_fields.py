"""The fields of OpenAI's requests that say how tokens are drawn, and ours beside them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec

from cpumix.sampling import SamplingParams
from cpumix.sampling.params import ALL, token_id

from .body import refuse
from .errors import ApiError

MAX_STOPS = 16  # OpenAI takes 4; each costs a search in every piece of text
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
BANNED = -100  # a bias that rules a token out, as OpenAI has it

SAME_NAMES = (  # as in SamplingParams
    "temperature top_p top_k min_p typical_p presence_penalty frequency_penalty repeat_penalty "
    "repeat_last_n ignore_eos regex grammar stop_token_ids"
).split()


class StreamOptions(msgspec.Struct):
    """What a stream has beside its text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """Fields that chats and completions have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    # Not OpenAI's, but llama.cpp's and vLLM's:
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    regex: str | None = None
    grammar: str | None = None
    # Of no consequence here:
    user: str | None = None
    metadata: Any = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def choices(self) -> int:
        """How many texts are asked for. Raises ApiError (400) for none, or too many."""
        count = 1 if self.n is None else self.n
        if not 1 <= count <= MAX_CHOICES:
            raise ApiError(400, f"n: expected 1 to {MAX_CHOICES}, found {count}.", param="n")
        return count

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of its tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_params(self, defaults: SamplingParams, **more: Any) -> SamplingParams:
        """Return the parameters; what is not given is the model's own default.

        Raises ApiError (400), and ConfigError for values that a parameter cannot have.
        """
        given = {name: getattr(self, name) for name in SAME_NAMES} | more
        given = {name: value for name, value in given.items() if value is not None}
        if self.repetition_penalty is not None:
            given |= {"repeat_penalty": self.repetition_penalty, "repeat_last_n": ALL}
        if given.get("top_k", 0) < 0:
            given["top_k"] = 0
        if self.seed is not None and self.seed != -1:  # -1 draws one, as with llama.cpp
            given["seed"] = self.seed
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOPS:
            raise ApiError(
                400, f"stop: expected at most {MAX_STOPS}, found {len(stops)}.", param="stop"
            )
        given["stop"] = [stop for stop in stops if stop]
        if self.logit_bias:
            given["logit_bias"] = _biases(self.logit_bias)
        return replace(defaults, **given)


def _biases(biases: dict[str, float]) -> dict[int, float]:
    found = {}
    for text, bias in biases.items():
        token = token_id(text)
        if token is None or not -100 <= bias <= 100:
            raise ApiError(
                400,
                "logit_bias: expected token ids with numbers from -100 to 100, found others.",
                param="logit_bias",
            )
        found[token] = -math.inf if bias == BANNED else bias
    return found


def check_max_tokens(name: str, count: int | None) -> None:
    """Raise ApiError (400) for a number of tokens that is none."""
    if count is not None and count < 1:
        raise ApiError(400, f"{name}: expected 1 or more, found {count}.", param=name)


def refuse_unsupported(fields: msgspec.Struct, *names: str) -> None:
    """Raise ApiError (400) for the first of some fields that is set."""
    refuse({name: getattr(fields, name) for name in names})
