"""DRY: make a token unlikely that would go on with a repetition, the more the longer that is.

When the last n tokens stand somewhere before too, the logit of the token that followed there falls
by multiplier * base ** (n - allowed_length). A repetition does not reach across a sequence breaker,
and a token that is one by itself is never penalized.
Source: https://github.com/oobabooga/text-generation-webui/pull/5677, and llama.cpp's sampler "dry".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cpumix.tokenizer import Tokenizer

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState

Breakers = Mapping[int, set[tuple[int, ...]]]  # first token: what may follow to make up a breaker
MAX_BREAKER = 40  # characters of a breaker that count
MAX = float(np.finfo(np.float32).max)
MAX_LOG = math.log(MAX)


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off."""
    multiplier, base, allowed = params.dry_multiplier, params.dry_base, params.dry_allowed_length
    window = params.dry_penalty_last_n
    if multiplier == 0 or window == 0:
        return None
    breakers: Breakers = {}
    if state.tokenizer:
        breakers = find_breakers(params.dry_sequence_breakers, state.tokenizer)
    spared = {token for token, tails in breakers.items() if () in tails}
    most = int(MAX_LOG / math.log(base)) if base > 1 else 0  # exponent of a finite float32

    def penalize(candidates: Candidates) -> None:
        ids = state.history.last(window)
        repeats = repetitions(ids, allowed, unbroken(ids, breakers))
        logits = candidates.adjust()
        for token, length in repeats.items():
            if token not in spared:
                penalty = multiplier * base ** min(length - allowed, most)
                logits[token] -= min(penalty, MAX)

    return penalize


def repetitions(ids: NDArray[np.int64], shortest: int, longest: int) -> dict[int, int]:
    """Return the tokens that would go on with a repetition, and how long that is by now.

    ids (n,): the text. Lengths below `shortest` are left out, above `longest` cut.
    """
    found: dict[int, int] = {}
    n = len(ids)
    ends = np.arange(n - 1)  # where what ends the text may have ended before
    for length in range(1, min(longest, n - 1) + 1):
        ends = ends[ends >= length - 1]
        ends = ends[ids[ends - (length - 1)] == ids[n - length]]
        if not len(ends):
            break
        if length >= shortest:
            found |= dict.fromkeys(ids[ends + 1].tolist(), length)
    return found


def unbroken(ids: NDArray[np.int64], breakers: Breakers) -> int:
    """Return the number of tokens after the last sequence breaker."""
    text = ids.tolist()
    for start in reversed(range(len(text)) if breakers else ()):
        tails = breakers.get(text[start], ())
        behind = [len(t) for t in tails if tuple(text[start + 1 : start + 1 + len(t)]) == t]
        if behind:
            return len(text) - start - 1 - max(behind)
    return len(text)


def find_breakers(texts: tuple[str, ...], tokenizer: Tokenizer) -> Breakers:
    """Return the tokens that a breaker may begin with, and the tokens it then goes on with."""
    breakers: dict[int, set[tuple[int, ...]]] = {}
    for text in texts:
        sought = text[:MAX_BREAKER].encode()
        for token, printed in enumerate(tokenizer.token_bytes):
            if sought in printed:
                breakers.setdefault(token, set()).add(())
                continue
            for held in range(1, min(len(sought), len(printed) + 1)):
                if printed.endswith(sought[:held]):
                    rest = tokenizer.encode_inside(sought[held:])
                    breakers.setdefault(token, set()).add(tuple(rest))
    return breakers
