"""Drafting by look-up: guess the next tokens where the last ones have stood before.

Texts that quote, edit or fill in forms repeat what stands in their prompt. A draft is verified in
one pass, together with the token before it, and every token of the answer is drawn from the model's
own logits: drafts change time, never text.
"""

from __future__ import annotations

from collections.abc import Sequence

MATCHED = 8  # tokens that must have stood before, side by side
MOST = 15  # tokens of a draft: with the one before it a pass of 16 rows


class LookupDraft:
    """Finds drafts for one text; their length doubles with success and is 0 after a miss."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}  # where such tokens last ended
        self._seen = 0
        self._length = 2

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return up to `most` tokens that may follow `tokens`."""
        n = len(tokens)
        for end in range(max(self._seen, MATCHED), n):
            self._ends[tuple(tokens[end - MATCHED : end])] = end
        self._seen = n
        if n < MATCHED:
            return []
        found = self._ends.get(tuple(tokens[n - MATCHED :]))
        if found is None:
            self._length = max(self._length, 2)
            return []
        return list(tokens[found : found + min(self._length, MOST, most)])

    def settle(self, proposed: int, accepted: int) -> None:
        """Learn how many of the proposed tokens were right."""
        if proposed:
            self._length = min(2 * proposed, MOST) if accepted == proposed else accepted
