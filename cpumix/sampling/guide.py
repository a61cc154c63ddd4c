"""Keeps the tokens of one text to its grammar, and to an end before they run out."""

from __future__ import annotations

from collections.abc import Collection

from .candidates import Candidates
from .closing import closes, find_closing
from .grammar import Matcher

# Tokens that a single one may add to what is needed to complete a text: the keys of an object, say.
MARGIN = 64


class Guide:
    """Lets a sampler choose only what its grammar allows.

    `room` is the number of tokens that may still come. When few are left, a token is taken only if
    the text can be completed after it with the rest; if not, the text is led to its end instead.
    """

    def __init__(self, matcher: Matcher, room: int | None, ends: Collection[int] = ()) -> None:
        """Begin a text of at most `room` tokens, any number if None."""
        self._matcher, self._room = matcher, room
        self._end = min(ends, default=None)
        # Tokens that complete the text from where it stands, or stood when last looked at.
        self._closing = None if room is None else find_closing(matcher, room)
        self._fresh = True

    @property
    def complete(self) -> bool:
        """Whether the text is what the grammar asks for, and may end here."""
        return self._matcher.complete

    @property
    def finished(self) -> bool:
        """Whether the text has to end here."""
        return self._matcher.finished

    def narrow(self, candidates: Candidates) -> None:
        """Rule out what the grammar does not allow."""
        self._matcher.mask(candidates.adjust())

    def settle(self, token: int) -> int:
        """Go on by `token`, or by the first that completes the text where there is no room else.

        Returns the token that it went on by.
        """
        if self._near():
            after = self._matcher.copy()
            closing = self._find(after, 1) if after.accept(token) else None
            if closing is None and self._closing is not None:
                instead = [*self._closing, self._end][0]
                if instead is not None:
                    token, closing = instead, self._closing[1:]
            self._closing = closing
        else:
            self._fresh = False
        self._accept([token])
        return token

    def forced(self) -> list[int]:
        """Go on by the tokens that must come next, and return them; mostly there are none."""
        if self.finished:
            return []
        tokens = self._matcher.forced()[: self._room]
        if self._near() and self._closing is not None and len(self._closing) == self._room:
            tokens = self._closing
        self._fresh = self._fresh and not tokens
        self._accept(tokens)
        return tokens

    def _near(self) -> bool:
        """Tell whether the end has to be minded; then make sure that `_closing` is up to date."""
        if self._room is None or self._closing is None:
            return False
        if self._room > 2 * len(self._closing) + MARGIN:
            return False
        if not self._fresh:
            self._closing, self._fresh = self._find(self._matcher, 0), True
        return self._closing is not None

    def _find(self, matcher: Matcher, taken: int) -> list[int] | None:
        """Return what completes the text at `matcher`, where `taken` more tokens are gone."""
        assert self._closing is not None
        assert self._room is not None
        for start in range(len(self._closing) + 1):  # mostly what is known still does
            rest = self._closing[start:]
            if len(rest) <= self._room - taken and closes(matcher, rest):
                return rest
        return find_closing(matcher, self._room - taken)

    def _accept(self, tokens: list[int]) -> None:
        for token in tokens:
            self._matcher.accept(token)
        self._matcher.check()
        if self._room is not None:
            self._room -= len(tokens)
