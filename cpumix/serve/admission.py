"""How many may wait, and when it is worth coming back."""

from __future__ import annotations

import math
import time

from cpumix.api.errors import ApiError

SMOOTHING = 0.2  # how much the last text counts in the usual time of one


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
        self._seconds_each = 1.0  # that a text takes
        self._tokens_per_second = 0.0  # of prompts

    def check(self, texts: int, tokens: int) -> None:
        """Raise ApiError (429) if so many more do not fit; where nothing waits, anything fits."""
        over = self.texts + texts - self.most
        if over > 0 and self.texts:
            seconds = over * self._seconds_each / self._parallel
            raise self._refusal(f"{self.texts} texts are being written or wait", seconds)
        over = self.prompt_tokens + tokens - self._most_tokens
        if over > 0 and self.prompt_tokens:
            rate = self._tokens_per_second or tokens
            raise self._refusal(f"{self.prompt_tokens} tokens of prompts wait", over / rate)

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
        self._seconds_each += SMOOTHING * (seconds - self._seconds_each)

    def learn_prompt(self, tokens: int, seconds: float) -> None:
        """Take in how long a prompt took."""
        rate = tokens / max(seconds, 1e-6)
        self._tokens_per_second += SMOOTHING * (rate - self._tokens_per_second)


class Ticket:
    """The place of one text."""

    def __init__(self, admission: Admission, tokens: int) -> None:
        self._admission, self._tokens = admission, tokens
        self._began: float | None = None
        self._open = True
        admission.texts += 1
        admission.prompt_tokens += tokens

    def begin(self, prompt_seconds: float) -> None:
        """Note that the first token has come."""
        if self._began is None:
            self._began = time.monotonic() - prompt_seconds
            self._admission.prompt_tokens -= self._tokens
            self._admission.learn_prompt(self._tokens, prompt_seconds)

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
