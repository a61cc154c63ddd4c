"""Ends a text at a stop string, wherever its tokens end."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Looks for stop strings in pieces of text, and holds back what may become one.

    Of several the one that is complete first ends the text, of those the longest. How the text is
    cut into pieces makes no difference.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """Look for `stops`, none of them empty; `include` leaves the one found in the text."""
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.found: str | None = None

    def put(self, piece: str) -> str:
        """Add a piece; return the text that is certain by now. After a stop there is none."""
        if self.found is not None:
            return ""
        text = self._held + piece
        places = [(at + len(s), at, s) for s in self._stops if (at := text.find(s)) >= 0]
        if places:
            end, start, self.found = min(places)
            self._held = ""
            return text[: end if self._include else start]
        held = max(map(self._beginning, [text] * len(self._stops), self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return what was held back when no more text comes."""
        rest, self._held = self._held, ""
        return rest

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        """Return how many characters at the end of `text` are the beginning of `stop`."""
        lengths = range(min(len(text), len(stop) - 1), 0, -1)
        return next((n for n in lengths if text.endswith(stop[:n])), 0)
