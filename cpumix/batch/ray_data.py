"""Ray Data: answers to a column of prompts, as columns of types that are known beforehand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from cpumix.errors import ConfigError, quoted
from cpumix.model import DEMO_MODEL

from .files.parquet_file import result_columns, result_schema
from .ray_nodes import given_threads, needed_bytes, usable_nodes
from .settings import RESULT_FIELDS, Settings
from .worker import ModelOptions, Part, Worker, look_at

if TYPE_CHECKING:
    from ray.data import Dataset

BATCH_ROWS = 32  # that are answered together


class Generate:
    """A class for `Dataset.map_batches`: an actor with a model, which answers a column of prompts.

    The answers are columns beside those that are there: see `schema`. A row that is at fault has
    its `error`, and the others are answered. Several batches may be given at once; what is idle in
    one of them works for the others. `column` has the prompts; `id_column`, if given, names rows,
    which otherwise are known by their prompts: the same row and seed give the same answer, whoever
    computes it, and whenever. Other arguments are those of `cpumix.load`, `Model.generate` and
    `SamplingParams`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        column: str = "prompt",
        id_column: str | None = None,
        parallel: int = 8,
        context: int | None = None,
        kv: str = "auto",
        ram: int | None = None,
        threads: int | None = None,
        spare_cpus: int = 0,
        seed: int = 0,
        max_tokens: int | None = None,
        raw: bool = False,
        system: str = "",
        chat_template: str | None = None,
        **sampling: Any,
    ) -> None:
        """Load the model.

        Without `threads`, there are as many as the processors that Ray has given, and `spare_cpus`
        more, but no more than cores. Raises what `cpumix.load` raises.
        """
        self._column, self._id_column = column, id_column
        path = DEMO_MODEL if model is None else Path(model)
        found = look_at(path, context, kv)
        settings = Settings(
            found.context, found.kv, sampling, seed, max_tokens, raw, system, chat_template
        )
        options = ModelOptions(
            path, found.fingerprint, parallel, ram, threads or given_threads(spare_cpus)
        )
        self._worker = Worker(options, settings)
        self._numbers = count()

    async def __call__(self, batch: Mapping[str, Any] | pa.Table) -> pa.Table:
        """Answer a batch, in Ray's actor; see `answer`."""
        return await asyncio.to_thread(self.answer, batch)

    def answer(self, batch: Mapping[str, Any] | pa.Table) -> pa.Table:
        """Return a table with the answers; from any thread. Raises ConfigError without a column."""
        table = batch if isinstance(batch, pa.Table) else pa.table(dict(batch))
        for name in filter(None, (self._column, self._id_column)):
            if name not in table.column_names:
                raise ConfigError(
                    f"column: expected one of the dataset's ({', '.join(table.column_names)}), "
                    f"found {quoted(name)}. Name one of them."
                )
        prompts = table[self._column].to_pylist()
        keys = table[self._id_column].to_pylist() if self._id_column else prompts
        lines = [_line(*pair) for pair in zip(prompts, keys, strict=True)]
        answered = self._worker.run(Part(next(self._numbers), 0, lines))
        kept = table.drop_columns([n for n in table.column_names if n in RESULT_FIELDS])
        columns = result_columns(answered.data.splitlines())
        for field, column in zip(self.schema(), columns, strict=True):
            kept = kept.append_column(field, column)
        return kept

    @staticmethod
    def schema() -> pa.Schema:
        """Return the columns of the answers, with their types."""
        return result_schema()

    def close(self) -> None:
        """Close the model."""
        self._worker.close()


def generate(
    dataset: Dataset,
    model: str | Path | None = None,
    *,
    column: str = "prompt",
    actors: int | None = None,
    batch_size: int = BATCH_ROWS,
    **options: Any,
) -> Dataset:
    """Answer a column of prompts of a dataset, on all nodes of the cluster: see `Generate`.

    Each of the `actors`, one a node if not given, asks Ray for the memory that its model needs and
    for all processors of a node but one, which is left to Ray's own tasks: without it they would
    wait for ever, and say nothing. It computes on all of them.
    """
    if not ray.is_initialized():
        ray.init()
    nodes = [node["Resources"] for node in usable_nodes()]
    spare = 1
    cpus = min(int(node["CPU"]) for node in nodes) - spare
    memory = min(
        [_memory(model, options), *(int(node["memory"]) for node in nodes if "memory" in node)]
    )
    return dataset.map_batches(
        Generate,
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_constructor_args=(model,),
        fn_constructor_kwargs={"column": column, "spare_cpus": spare, **options},
        compute=ray.data.ActorPoolStrategy(size=actors or len(nodes)),
        num_cpus=cpus,
        memory=memory,
        scheduling_strategy="SPREAD",
    )


def _memory(model: str | Path | None, options: Mapping[str, Any]) -> int:
    """Return the bytes that an actor needs."""
    path = DEMO_MODEL if model is None else Path(model)
    found = look_at(path, options.get("context"), options.get("kv", "auto"))
    loaded = ModelOptions(path, found.fingerprint, options.get("parallel", 8), options.get("ram"))
    return needed_bytes(loaded, found.context, found.kv)


def _line(prompt: Any, key: Any) -> bytes:
    """Return a row as a line of a batch."""
    text = prompt if isinstance(prompt, str | None) else False  # which is refused
    return json.dumps({"prompt": text, "custom_id": str(key)}).encode()
