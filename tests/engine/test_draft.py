"""Drafts by look-up: what they guess, how their length goes, and that they change no token."""

from __future__ import annotations

import numpy as np
import pytest
from naive import config

from cpumix.engine.draft import MATCHED, MOST, LookupDraft
from cpumix.engine.events import Finish, Token
from cpumix.engine.sequence import Request, Text
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.sampling import Sampler, SamplingParams

QUOTE = list(range(100, 140))


def test_what_followed_the_same_tokens_is_guessed():
    draft = LookupDraft()
    tokens = [*QUOTE, 1, 2, *QUOTE[:MATCHED]]
    assert draft.propose(tokens, 100) == QUOTE[MATCHED : MATCHED + 2]
    assert draft.propose([*tokens, 7], 100) == []
    assert LookupDraft().propose(tokens, 1) == QUOTE[MATCHED : MATCHED + 1]
    assert LookupDraft().propose(QUOTE[: MATCHED - 1], 100) == []
    assert LookupDraft().propose([*QUOTE, 1, *QUOTE[: MATCHED - 1]], 100) == []


def test_the_latest_place_counts():
    draft = LookupDraft()
    tokens = [*QUOTE[:MATCHED], 1, *QUOTE[:MATCHED], 2, 3, *QUOTE[:MATCHED]]
    assert draft.propose(tokens, 100) == [2, 3]


def test_length_grows_with_success_and_falls_to_nothing_on_a_miss():
    draft, tokens = LookupDraft(), [*QUOTE, *QUOTE[:MATCHED]]
    lengths = []
    for _ in range(4):
        proposed = draft.propose(tokens, 100)
        lengths.append(len(proposed))
        draft.settle(len(proposed), len(proposed))
        tokens = tokens[:-1] if len(tokens) > 60 else tokens
    assert lengths == [2, 4, 8, MOST]
    draft.settle(8, 0)
    assert draft.propose(tokens, 100) == []
    tokens = [*tokens, 999]
    assert draft.propose(tokens, 100) == []  # another place: from there on it tries again
    assert len(draft.propose([*tokens, *QUOTE[:MATCHED]], 100)) == 2


def write(prompt: list[int], answer: list[int], draft: bool, temperature: float) -> tuple:
    """Write a text with a model that likes the tokens of `answer`; return tokens and passes."""
    params = SamplingParams(temperature=temperature, seed=3, top_k=0, top_p=1, min_p=0)
    events: list = []
    request = Request(prompt, len(answer), Sampler(params), frozenset({0}), None, draft)
    text = Text(request, 1000, 1, events.append)
    text.table = BlockTable(BlockPool(config(head_dim=16), 16, "f16"), 16)
    passes = 0
    while not text.ended:
        step = text.step(text.pending())
        logits = np.zeros((step.num_logits, 200), np.float32)
        last = step.position + len(step.ids) - step.num_logits
        for row in logits:  # what comes next depends on the position only
            likely = answer[min(last + 1 - len(prompt), len(answer) - 1)]
            row[likely] = 10
            last += 1
        text.computed = min(text.computed + len(step.ids), len(text.tokens))
        text.take(logits)
        passes += 1
    text.finish("length")
    assert isinstance(events[-1], Finish)
    return [event.id for event in events if isinstance(event, Token)], passes, text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("end", [False, True])
def test_drafts_change_the_number_of_passes_only(temperature, end):
    answer = [*QUOTE[:25], 7, 8, *QUOTE[3:35], *([0] if end else []), *QUOTE]
    plain, passes, _ = write([*QUOTE, 5], answer, False, temperature)
    drafted, fewer, text = write([*QUOTE, 5], answer, True, temperature)
    assert drafted == plain
    assert fewer < passes
    assert text.stats.generated_tokens == len(plain)
    assert 0 < text.stats.accepted_tokens <= text.stats.drafted_tokens
    assert fewer + text.stats.accepted_tokens >= passes
    assert text.computed <= len(text.tokens)
