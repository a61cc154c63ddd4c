"""A loaded model, and the loop that makes it write: what `cpumix.load` returns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import BudgetError, ConfigError
from .experts import ExpertPager
from .kernels import engine, isa, jit
from .kv_cache import KVCache
from .machine import machine_info, peak_rss_bytes
from .model import BATCH, Transformer
from .plan import CEILING, make_plan
from .sampler import Sampler
from .store.reader import ModelFile
from .tokenizer import TextStream, Tokenizer
from .units import format_size, parse_size

DEMO_MODEL = Path(__file__).parent / "demo" / "seedling-int8.bin"
DEFAULT_CONTEXT = 4096


@dataclass
class Stats:
    """What a generation took; times in seconds, sizes in bytes."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    generate_seconds: float = 0.0
    time_to_first_token_seconds: float = 0.0
    peak_rss_bytes: int = 0
    mapped_bytes: int = 0
    resident_bytes: int | None = None
    threads: int = 0
    isa: str = ""

    def to_dict(self) -> dict[str, int | float | str | None]:
        """Return the fields by name, as `--stats-json` writes them."""
        return asdict(self)

    def summary(self) -> str:
        """Return the lines that `--stats` prints."""

        def rate(tokens: int, seconds: float) -> str:
            return f"{tokens} tokens in {seconds:.2f} s" + (
                f", {tokens / seconds:.1f} tok/s" if seconds else ""
            )

        resident = "unknown" if self.resident_bytes is None else format_size(self.resident_bytes)
        return "\n".join(
            (
                f"prompt      {rate(self.prompt_tokens, self.prompt_seconds)}",
                f"generation  {rate(self.generated_tokens, self.generate_seconds)}",
                f"first token after {self.time_to_first_token_seconds:.2f} s",
                f"memory      {format_size(self.peak_rss_bytes)} at most; of the file's "
                f"{format_size(self.mapped_bytes)} are {resident} resident",
                f"processor   {self.threads} threads, {self.isa}",
            )
        )


class Generation:
    """Text as it comes: iterate over it once. `stats` and `stop_reason` are complete at the end."""

    def __init__(
        self, model: Model, ids: Sequence[int], sampler: Sampler, most: int, stream: TextStream
    ) -> None:
        self.stats, self.stop_reason = Stats(), ""
        self._model, self._stream = model, stream
        self._tokens = model._run(ids, sampler, most, model.tokenizer.eos_ids, self)

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text; each is whole characters."""
        try:
            for token in self._tokens:
                if piece := self._stream.put(token):
                    yield piece
            if piece := self._stream.finish():
                yield piece
        finally:
            self._model._finish(self.stats)


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
    ) -> None:
        self.file = ModelFile(DEMO_MODEL if path is None else path)
        try:
            self.config: ModelConfig = self.file.config
            self.tokenizer = Tokenizer.from_files(self.file.files)
            context = (
                min(DEFAULT_CONTEXT, self.config.max_position_embeddings)
                if context is None
                else context
            )
            # bfloat16 weights are for those who want exact numbers: then the cache is exact too.
            kv = kv if kv != "auto" else "f32" if self.file.precision == "bf16" else "f16"
            self._check_budget(ram, context, kv)
            self._pager = ExpertPager(self.file)
            self._engine = engine.create(_thread_count(threads))
            self._cache = KVCache(self.config, context, BATCH, kv)
            self._transformer = Transformer(self.file, self._engine, self._cache, self._pager)
        except BaseException:
            self.file.close()
            raise

    def _check_budget(self, ram: str | int | None, context: int, kv: str) -> None:
        ceiling = int(CEILING * machine_info().limit_bytes) if ram is None else parse_size(str(ram))
        plan = make_plan(self.config, self.file.precision, context, ceiling, kv)
        if plan.minimum_bytes > ceiling:
            raise BudgetError(
                f"memory: a budget of {format_size(ceiling)} is below the {format_size(plan.minimum_bytes)} that this "
                f"model needs at {plan.precision} with a context of {context}. Use a larger --ram, or lower --context."
            )

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._cache.context

    @property
    def threads(self) -> int:
        """Threads that the kernels run on."""
        return self._engine.threads

    @property
    def batch(self) -> int:
        """Tokens of a prompt that go through the model together, at most."""
        return self._transformer.batch

    def restart(self) -> None:
        """Forget the conversation."""
        self._cache.clear()

    def advance(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Take in up to `batch` more tokens; return the logits (vocab_size,) of what follows them."""
        self._check_ids(ids)
        self._transformer.forward(ids)
        return self._transformer.logits(len(ids) - 1, 1)[0]

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (len(ids), vocab_size) of a full causal pass over `ids`."""
        self._check_ids(ids)
        out = np.empty((len(ids), self.config.vocab_size), np.float32)
        self._cache.clear()
        for first, count in self._batches(len(ids)):
            self._transformer.forward(ids[first : first + count])
            out[first : first + count] = self._transformer.logits(0, count)
        return out

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        raw: bool = False,
    ) -> Generation:
        """Continue `prompt`, or answer it if the model has a chat template and `raw` is False.

        Raises ConfigError for an empty prompt, or one that leaves no room in the context.
        """
        if not prompt.strip():
            raise ConfigError("prompt: expected some text, found none. Give it with -p.")
        chat = self.tokenizer.has_chat_template and not raw
        if chat:
            ids = self.tokenizer.encode_chat([{"role": "user", "content": prompt}])
        else:
            ids = self.tokenizer.encode(prompt)
        self._check_ids(ids)
        sampler = Sampler(temperature, top_k, top_p, seed)
        return Generation(
            self, ids, sampler, max_tokens, self.tokenizer.stream(continuing=not chat)
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
        """Return the tokens that follow `ids`, up to `max_tokens` or one of `stop`, which is left out."""
        self._check_ids(ids)
        sampler = Sampler(temperature, 0, 1.0, seed)
        return list(self._run(ids, sampler, max_tokens, tuple(stop), None))

    def _run(
        self,
        ids: Sequence[int],
        sampler: Sampler,
        most: int,
        stop: Sequence[int],
        watched: Generation | None,
    ) -> Iterator[int]:
        """Yield up to `most` tokens after `ids`, keeping the books of the generation that watches."""
        stats = watched.stats if watched else Stats()
        began = time.perf_counter()
        stats.prompt_tokens = len(ids)
        self._cache.clear()
        for first, count in self._batches(len(ids)):
            self._transformer.forward(ids[first : first + count])
        reason = "length"
        row = count - 1
        stats.prompt_seconds = time.perf_counter() - began
        while stats.generated_tokens < most:
            token = sampler(self._transformer.logits(row, 1)[0])
            if token in stop:
                reason = "eos"
                break
            stats.generated_tokens += 1
            if stats.generated_tokens == 1:
                stats.time_to_first_token_seconds = time.perf_counter() - began
            stats.generate_seconds = time.perf_counter() - began - stats.prompt_seconds
            yield token
            if self._cache.position == self.context:
                reason = "context"
                break
            if stats.generated_tokens < most:
                self._transformer.forward([token])
                row = 0
        if watched:
            watched.stop_reason = reason

    def _finish(self, stats: Stats) -> None:
        stats.peak_rss_bytes = peak_rss_bytes()
        stats.mapped_bytes, stats.resident_bytes = (
            self.file.mapped_bytes,
            self.file.resident_bytes(),
        )
        stats.threads, stats.isa = self._engine.threads, isa.active().name

    def _batches(self, n: int) -> Iterator[tuple[int, int]]:
        for first in range(0, n, self._transformer.batch):
            yield first, min(self._transformer.batch, n - first)

    def _check_ids(self, ids: Sequence[int]) -> None:
        if not ids:
            raise ConfigError("prompt: expected at least one token, found none.")
        if len(ids) > self.context:
            most = self.config.max_position_embeddings
            todo = (
                f"Use --context {len(ids)} or more"
                if len(ids) <= most
                else f"Shorten it to {most} tokens"
            )
            raise ConfigError(
                f"prompt: {len(ids)} tokens do not fit into a context of {self.context}. {todo}."
            )
        if not 0 <= min(ids) <= max(ids) < self.config.vocab_size:
            raise ConfigError(
                f"prompt: expected token ids from 0 to {self.config.vocab_size - 1}, found {min(ids)} to {max(ids)}. "
                "The tokenizer belongs to another model: convert the checkpoint again."
            )

    def close(self) -> None:
        """Give the map back."""
        self._pager.close()
        del self._transformer
        self.file.close()

    def __enter__(self) -> Model:
        """Return the model."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    `ram`: what the model may plan with, "16G" or bytes; this machine's memory if not given. `threads`: physical cores if
    not given. `context`: tokens of prompt and answer together; 4096 or the model's maximum if not given. `kv`: "f16",
    "f32", or "auto": float32 for bfloat16 weights, else float16.
    Raises FormatError, ConfigError, BudgetError, UnsupportedCpu.
    """
    return Model(path, ram=ram, threads=threads, context=context, kv=kv)


def first_run_note() -> str | None:
    """Return what to tell a user whose first run has to compile the kernels, or None if it has been done."""
    if not jit.is_cold():
        return None
    return "compiling the kernels for this processor: once, up to 40 s"


def _thread_count(asked: int | None) -> int:
    most = jit.most_threads()
    if asked is None:
        return min(machine_info().physical_cores, most)
    if not 1 <= asked <= most:
        raise ConfigError(
            f"threads: expected 1 to {most}, the processors of this machine, found {asked}."
        )
    return asked
