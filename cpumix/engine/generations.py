"""Several texts in the making: what `Model.generate_many` returns."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence

from .events import Event
from .followers import Followers
from .generation import Generation
from .sequence import OnEvent


class Generations:
    """Iterate once, over (index, piece) of several texts as they come; `texts` are these.

    Texts with the same prompt compute it once, see `Followers`. All are done when the iterator
    ends.
    """

    def __init__(self, texts: Sequence[Generation]) -> None:
        self.texts = list(texts)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield (index, piece); each piece is whole characters."""
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()

        def tell(index: int) -> OnEvent:
            return lambda event: events.put((index, event))

        followers = Followers(text.request.ids for text in self.texts)
        try:
            for index in followers.firsts:
                self.texts[index].begin(tell(index))
            while not all(text.stop_reason for text in self.texts):
                index, event = events.get()
                piece = self.texts[index].take(event)
                for other in followers.release(index):
                    self.texts[other].begin(tell(other))
                if piece:
                    yield index, piece
        finally:
            for text in self.texts:
                text.leave()
