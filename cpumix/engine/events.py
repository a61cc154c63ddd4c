"""What a sequence tells whoever asked for it."""

from __future__ import annotations

from typing import NamedTuple

from cpumix.sampling import LogProbability


class Token(NamedTuple):
    """One token that was drawn, and the text that is certain by now: often a word, or nothing."""

    id: int
    text: str
    log_probability: LogProbability | None = None


class Finish(NamedTuple):
    """The end of a text.

    Reasons: "eos" (the model, or a grammar, ended it), "stop" (a stop string came), "length"
    (max_tokens), "context" (no room left), "cancelled".
    """

    reason: str
    text: str
    """What was held back until now."""


class Failure(NamedTuple):
    """The text cannot go on."""

    error: BaseException


Event = Token | Finish | Failure
