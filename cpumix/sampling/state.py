"""What the filters of one sequence share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cpumix.tokenizer import Tokenizer

from .history import History


@dataclass
class SequenceState:
    """A sequence's tokens and random numbers, and the tokenizer that made them.

    `ends` are the tokens that end a text. Without a tokenizer, DRY knows no sequence breakers.
    """

    history: History
    random: np.random.Generator
    tokenizer: Tokenizer | None = None
    ends: frozenset[int] = field(default_factory=frozenset)
