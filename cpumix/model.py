"""A loaded model, and the loop that makes it write: what `cpumix.load` returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.engine.generation import Generation
from cpumix.engine.progress import layers_done
from cpumix.engine.stats import Stats
from cpumix.errors import ConfigError
from cpumix.experts import Budget, Counters, ExpertPager, Trace
from cpumix.kernels import backend
from cpumix.kernels.compile import isa, jit
from cpumix.kv.formats import count_blocks, find_format
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.machine import machine_info, peak_rss_bytes
from cpumix.memory.limit import make_budget
from cpumix.memory.planner import default_context
from cpumix.sampling import Sampler, SamplingParams, model_defaults
from cpumix.store.reader import ModelFile
from cpumix.tokenizer import Tokenizer
from cpumix.transformer.batch import Batch, Step
from cpumix.transformer.forward import PREFILL_CHUNK, OnLayer, Transformer

DEMO_MODEL = Path(__file__).parent / "demo" / "seedling-int8.bin"


class Model:
    """A model file, mapped, with its tokenizer and room for one conversation; a context manager."""

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        ram: str | int | None = None,
        threads: int | None = None,
        context: int | None = None,
        kv: str = "auto",
        parallel: int = 1,
        make_pager: Callable[[ModelFile, Budget | None], ExpertPager] = ExpertPager,
    ) -> None:
        self.file = ModelFile(DEMO_MODEL if path is None else path)
        try:
            self.config: ModelConfig = self.file.config
            self.tokenizer = Tokenizer.from_files(self.file.files)
            context = default_context(self.config) if context is None else context
            self.kv = kv = find_format(kv, self.file.formats)
            budget, self._note = make_budget(
                self.config, self.file.formats, context, kv, ram, machine_info(), parallel
            )
            self._pager = make_pager(self.file, budget)
            self._backend = backend.create(jit.find_threads(threads, machine_info().physical_cores))
            blocks = parallel * count_blocks(self.config, context, PREFILL_CHUNK)
            self._pool, self.context = BlockPool(self.config, blocks, kv), context
            self._table = BlockTable(self._pool, blocks // parallel)
            rows = min(PREFILL_CHUNK, context * parallel)
            self._transformer = Transformer(
                self.file, self._backend, self._pool, self._pager, context, rows
            )
            self._position = 0  # of the next token
            self._sequence = 0  # counts the sequences
            self._closed = False
        except BaseException:
            if hasattr(self, "_pager"):
                self._pager.close()
            self.file.close()
            raise

    @property
    def cache_bytes(self) -> int:
        """Bytes that the KV cache has in memory now."""
        return self._pool.resident_bytes

    @property
    def threads(self) -> int:
        """Threads that the kernels run on."""
        return self._backend.threads

    @property
    def paged(self) -> bool:
        """Whether experts come and go, as they do not all fit."""
        return self._pager.bounded

    @property
    def prefill_chunk(self) -> int:
        """Tokens of a prompt that go through the model together, at most."""
        return self._transformer.rows

    @property
    def notes(self) -> list[str]:
        """What the user should know about memory, a line each."""
        return [note for note in (self._note, self._pager.region.note) if note]

    def trace(self, stream: IO[str]) -> None:
        """Write a line to `stream` for each layer and pass from now on; see `paging.trace`."""
        self._pager.trace = Trace(stream)

    def restart(self) -> None:
        """Forget the conversation."""
        self._begin()

    def advance(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Take in up to `prefill_chunk` more tokens; return the last one's logits (vocab_size,)."""
        self._check_ids(ids)
        if (end := self._position + len(ids)) > self.context or len(ids) > self.prefill_chunk:
            raise ConfigError(
                f"context: expected at most {self.prefill_chunk} tokens at once and "
                f"{self.context} in all, found {len(ids)} at once and {end} in all. "
                "Load the model with a larger context."
            )
        self._forward(ids)
        last: NDArray[np.float32] = self._transformer.logits()[0]
        return last

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (len(ids), vocab_size) of a full causal pass over `ids`."""
        self._check_ids(ids)
        out = np.empty((len(ids), self.config.vocab_size), np.float32)
        self._begin()
        for first, count in self._batches(len(ids)):
            self._forward(ids[first : first + count], count)
            out[first : first + count] = self._transformer.logits(count)
        return out

    @property
    def sampling_defaults(self) -> SamplingParams:
        """What `generate` does unless told: the model's own wishes, else llama.cpp's defaults."""
        return model_defaults(self.file.files)

    def generate(
        self,
        prompt: str,
        params: SamplingParams | None = None,
        *,
        max_tokens: int = 256,
        raw: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **changes: Any,
    ) -> Generation:
        """Continue `prompt`, or answer it if the model has a chat template and `raw` is False.

        `changes` replace fields of `params`, or else of `sampling_defaults`. `progress` gets how
        much of the prompt's work is done, and how much there is. Raises ConfigError for a prompt
        that is empty or leaves no room in the context, and for parameters that mean nothing.
        """
        if not prompt.strip():
            raise ConfigError("prompt: expected some text, found none. Give it with -p.")
        chat, encode = self.tokenizer.has_chat_template and not raw, self.tokenizer.encode_chat
        ids = (
            encode([{"role": "user", "content": prompt}]) if chat else self.tokenizer.encode(prompt)
        )
        stream = self.tokenizer.stream(continuing=not chat)
        params = replace(params or self.sampling_defaults, **changes)
        self._check_request(ids, max_tokens)
        ends = {*self.config.eos_token_ids, *self.tokenizer.eos_ids}
        room = min(max_tokens, self.context - len(ids) + 1)
        sampler = Sampler(params, ids, tokenizer=self.tokenizer, ends=ends, max_tokens=room)
        before, stop = self._pager.counters, ends | {*params.stop_token_ids}
        return Generation(
            lambda watched: self._run(ids, sampler, max_tokens, stop, watched, progress),
            stream,
            lambda stats: self._measure(stats, before),
            sampler,
        )

    def generate_ids(
        self,
        ids: Sequence[int],
        max_tokens: int,
        temperature: float = 0.0,
        *,
        seed: int | None = None,
        stop: Iterable[int] = (),
    ) -> list[int]:
        """Return up to `max_tokens` tokens after `ids`, those before the first one of `stop`."""
        self._check_request(ids, max_tokens)
        draw = SamplingParams(temperature=temperature, top_k=0, top_p=1, min_p=0, seed=seed)
        return list(self._run(ids, Sampler(draw), max_tokens, set(stop)))

    def _run(
        self,
        ids: Sequence[int],
        sampler: Sampler,
        most: int,
        stop: Collection[int],
        watched: Generation | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[int]:
        """Yield up to `most` tokens after `ids`, and keep the books of who watches."""
        stats = watched._stats if watched else Stats()
        began, sequence = time.perf_counter(), self._begin()
        stats.prompt_tokens, layers = len(ids), self.config.num_hidden_layers
        for first, count in self._batches(len(ids)):
            step = progress and layers_done(progress, first, count, len(ids), layers)
            self._forward(ids[first : first + count], on_layer=step)
        stats.prompt_seconds = time.perf_counter() - began
        tokens, reason = list[int](), "length"  # what the model has not taken in yet
        while stats.generated_tokens < most and not sampler.finished:
            began = time.perf_counter()  # again for each pass: its taker's time does not count
            if self._position + len(tokens) > self.context:
                reason = "context"
                break
            for first, count in self._batches(len(tokens)):
                self._forward(tokens[first : first + count])
            tokens = [sampler(self._transformer.logits()[0])]
            if tokens[0] in stop:
                reason = "eos"
                break
            tokens += sampler.forced()
            stats.generate_seconds += time.perf_counter() - began
            if not stats.generated_tokens:
                stats.time_to_first_token_seconds = stats.prompt_seconds + stats.generate_seconds
            for token in tokens:
                stats.generated_tokens += 1
                yield token
                if sequence != self._sequence:
                    raise ConfigError(
                        "generation: expected the model to itself, found it closed or asked "
                        "something else meanwhile. Take one text to its end, then the next."
                    )
        if watched:
            watched.stop_reason = "eos" if sampler.finished else reason

    def _forward(
        self, ids: Sequence[int], num_logits: int = 1, on_layer: OnLayer | None = None
    ) -> None:
        """Run the next tokens of the sequence."""
        step = Step(ids, self._position, self._table, num_logits)
        self._transformer.forward(Batch([step]), on_layer)
        self._position += len(ids)

    def _begin(self) -> int:
        """Begin a new sequence and return its number; iterators of earlier ones must stop."""
        self._position = 0
        self._table.close()
        self._table = BlockTable(self._pool, self._pool.available)
        self._sequence += 1
        return self._sequence

    def _measure(self, stats: Stats, before: Counters) -> None:
        """Fill in what does not depend on the tokens; `before` is what the pager had counted."""
        stats.experts = self._pager.counters.since(before)
        stats.peak_rss_bytes = peak_rss_bytes()
        stats.mapped_bytes = self.file.mapped_bytes
        stats.resident_bytes = self.file.resident_bytes()
        stats.threads, stats.isa = self._backend.threads, isa.active().name

    def _batches(self, n: int) -> Iterator[tuple[int, int]]:
        for first in range(0, n, self._transformer.rows):
            yield first, min(self._transformer.rows, n - first)

    def _check_request(self, ids: Sequence[int], max_tokens: int) -> None:
        self._check_ids(ids)
        if max_tokens < 0:
            raise ConfigError(f"max_tokens: expected 0 or more, found {max_tokens}.")

    def _check_ids(self, ids: Sequence[int]) -> None:
        if self._closed:
            raise ConfigError("model: expected an open one, found it closed. Load it again.")
        if not len(ids):  # an array has no truth value
            raise ConfigError("prompt: expected at least one token, found none.")
        if len(ids) > self.context:
            most = self.config.context_limit
            todo = f"Use --context {len(ids)} or more."
            if len(ids) > most:
                todo = f"Shorten it to {most} tokens."
            raise ConfigError(
                f"prompt: {len(ids)} tokens do not fit into a context of {self.context}. {todo}"
            )
        if not 0 <= min(ids) <= max(ids) < self.config.vocab_size:
            raise ConfigError(
                f"prompt: expected token ids from 0 to {self.config.vocab_size - 1}, found "
                f"{min(ids)} to {max(ids)}. The tokenizer is another model's: convert again."
            )

    def close(self) -> None:
        """Give the map back; closing twice does no harm."""
        if not self._closed:
            self._closed = True
            self._sequence += 1
            self._pager.close()
            del self._transformer
            self.file.close()

    def __enter__(self) -> Model:
        """Return the model."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the model."""
        self.close()


def load(
    path: str | Path | None = None,
    *,
    ram: str | int | None = None,
    threads: int | None = None,
    context: int | None = None,
    kv: str = "auto",
) -> Model:
    """Open a model file; without a path, the demo model that comes with cpumix.

    `ram`: the memory that it may take, "16G" or bytes; 75 % of this machine's if not given.
    `threads`: physical cores if not given. `context`: tokens of prompt and answer together; 4096 or
    the model's maximum if not given. `kv`: how keys and values are kept, "f16", "int8"
    (half of that), "f32", or "auto": float32 for bfloat16 weights, else float16. Raises
    FormatError, ConfigError, BudgetError, UnsupportedCpu.
    """
    return Model(path, ram=ram, threads=threads, context=context, kv=kv)
