"""Moves slices through three threads at once: the next is read, this encoded, the last written.

The kernels encode on all cores. So memory stays small and constant for a model of any size, and the
disk never waits for the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from cpumix.checkpoint.matrix import Coded
from cpumix.store import ModelWriter

from .losses import Loss, Losses
from .shard_disposal import ShardDisposal
from .slices import Slice, convert_slice, read, source_bytes
from .tensor_errors import TensorErrors

Progress = Callable[[int, int], None]


def write_tensors(
    writer: ModelWriter,
    slices: list[Slice],
    disposal: ShardDisposal | None,
    errors: TensorErrors,
    progress: Progress | None,
) -> tuple[Loss, ...]:
    """Write all slices but those of finished tensors; return what they lost.

    `progress` gets the source bytes done and in all.
    """
    total, losses = sum(source_bytes(s) for s in slices), Losses()
    finished = writer.finished
    slices = [s for s in slices if s.entry.name not in finished]
    done = total - sum(source_bytes(s) for s in slices)
    if progress is not None:
        progress(done, total)  # the first bytes may have to be downloaded
    if not slices:  # all that was missing is the name
        return ()
    written: Future[None] | None = None
    with (
        ThreadPoolExecutor(1, "cpumix-read") as reader,
        ThreadPoolExecutor(1, "cpumix-write") as output,
    ):
        try:
            ahead = reader.submit(fetch_and_read, slices[0], disposal)
            for i, s in enumerate(slices):
                rows = ahead.result()
                if i + 1 < len(slices):
                    ahead = reader.submit(fetch_and_read, slices[i + 1], disposal)
                data, sample = convert_slice(s, rows, losses)
                errors.add(s.entry.name, s.source.name, sample)
                if written is not None:
                    written.result()
                    if disposal is not None:
                        disposal.done(slices[i - 1].source.paths)
                written = output.submit(writer.write, s.entry.name, data)
                done += source_bytes(s)
                if progress is not None:
                    progress(done, total)
            if written is not None:
                written.result()
                if disposal is not None:
                    disposal.done(slices[-1].source.paths)
        finally:
            if disposal is not None:
                disposal.stop()  # before the threads are waited for
    return losses.all()


def fetch_and_read(s: Slice, disposal: ShardDisposal | None) -> NDArray[Any] | Coded:
    """Read a slice, whose shards may have to be fetched first."""
    if disposal is not None:
        disposal.need(s.source.paths)
    return read(s)
