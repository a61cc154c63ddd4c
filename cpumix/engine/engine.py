"""A model file ready to compute: weights, KV cache, scheduler and the thread that runs them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from cpumix.config import DynamicScaling
from cpumix.experts import Counters, ExpertPager, Trace
from cpumix.kernels.backend import Backend
from cpumix.kernels.compile import isa
from cpumix.kv import saved
from cpumix.kv.formats import count_blocks
from cpumix.kv.pool import BlockPool
from cpumix.machine import peak_rss_bytes
from cpumix.store.reader import ModelFile
from cpumix.transformer.forward import PREFILL_CHUNK, Transformer

from .job import Floats
from .loop import EngineLoop
from .pooling import Pooling
from .reading import Reading, unit_vector
from .scheduler import Scheduler
from .scoring import Scoring
from .sequence import OnEvent, Request, Text
from .session import Session
from .stats import Stats


class Engine:
    """Takes texts from any thread; owns the file, and closes it."""

    def __init__(
        self,
        file: ModelFile,
        pager: ExpertPager,
        backend: Backend,
        context: int,
        kv: str,
        parallel: int,
    ) -> None:
        self._file, self.pager, self.backend, self._context = file, pager, backend, context
        each = count_blocks(file.config, context, PREFILL_CHUNK)
        self.pool = BlockPool(file.config, parallel * each, kv)
        rows = min(PREFILL_CHUNK, context * parallel)
        self.transformer = Transformer(file, backend, self.pool, pager, context, rows)
        self.scheduler = Scheduler(file.config, self.pool, rows)
        self.loop = EngineLoop(self.transformer, self.scheduler, backend)
        self.session = Session(self.transformer, self.pool, each)
        stretched = isinstance(file.config.rope_scaling, DynamicScaling)
        self._origin = saved.Origin(
            file.fingerprint, kv, context if stretched else 0, pager.low_copies
        )

    def write(self, request: Request, on_event: OnEvent) -> Text:
        """Begin a text; `on_event` is called on the compute thread for all that comes of it."""
        text = Text(request, self._context, self._file.config.num_hidden_layers, on_event)
        self.loop.submit(text, self.session.close)
        return text

    def score(self, ids: Sequence[int]) -> Floats:
        """Return the logits (len(ids), vocab_size) of every position of a text."""
        found: queue.SimpleQueue[Floats | BaseException] = queue.SimpleQueue()
        job = Scoring(ids, self._file.config.vocab_size, found.put)
        self.loop.submit(job, self.session.close)
        try:
            result = found.get()
        except BaseException:
            self.loop.cancel(job)
            raise
        if isinstance(result, BaseException):
            raise result
        return result

    def read(
        self,
        ids: Sequence[int],
        pooling: Pooling,
        on_end: Callable[[Floats | BaseException], None],
        salt: bytes = b"",
    ) -> Reading:
        """Begin to read a text; `on_end` gets what comes of it on the compute thread.

        That is the logits (labels,) of a classifier, else a vector (hidden_size,) of length one.
        """
        finish = self.transformer.scores if pooling is Pooling.SCORE else unit_vector
        reading = Reading(ids, pooling, finish, on_end, salt)
        self.loop.submit(reading, self.session.close)
        return reading

    def restart(self) -> None:
        """Begin a sequence to `advance`."""
        self.loop.call(self.session.begin)

    def advance(self, ids: Sequence[int]) -> Floats:
        """Take in more tokens of that sequence; return the last one's logits (vocab_size,)."""
        logits: Floats = self.loop.call(lambda: self.session.advance(ids))[0]
        return logits

    @property
    def position(self) -> int:
        """The position of the next token to `advance`."""
        return self.session.position

    def save_prefix(self, path: Path, ids: list[int]) -> int:
        """Write the keys and values of a text that was computed; see `kv.saved.save`."""
        prefix = self.scheduler.prefix
        return self.loop.call(lambda: saved.save(path, self.pool, prefix, ids, self._origin))

    def load_prefix(self, path: Path) -> list[int]:
        """Let texts begin with what `save_prefix` wrote; return its tokens."""

        def load() -> list[int]:
            self.session.close()
            return saved.load(path, self.pool, self.scheduler.prefix, self._origin)

        return self.loop.call(load)

    def trace(self, stream: IO[str]) -> None:
        """Write a line to `stream` for each layer and pass from now on; see `experts.trace`."""
        self.pager.trace = Trace(stream)

    def measure(self, stats: Stats, before: Counters) -> None:
        """Fill in what does not depend on the tokens; `before` is what the pager had counted."""
        stats.experts = self.pager.counters.since(before)
        stats.peak_rss_bytes = peak_rss_bytes()
        stats.mapped_bytes = self._file.mapped_bytes
        stats.resident_bytes = self._file.resident_bytes()
        stats.threads, stats.isa = self.backend.threads, isa.active().name

    def close(self) -> None:
        """Cancel all texts, end all threads, and close the file; a second time does no harm."""
        self.loop.close()
        self.pager.close()
        self.transformer.close()
        self._file.close()
