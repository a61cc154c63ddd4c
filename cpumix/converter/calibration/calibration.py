"""A calibrated conversion as a whole: which text, in which order, on which threads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cpumix.arguments import check_path, whole_number
from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.kernels import create_backend
from cpumix.kernels.compile.jit import find_threads
from cpumix.machine import machine_info
from cpumix.quant import FLOAT32, FORMATS
from cpumix.store import ModelWriter, TensorEntry
from cpumix.tokenizer import Tokenizer

from ..losses import Loss, Losses
from ..pipeline import Progress, fetch_and_read
from ..shard_disposal import ShardDisposal
from ..slices import Slice, source_bytes
from ..tensor_errors import TensorErrors
from .matrix import MatrixRounder
from .stream import TokenStream
from .text import read_calibration, spread_windows
from .walk import Walk, walk_order
from .workers import Workers


class Calibration:
    """Takes the place of `pipeline.write_tensors`.

    `text` is the path of a file, or True for the text that cpumix ships. Raises ConfigError for a
    text that will not do, and where nothing is rounded.
    """

    def __init__(
        self,
        text: Any,
        tokens: int,
        tokenizer: Tokenizer,
        config: ModelConfig,
        entries: Sequence[TensorEntry],
    ) -> None:
        if text is not True:
            check_path("calibrate", text)
        count = whole_number("calibration tokens", tokens, 1)
        kinds = {kind for entry in entries for _, kind in entry.parts} - {FLOAT32}
        if not any(FORMATS[kind].rounder for kind in kinds):
            raise ConfigError(
                "calibrate: expected a precision of 8 bits or fewer, found bf16, where nothing is "
                "to be made up for. Name another precision, or leave --calibrate out."
            )
        content = read_calibration(None if text is True else Path(text))
        longest = config.max_position_embeddings
        self._windows = spread_windows(tokenizer, content, count, longest)
        self._config = config
        self.entries = walk_order(config, entries)
        """In the order in which they are written."""

    @property
    def fingerprint(self) -> bytes:
        """What changes with the text."""
        return self._windows.tobytes()

    def write_tensors(
        self,
        writer: ModelWriter,
        slices: list[Slice],
        disposal: ShardDisposal | None,
        errors: TensorErrors,
        progress: Progress | None,
    ) -> tuple[Loss, ...]:
        """Write all slices, those of `entries`, but for finished ones; return what they lost.

        `progress` gets the source bytes done and in all.
        """
        total, finished = sum(map(source_bytes, slices)), writer.finished
        now = sum(source_bytes(s) for s in slices if s.entry.name in finished)

        def written(s: Slice) -> None:
            nonlocal now
            now += source_bytes(s)
            if disposal is not None:
                disposal.done(s.source.paths)
            if progress is not None:
                progress(now, total)

        if progress is not None:
            progress(now, total)  # the first slices take long to come
        losses = Losses()
        threads = find_threads(None, machine_info().physical_cores)
        fetch = partial(fetch_and_read, disposal=disposal)
        try:
            with Workers(threads) as workers:
                stream = TokenStream(self._config, create_backend(threads), self._windows)
                rounder = MatrixRounder(workers, losses, fetch)
                walk = Walk(
                    stream, writer, self.entries, slices, rounder, errors, self._config, written
                )
                if len(finished) < len(self.entries):  # else all that is missing is the name
                    walk.run()
        finally:
            if disposal is not None:
                disposal.stop()
        return losses.all()
