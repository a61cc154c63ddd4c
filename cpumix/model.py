"""A loaded model: what `cpumix.load` returns."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cpumix.arguments import check_load
from cpumix.config import ModelConfig
from cpumix.engine.engine import Engine
from cpumix.engine.first_run import compile_apart
from cpumix.engine.generation import Generation
from cpumix.engine.generations import Generations
from cpumix.engine.reader import Reader
from cpumix.engine.requests import Requests
from cpumix.errors import ConfigError
from cpumix.experts import ExpertPager, find_low_copies
from cpumix.kernels import create_backend
from cpumix.kernels.compile import jit
from cpumix.kv.formats import find_format
from cpumix.machine import machine_info
from cpumix.memory.limit import make_budget, read_within_budget
from cpumix.memory.planner import default_context
from cpumix.sampling import SamplingParams, model_defaults
from cpumix.store.reader import ModelFile
from cpumix.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any]]
DEMO_MODEL = Path(__file__).parent / "demo" / "seedling-int8.bin"


class Model(Reader):
    """A model file, mapped, with its tokenizer, and an engine for texts; a context manager.

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
        low_copy: str = "auto",
        make_pager: Callable[..., ExpertPager] = ExpertPager,
    ) -> None:
        check_load(path, threads=threads, context=context, parallel=parallel)
        self.file = ModelFile(DEMO_MODEL if path is None else path)
        pager = None
        try:
            self.config: ModelConfig = self.file.config
            self.context = default_context(self.config) if context is None else context
            self.kv, machine = find_format(kv, self.file.formats), machine_info()
            formats = find_low_copies(self.file, low_copy)
            needs = self.config, formats, self.context, self.kv, ram, machine, parallel
            self.tokenizer, (budget, self._note, room) = read_within_budget(
                Tokenizer.from_files, self.file.files, self.config, partial(make_budget, *needs)
            )
            compile_apart(room, formats, self.kv)
            pager = make_pager(self.file, budget, low_copies=formats.low is not None)
            kernels = create_backend(jit.find_threads(threads, machine.physical_cores))
            self._engine = Engine(self.file, pager, kernels, self.context, self.kv, parallel)
            self.parallel, self.engine = parallel, self._engine  # servers ask the engine itself
            self._requests = Requests(self.tokenizer, self.config, self.context)
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
        max_tokens: int | None = 256,
        raw: bool = False,
        special: bool = False,
        draft: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **changes: Any,
    ) -> Generation:
        """Continue `prompt`, or answer it if the model has a chat template and `raw` is False.

        With `special`, the prompt is taken as it is too, but control tokens in it are tokens.
        `changes` replace fields of `params`, or else of `sampling_defaults`. `max_tokens` None is
        all that the context has room for. `draft` guesses tokens where the last ones have stood
        before, which changes the time only. `progress` gets how many tokens of the prompt are done,
        and how many there are. Raises ConfigError for a prompt that is empty or leaves no room in
        the context, and for parameters that mean nothing.
        """
        params = self._params(params, changes)
        request = self._requests.of_prompt(prompt, raw, params, max_tokens, draft, special)
        return Generation(self._engine, replace(request, progress=progress))

    stream = generate
    """The same, under the name that reads well in `async for piece in model.stream(...)`."""

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        max_tokens: int | None = None,
        draft: bool = False,
        progress: Callable[[int, int], None] | None = None,
        template: Mapping[str, Any] | None = None,
        tools: Messages = (),
        tool_choice: str | Mapping[str, Any] = "auto",
        **changes: Any,
    ) -> Generation:
        """Write the next message of a conversation, {"role": ..., "content": ...} each.

        `tools` may be called: see `Generation.tool_calls`. `tool_choice` "required", or a tool's
        name, makes the answer a call. `template` are more arguments of `Tokenizer.encode_chat`; for
        the others see `generate`. What earlier turns left in the KV cache is not computed again.
        Raises ConfigError for a model without a chat template, and for messages it does not take.
        """
        params = self._params(params, changes)
        request = self._requests.of_chat(
            messages, template or {}, params, max_tokens, draft, tools, tool_choice
        )
        return Generation(self._engine, replace(request, progress=progress))

    def generate_many(
        self,
        prompts: Iterable[str],
        params: SamplingParams | None = None,
        *,
        max_tokens: int | None = 256,
        raw: bool = False,
        draft: bool = False,
        **changes: Any,
    ) -> Generations:
        """Write several texts; yields (index, piece) as they come; see `generate`.

        With a seed, text i has the seed + i. Several texts of one prompt share it in the KV cache:
        `generate_many([prompt] * 3)` gives three answers.
        """
        params, ask = self._params(params, changes), self._requests.of_prompt
        texts = [
            ask(prompt, raw, params.seeded(i), max_tokens, draft)
            for i, prompt in enumerate(prompts)
        ]
        return Generations([Generation(self._engine, request) for request in texts])

    def chat_many(
        self,
        conversations: Iterable[Messages],
        params: SamplingParams | None = None,
        *,
        max_tokens: int | None = None,
        draft: bool = False,
        template: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Generations:
        """Write the next message of several conversations; see `chat` and `generate_many`."""
        params, ask = self._params(params, changes), self._requests.of_chat
        texts = [
            ask(chat, template or {}, params.seeded(i), max_tokens, draft)
            for i, chat in enumerate(conversations)
        ]
        return Generations([Generation(self._engine, request) for request in texts])

    def save_prompt(self, path: str | Path, generation: Generation) -> int:
        """Write the state after the prompt of a text that was written; return its tokens.

        `load_prompt` lets another process go on from it. Raises ConfigError if it is not writable.
        """
        return self._engine.save_prefix(Path(path), list(generation.request.ids))

    def load_prompt(self, path: str | Path) -> int:
        """Let prompts that begin like a saved one go on from it; return how many tokens it has.

        Raises ConfigError or FormatError for a file of another model or format, or damaged.
        """
        return len(self._engine.load_prefix(Path(path)))

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
        self._check_open()
        params = SamplingParams(temperature=temperature, top_k=0, top_p=1, min_p=0, seed=seed)
        request = self._requests.of_ids(ids, params, max_tokens, [*stop])
        generation = Generation(self._engine, request, measured=False)
        for _ in generation:
            pass
        return generation.token_ids

    def _params(self, params: SamplingParams | None, changes: dict[str, Any]) -> SamplingParams:
        self._check_open()
        return replace(params or self.sampling_defaults, **changes)

    def _check_open(self) -> None:
        if not self._finalizer.alive:
            raise ConfigError("model: expected an open one, found it closed. Load it again.")

    def _check_ids(self, ids: Sequence[int]) -> None:
        self._check_open()
        self._requests.check(ids)

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
