"""How many may wait, and when it is worth coming back."""

from __future__ import annotations

import math
import time

from cpumix.api.errors import ApiError

SMOOTHING = 0.2  # how much the last value counts


class MovingAverage:
    """An exponential moving average, which begins as the first value."""

    value: float | None = None

    def learn(self, value: float) -> None:
        """Take in the next value."""
        before = value if self.value is None else self.value
        self.value = before + SMOOTHING * (value - before)


class Admission:
    """Counts texts and prompt tokens that wait; lives on the thread of the event loop.

    What is full is answered with 429 and the seconds after which a place should be free: as many
    texts as are too many have to end first, and texts end at the pace that was seen so far.
    """

    def __init__(self, parallel: int, max_queue: int, max_queue_tokens: int) -> None:
        self._parallel, self.most = parallel, parallel + max_queue
        self._most_tokens = max_queue_tokens
        self.texts = 0
        """Begun and not ended, waiting ones included."""
        self.prompt_tokens = 0
        """Of texts that have not written anything yet."""
        self._text_seconds = MovingAverage()
        # Of prompts, as far as they were computed; apart, so that a long one counts for more.
        self._read_tokens, self._read_seconds = MovingAverage(), MovingAverage()

    def check(self, texts: int, tokens: int) -> None:
        """Raise ApiError (429) if so many more do not fit; where nothing waits, anything fits."""
        over = self.texts + texts - self.most
        if over > 0 and self.texts:
            each = 1.0 if self._text_seconds.value is None else self._text_seconds.value
            state = f"{self.texts} texts are being written or wait"
            raise self._refusal(state, over * each / self._parallel)
        over = self.prompt_tokens + tokens - self._most_tokens
        if over > 0 and self.prompt_tokens:
            each = (self._read_seconds.value or 1.0) / (self._read_tokens.value or tokens)
            raise self._refusal(f"{self.prompt_tokens} tokens of prompts wait", over * each)

    def enter(self, tokens: int) -> Ticket:
        """Count a text that begins."""
        return Ticket(self, tokens)

    @staticmethod
    def _refusal(state: str, seconds: float) -> ApiError:
        after = max(math.ceil(seconds), 1)
        return ApiError(
            429,
            f"The server is busy: {state}. Come back in {after} s.",
            code="overloaded",
            headers={"retry-after": str(after)},
        )

    def learn(self, seconds: float) -> None:
        """Take in how long a text took."""
        self._text_seconds.learn(seconds)

    def learn_prompt(self, computed: int, seconds: float) -> None:
        """Take in how long a prompt took, and how many of its tokens were computed."""
        self._read_tokens.learn(computed)
        self._read_seconds.learn(seconds)


class Ticket:
    """The place of one text."""

    def __init__(self, admission: Admission, tokens: int) -> None:
        self._admission, self._tokens = admission, tokens
        self._began: float | None = None
        self._open = True
        admission.texts += 1
        admission.prompt_tokens += tokens

    def begin(self, prompt_seconds: float, cached: int) -> None:
        """Note that the first token has come, after a prompt with `cached` tokens at hand."""
        if self._began is None:
            self._began = time.monotonic() - prompt_seconds
            self._admission.prompt_tokens -= self._tokens
            self._admission.learn_prompt(self._tokens - cached, prompt_seconds)

    def leave(self) -> None:
        """Give the place back; a second time does no harm."""
        if not self._open:
            return
        self._open = False
        self._admission.texts -= 1
        if self._began is None:
            self._admission.prompt_tokens -= self._tokens
        else:
            self._admission.learn(time.monotonic() - self._began)
