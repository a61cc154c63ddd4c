"""A model in service: what all dialects share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cpumix.api.errors import ApiError
from cpumix.api.served_model import ServedModel
from cpumix.engine.sequence import Request
from cpumix.errors import ConfigError
from cpumix.model import Model

from .admission import Admission
from .metrics import Metrics
from .writing import Writing

T = TypeVar("T")


class Service(ServedModel):
    """Makes engine requests of what dialects read, and begins their texts."""

    def __init__(
        self,
        model: Model,
        *,
        max_queue: int = 64,
        max_queue_tokens: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(model, chat_template=chat_template)
        self.created = int(time.time())
        tokens = 16 * model.context if max_queue_tokens is None else max_queue_tokens
        self.admission = Admission(model.parallel, max_queue, tokens)
        self.metrics = Metrics(model)
        # One thread: templates, tokenizers and grammars come from files and bear no two at once.
        self._preparing = ThreadPoolExecutor(1, "cpumix prepare")

    async def prepare(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function beside the event loop; what it finds wrong becomes an ApiError (400)."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._preparing, function, *arguments)
        except ConfigError as error:
            raise ApiError(400, error.message) from error

    def write(self, requests: Sequence[Request]) -> Writing:
        """Take places for texts; they begin when their events are asked for."""
        self.check_alive()
        return Writing(self.model, self.admission, self.metrics, requests)

    def check_alive(self) -> None:
        """Raise ApiError (503) if no text would ever be written or read."""
        if not self.model.engine.loop.alive:
            raise ApiError(503, "The engine does not run any more.", code="unavailable")

    def close(self) -> None:
        """End the thread that prepares requests."""
        self._preparing.shutdown(wait=False, cancel_futures=True)
