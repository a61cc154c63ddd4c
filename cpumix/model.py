"""A loaded model: what `cpumix.load` returns."""

from __future__ import annotations

import queue
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.engine.engine import Engine
from cpumix.engine.events import Event, Failure, Finish
from cpumix.engine.generation import Generation
from cpumix.engine.sequence import OnEvent, Request, Text
from cpumix.errors import ConfigError
from cpumix.experts import Budget, ExpertPager
from cpumix.kernels import backend
from cpumix.kernels.compile import jit
from cpumix.kv.formats import find_format
from cpumix.machine import machine_info
from cpumix.memory.limit import make_budget
from cpumix.memory.planner import default_context
from cpumix.sampling import Sampler, SamplingParams, model_defaults
from cpumix.store.reader import ModelFile
from cpumix.tokenizer import Tokenizer

DEMO_MODEL = Path(__file__).parent / "demo" / "seedling-int8.bin"


class Model:
    """A model file, mapped, with its tokenizer, and an engine that writes texts; a context manager.

    Texts may be asked for from any number of threads and asyncio tasks. As many as `parallel` are
    written at once, each as if it were alone; others wait for their turn.
    """

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
        pager = None
        try:
            self.config: ModelConfig = self.file.config
            self.tokenizer = Tokenizer.from_files(self.file.files)
            self.context = default_context(self.config) if context is None else context
            self.kv, machine = find_format(kv, self.file.formats), machine_info()
            budget, self._note = make_budget(
                self.config, self.file.formats, self.context, self.kv, ram, machine, parallel
            )
            pager = make_pager(self.file, budget)
            kernels = backend.create(jit.find_threads(threads, machine.physical_cores))
            self.parallel = parallel
            self._engine = Engine(self.file, pager, kernels, self.context, self.kv, parallel)
            self._ends = frozenset({*self.config.eos_token_ids, *self.tokenizer.eos_ids})
        except BaseException:
            if pager is not None:
                pager.close()
            self.file.close()
            raise
        self._finalizer = weakref.finalize(self, _dropped, self._engine, self.file.path)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the KV cache has in memory now."""
        return self._engine.pool.resident_bytes

    @property
    def threads(self) -> int:
        """Threads that the kernels run on."""
        return self._engine.backend.threads

    @property
    def paged(self) -> bool:
        """Whether experts come and go, as they do not all fit."""
        return self._engine.pager.bounded

    @property
    def prefill_chunk(self) -> int:
        """Tokens of a prompt that go through the model together, at most."""
        return self._engine.transformer.rows

    @property
    def notes(self) -> list[str]:
        """What the user should know about memory, a line each."""
        return [note for note in (self._note, self._engine.pager.region.note) if note]

    def trace(self, stream: IO[str]) -> None:
        """Write a line to `stream` for each layer and pass from now on; see `experts.trace`."""
        self._engine.trace(stream)

    def restart(self) -> None:
        """Begin a sequence to `advance`."""
        self._engine.restart()

    def advance(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Take in up to `prefill_chunk` more tokens; return the last one's logits (vocab_size,).

        For measurements: a text that is asked for meanwhile ends the sequence.
        """
        self._check_ids(ids)
        end = self._engine.position + len(ids)
        if end > self.context or len(ids) > self.prefill_chunk:
            raise ConfigError(
                f"context: expected at most {self.prefill_chunk} tokens at once and "
                f"{self.context} in all, found {len(ids)} at once and {end} in all. "
                "Load the model with a larger context."
            )
        return self._engine.advance(ids)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (len(ids), vocab_size) of a full causal pass over `ids`."""
        self._check_ids(ids)
        return self._engine.score(ids)

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
        draft: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **changes: Any,
    ) -> Generation:
        """Continue `prompt`, or answer it if the model has a chat template and `raw` is False.

        `changes` replace fields of `params`, or else of `sampling_defaults`. `draft` guesses tokens
        where the last ones have stood before, which changes the time only. `progress` gets how much
        of the prompt's work is done, and how much there is. Raises ConfigError for a prompt that is
        empty or leaves no room in the context, and for parameters that mean nothing.
        """
        params = replace(params or self.sampling_defaults, **changes)
        request = self._request(prompt, params, max_tokens, raw, draft)
        before = self._engine.pager.counters
        return Generation(
            lambda put: self._engine.write(replace(request, progress=progress), put),
            self._engine.loop.cancel,
            lambda stats: self._engine.measure(stats, before),
            request.sampler,
        )

    stream = generate
    """The same, under the name that reads well in `async for piece in model.stream(...)`."""

    def generate_many(
        self,
        prompts: Iterable[str],
        params: SamplingParams | None = None,
        *,
        max_tokens: int = 256,
        raw: bool = False,
        draft: bool = False,
        **changes: Any,
    ) -> Iterator[tuple[int, str]]:
        """Yield (index, piece) of several texts as they come; see `generate`.

        With a seed, text i has the seed + i. All are done when the iterator ends.
        """
        params = replace(params or self.sampling_defaults, **changes)
        requests = []
        for i, prompt in enumerate(prompts):
            own = params if params.seed is None else replace(params, seed=params.seed + i)
            requests.append(self._request(prompt, own, max_tokens, raw, draft))
        return self._write_all(requests)

    def _write_all(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()

        def tell(index: int) -> OnEvent:
            return lambda event: events.put((index, event))

        texts: dict[int, Text] = {}
        try:
            for i, request in enumerate(requests):
                texts[i] = self._engine.write(request, tell(i))
            while texts:
                index, event = events.get()
                if isinstance(event, Failure):
                    raise event.error
                if isinstance(event, Finish):
                    del texts[index]
                if event.text:
                    yield index, event.text
        finally:
            for text in texts.values():
                self._engine.loop.cancel(text)

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
        params = SamplingParams(temperature=temperature, top_k=0, top_p=1, min_p=0, seed=seed)
        request = Request(list(ids), max_tokens, Sampler(params), frozenset(stop))
        generation = Generation(
            lambda put: self._engine.write(request, put),
            self._engine.loop.cancel,
            lambda stats: None,
            request.sampler,
        )
        for _ in generation:
            pass
        return generation.token_ids

    def _request(
        self, prompt: str, params: SamplingParams, max_tokens: int, raw: bool, draft: bool
    ) -> Request:
        if not prompt.strip():
            raise ConfigError("prompt: expected some text, found none. Give it with -p.")
        chat, encode = self.tokenizer.has_chat_template and not raw, self.tokenizer.encode_chat
        ids = (
            encode([{"role": "user", "content": prompt}]) if chat else self.tokenizer.encode(prompt)
        )
        self._check_request(ids, max_tokens)
        room = min(max_tokens, self.context - len(ids) + 1)
        sampler = Sampler(params, ids, tokenizer=self.tokenizer, ends=self._ends, max_tokens=room)
        stream = self.tokenizer.stream(continuing=not chat)
        stop = self._ends | {*params.stop_token_ids}
        return Request(ids, max_tokens, sampler, stop, stream, draft)

    def _check_request(self, ids: Sequence[int], max_tokens: int) -> None:
        self._check_ids(ids)
        if max_tokens < 0:
            raise ConfigError(f"max_tokens: expected 0 or more, found {max_tokens}.")

    def _check_ids(self, ids: Sequence[int]) -> None:
        if not self._finalizer.alive:
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
        """End all texts and give the map back; closing twice does no harm."""
        if self._finalizer.detach():
            self._engine.close()

    def __enter__(self) -> Model:
        """Return the model."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the model."""
        self.close()


def _dropped(engine: Engine, path: Path) -> None:
    """Close the engine of a model that nobody has any more, and that nobody has closed."""
    warnings.warn(
        f'model "{path}": dropped without close(). Use `with cpumix.load(...)`, or close it.',
        ResourceWarning,
        stacklevel=2,
    )
    engine.close()


def load(
    path: str | Path | None = None,
    *,
    ram: str | int | None = None,
    threads: int | None = None,
    context: int | None = None,
    kv: str = "auto",
    parallel: int = 1,
) -> Model:
    """Open a model file; without a path, the demo model that comes with cpumix.

    `ram`: the memory that it may take, "16G" or bytes; 75 % of this machine's if not given.
    `threads`: physical cores if not given. `context`: tokens of prompt and answer together; 4096 or
    the model's maximum if not given. `kv`: how keys and values are kept, "f16", "int8"
    (half of that), "f32", or "auto": float32 for bfloat16 weights, else float16. `parallel`: texts
    that are written at once, each with a context of its own. Raises FormatError, ConfigError,
    BudgetError, UnsupportedCpu.
    """
    return Model(path, ram=ram, threads=threads, context=context, kv=kv, parallel=parallel)
