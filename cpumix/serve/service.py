"""A model in service: what all dialects share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from cpumix.engine.sequence import Request
from cpumix.errors import ConfigError
from cpumix.model import Model
from cpumix.sampling import Sampler, SamplingParams

from .admission import Admission
from .errors import ApiError
from .metrics import Metrics
from .writing import Writing

T = TypeVar("T")


def seeded(params: SamplingParams, index: int) -> SamplingParams:
    """Return the parameters of text number `index` of a request: each has a seed of its own."""
    return params if params.seed is None else replace(params, seed=params.seed + index)


class Service:
    """Makes engine requests of what dialects read, and begins their texts."""

    def __init__(
        self,
        model: Model,
        *,
        max_queue: int = 64,
        max_queue_tokens: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.model, self.chat_template = model, chat_template
        self.name, self.created = model.file.path.stem, int(time.time())
        tokens = 16 * model.context if max_queue_tokens is None else max_queue_tokens
        self.admission = Admission(model.parallel, max_queue, tokens)
        self.metrics = Metrics(model)
        self.defaults = model.sampling_defaults
        self._ends = frozenset({*model.config.eos_token_ids, *model.tokenizer.eos_ids})
        # One thread: templates, tokenizers and grammars come from files and bear no two at once.
        self._preparing = ThreadPoolExecutor(1, "cpumix prepare")

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be written."""
        return self.model.tokenizer.has_chat_template or self.chat_template is not None

    async def prepare(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function beside the event loop; what it finds wrong becomes an ApiError (400)."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._preparing, function, *arguments)
        except ConfigError as error:
            raise ApiError(400, str(error)) from error

    def request(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        max_tokens: int | None,
        *,
        salt: bytes = b"",
        continuing: bool = False,
        keep_stop: bool = False,
        param: str = "messages",
    ) -> Request:
        """Return a request of the engine; without `max_tokens` the text may fill the context.

        Raises ApiError (400) for what does not fit, ConfigError for what means nothing.
        """
        model = self.model
        room = model.context - len(ids)
        if room < 1:
            raise ApiError(
                400,
                f"This model's maximum context length is {model.context} tokens, and the prompt "
                f"has {len(ids)}. Shorten it.",
                code="context_length_exceeded",
                param=param,
            )
        if not ids:
            raise ApiError(400, "prompt: expected at least one token, found none.", param=param)
        tokens = room if max_tokens is None else min(max_tokens, room)
        size = model.config.vocab_size
        if highest := next((token for token in params.logit_bias if token >= size), None):
            raise ApiError(
                400,
                f"logit_bias: expected tokens below {size}, found {highest}.",
                param="logit_bias",
            )
        sampler = Sampler(
            params, ids, tokenizer=model.tokenizer, ends=self._ends, max_tokens=tokens
        )
        stream = model.tokenizer.stream(continuing=continuing)
        stop = self._ends | {*params.stop_token_ids}
        return Request(list(ids), tokens, sampler, stop, stream, salt=salt, keep_stop=keep_stop)

    def write(self, requests: Sequence[Request]) -> Writing:
        """Take places for texts; they begin when their events are asked for."""
        if not self.model.engine.loop.alive:
            raise ApiError(503, "The engine does not run any more.", code="unavailable")
        return Writing(self.model, self.admission, self.metrics, requests)

    def close(self) -> None:
        """End the thread that prepares requests."""
        self._preparing.shutdown(wait=False, cancel_futures=True)
