"""Which of several texts begin at once, and which wait for a prompt that they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Followers:
    """Of texts with the same prompt the first computes it; the others follow when it has.

    Then the prompt is in the KV cache, and they compute its last token only.
    """

    def __init__(self, prompts: Iterable[Sequence[int]]) -> None:
        """Take the prompt of each text."""
        firsts: dict[tuple[int, ...], int] = {}
        self._followers: dict[int, list[int]] = {}  # of each first
        for index, prompt in enumerate(prompts):
            first = firsts.setdefault(tuple(prompt), index)
            followers = self._followers.setdefault(first, [])
            if first != index:
                followers.append(index)

    @property
    def firsts(self) -> list[int]:
        """The texts that begin at once, one of each prompt."""
        return [*self._followers]

    def release(self, index: int) -> list[int]:
        """Return the texts that begin now that text `index` has told of something."""
        return self._followers.pop(index, [])
