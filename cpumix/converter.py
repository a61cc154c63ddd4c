"""Turns a checkpoint into a model file, a slice of one tensor at a time.

Three things go on at once: one thread reads the next slice, the kernels encode this one on all
cores, one thread writes the last one. So memory stays small and constant for a model of any size,
and the disk never waits for the processor.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.checkpoint import Checkpoint, SourceTensor, merge_adapter, open_checkpoint
from cpumix.checkpoint.as_is import choose_precision_as_is, is_quantized
from cpumix.checkpoint.matrix import Coded, widen
from cpumix.errors import ConfigError, ConvertError
from cpumix.hub import download, parse_name
from cpumix.kernels.encode import encode
from cpumix.losses import Loss, Losses
from cpumix.machine import machine_info
from cpumix.memory.planner import choose_precision, default_context
from cpumix.quant import FLOAT32, exact
from cpumix.quant import nbytes as tensor_bytes
from cpumix.quant.bf16 import to_float32
from cpumix.quant.tiles import BLOCK, TILE_ROWS
from cpumix.shard_disposal import ShardDisposal, most_space
from cpumix.store import ModelWriter, TensorEntry, build_entries, build_metadata
from cpumix.store.layout import is_model_file
from cpumix.tokenizer import Tokenizer, prepare_files
from cpumix.units import parse_size

Progress = Callable[[int, int], None]
HEADER_BYTES = 64 << 20  # of a model file, with tokenizer and padding of tensors, at most
SLICE_BYTES = 32 << 20  # of the source; a few of them are in memory at a time
# Magnitudes as float32 bits: from the first on it is infinity or NaN, from the second on bfloat16
# rounds it to infinity.
INFINITE, BF16_INFINITE = 0x7F800000, 0x7F7F8000
# The largest float16 scale times 64: int4 gives a block's largest weight a code of 88 and more, and
# its fitted scale is within 1.3 of what that needs.
_LARGEST = 65504.0 * 64
LARGEST_VECTOR = 1e9  # of norms, routers and biases: what they scale is squared in float32


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion did; sizes in bytes."""

    target: Path
    precision: str
    file_bytes: int
    source_bytes: int
    seconds: float
    tensors: int
    notes: tuple[str, ...]
    """Sentences on what was left out, or could be done better."""
    losses: tuple[Loss, ...]
    """What was kept as it was, and what was rounded."""
    resumed: int
    """Tensors that an interrupted conversion had done; what they lost is not told."""


class Slice(NamedTuple):
    """Some rows of a source tensor, and the tensor of the model file that they go to."""

    entry: TensorEntry
    source: SourceTensor
    start: int
    stop: int


def convert(
    source: str | Path,
    target: str | Path,
    precision: str = "auto",
    *,
    ram: str | int | None = None,
    lora: Sequence[tuple[str | Path, float]] = (),
    force: bool = False,
    resume: bool = False,
    discard_shards: bool = False,
    ignore_fields: Collection[str] = (),
    progress: Progress | None = None,
) -> ConvertReport:
    """Write the checkpoint at `source`, of any form that `checkpoint` reads, to the file `target`.

    A source that is not there may be a name on the Hugging Face hub, see `hub`.

    `precision`: "bf16", "int8", "int4"; "auto": the best that fits `ram` ("64G" or bytes; this
    machine's memory if not given); "as-is": what keeps most of a quantized checkpoint's numbers.
    Whatever it is, numbers that fit into it as they are are not rounded again. `lora`: folders of
    adapters to merge in, in this order, and how many times each. An existing target is replaced
    only with `force`. With `resume`, what an interrupted conversion has done is kept, and taken up
    by the next one of the same source and options. With `discard_shards`, a download's shards are
    deleted from the hub's cache one by one, as soon as they are converted. Fields of config.json
    that are named in `ignore_fields` count as absent. `progress` is called with the source bytes
    done and in all.
    Raises ConvertError or ConfigError; then, as after a kill, nothing is left of `target`.
    """
    began = time.perf_counter()
    hub_name = None if Path(source).exists() else parse_name(Path(source).as_posix())
    if discard_shards and (hub_name is None or resume):
        raise ConfigError(
            "discard shards: expected a name on the hub as source and no resume, which needs all "
            "shards. Leave one of the options out."
        )
    place = Path(source) if hub_name is None else download(hub_name)
    checkpoint = open_checkpoint(place, ignore_fields)
    for folder, times in lora:
        checkpoint = merge_adapter(checkpoint, Path(folder), times)
    tokenizer = Tokenizer.from_files(checkpoint.files)  # refuse a damaged one now
    files = prepare_files(checkpoint.files)
    if precision == "auto":
        limit = machine_info().limit_bytes if ram is None else parse_size(str(ram))
        context = default_context(checkpoint.config)
        precision = choose_precision(checkpoint.config, limit, context).precision
    elif precision == "as-is":
        precision = choose_precision_as_is(checkpoint)
    _refuse_own_source(checkpoint, [place, *(Path(folder) for folder, _ in lora)], Path(target))
    entries = build_entries(checkpoint.config, precision)
    name = Path(source).resolve().name if hub_name is None else hub_name.repo.partition("/")[2]
    metadata = build_metadata(checkpoint.config, precision, files, name)
    slices = list(_slices(checkpoint, entries))
    uses = [(s.source.paths, _target_bytes(s)) for s in slices] if discard_shards else []
    with ModelWriter(
        Path(target),
        metadata,
        entries,
        force=force,
        resume=resume,
        source=_fingerprint(checkpoint, lora),
        free_bytes=most_space(uses) + HEADER_BYTES if discard_shards else None,
    ) as writer:
        resumed = writer.done
        disposal = ShardDisposal(uses) if discard_shards else None
        losses = _write_tensors(writer, slices, resumed, disposal, progress)
        writer.commit()
        size = writer.nbytes
    seconds = time.perf_counter() - began
    return ConvertReport(
        Path(target),
        precision,
        size,
        checkpoint.source_bytes,
        seconds,
        len(entries),
        (*tokenizer.notes, *_rounded_twice(checkpoint, losses)),
        losses,
        resumed,
    )


def _fingerprint(checkpoint: Checkpoint, lora: Sequence[tuple[str | Path, float]]) -> bytes:
    """Return bytes that change if a file of the source does, or which adapters are merged."""
    shards = {tensor.path for tensor in checkpoint.tensors.values()}
    adapters = [path for folder, _ in lora for path in Path(folder).iterdir()]
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in (*sorted(shards), *adapters)]
    return json.dumps([sorted(files), [(str(folder), times) for folder, times in lora]]).encode()


def _rounded_twice(checkpoint: Checkpoint, losses: tuple[Loss, ...]) -> Iterator[str]:
    """Yield a note if weights were rounded that a quantizer had rounded before."""
    before = {t.encoding for t in checkpoint.tensors.values() if is_quantized(t)}
    worse = [loss for loss in losses if loss.encoding in before and loss.format == "q4"]
    if not all(loss.exact for loss in worse):
        yield (
            f"weights of {worse[0].encoding} were quantized once more. --precision as-is rounds "
            "less, and the checkpoint that was not quantized is better still."
        )


def _refuse_own_source(checkpoint: Checkpoint, places: Sequence[Path], target: Path) -> None:
    """Raise ConvertError for a target that would replace a part of its source, even with force.

    That is every file beside the weights too, but for model files: they are made of the source.
    """
    if not os.path.isfile(target):
        return
    shards = {tensor.path for tensor in checkpoint.tensors.values()}
    beside = [p for place in places for p in (place.iterdir() if place.is_dir() else [place])]
    others = [] if _is_model_file(target) else [path for path in beside if path.is_file()]
    if any(target.samefile(path) for path in (*shards, *others)):
        raise ConvertError(
            "target: expected a file of its own, found a file of the checkpoint or of an adapter "
            f'at "{target}". Name another target.'
        )


def _is_model_file(path: Path) -> bool:
    with open(path, "rb") as file:
        return is_model_file(file.read(64))


def _slices(checkpoint: Checkpoint, entries: list[TensorEntry]) -> Iterator[Slice]:
    for entry in entries:
        for name in entry.parts:
            source = checkpoint.tensors[name]
            columns = source.shape[1] if len(source.shape) == 2 else 1
            step = max(1, SLICE_BYTES // (columns * 4) // 16) * 16  # whole tiles
            for start in range(0, source.shape[0], step):
                yield Slice(entry, source, start, min(start + step, source.shape[0]))


def _write_tensors(
    writer: ModelWriter,
    slices: list[Slice],
    resumed: int,
    disposal: ShardDisposal | None,
    progress: Progress | None,
) -> tuple[Loss, ...]:
    """Write all slices but those of the first `resumed` tensors."""
    total, losses = sum(_source_bytes(s) for s in slices), Losses()
    finished = set(list(dict.fromkeys(s.entry.name for s in slices))[:resumed])
    slices = [s for s in slices if s.entry.name not in finished]
    done = total - sum(_source_bytes(s) for s in slices)
    if not slices:  # all that was missing is the name
        if progress is not None:
            progress(total, total)
        return ()
    written: Future[None] | None = None
    with (
        ThreadPoolExecutor(1, "cpumix-read") as reader,
        ThreadPoolExecutor(1, "cpumix-write") as output,
    ):
        ahead = reader.submit(_read, slices[0])
        for i, s in enumerate(slices):
            rows = ahead.result()
            if i + 1 < len(slices):
                ahead = reader.submit(_read, slices[i + 1])
            data = _encode(s, rows, losses)
            if written is not None:
                written.result()
                if disposal is not None:
                    disposal.done(slices[i - 1].source.paths)
            written = output.submit(writer.write, s.entry.name, data)
            done += _source_bytes(s)
            if progress is not None:
                progress(done, total)
        if written is not None:
            written.result()
            if disposal is not None:
                disposal.done(slices[-1].source.paths)
    return losses.all()


def _target_bytes(s: Slice) -> int:
    return tensor_bytes(s.entry.format, (s.stop - s.start, *s.source.shape[1:]))


def _source_bytes(s: Slice) -> int:
    return int(s.source.nbytes * (s.stop - s.start) // s.source.shape[0])


def _read(s: Slice) -> NDArray[Any] | Coded:
    """Return a slice as codes if its format can hold them, else as numbers."""
    codes = s.source.read_codes(s.start, s.stop) if s.entry.format in exact.EXACT_FORMATS else None
    return s.source.read_rows(s.start, s.stop) if codes is None else codes


def _encode(s: Slice, rows: NDArray[Any] | Coded, losses: Losses) -> NDArray[Any]:
    """Return a slice's bytes in the model file; ConvertError for weights that are not numbers."""
    part = "the rest" if s.entry.spec.expert is None else "experts"
    key = (part, s.source.encoding, s.entry.format)
    is_first = s.start == 0
    if isinstance(rows, Coded):
        tiles = exact.to_tiles(s.entry.format, *rows)
        if tiles is not None:
            losses.add(key, is_first, None, tiles)
            return tiles
        rows = rows.codes * rows.scales.astype(np.float32).repeat(BLOCK, axis=1)
    data = _round(s, rows)
    is_same = s.entry.format == FLOAT32 or (s.entry.format == "bf16" and rows.dtype == np.uint16)
    losses.add(key, is_first, None if is_same else widen(np.atleast_2d(rows)[:TILE_ROWS]), data)
    return data


def _round(s: Slice, rows: NDArray[Any]) -> NDArray[Any]:
    """Return rows in the format of their tensor."""
    rows = np.atleast_2d(rows)
    if rows.dtype == np.float16:
        rows = rows.astype(np.float32)
    if s.entry.format == FLOAT32:
        wide = to_float32(rows) if rows.dtype == np.uint16 else rows
        largest = int(np.abs(wide).max().view(np.uint32)) if np.isfinite(wide).all() else INFINITE
        data: NDArray[Any] = np.ascontiguousarray(wide)
    else:
        data, largest = encode(rows, s.entry.format)
    what = f'tensor "{s.source.source_name}"'
    if largest >= (BF16_INFINITE if s.entry.format == "bf16" else INFINITE):
        raise ConvertError(
            f"{what}: expected finite weights, found NaN or infinity between rows {s.start} and "
            f'{s.stop - 1}. The checkpoint is damaged: download it again. File "{s.source.path}".'
        )
    magnitude = float(np.uint32(largest).view(np.float32))
    if s.entry.format == FLOAT32 and magnitude > LARGEST_VECTOR:
        raise ConvertError(
            f"{what}: expected numbers of a norm, router or bias up to {LARGEST_VECTOR:.0e}, found "
            f"{magnitude:.3g}. The checkpoint is damaged: download it again. "
            f'File "{s.source.path}".'
        )
    if s.entry.format not in ("bf16", FLOAT32) and magnitude > _LARGEST:
        raise ConvertError(
            f"{what}: expected weights up to {_LARGEST:.3g}, which 8 and 4 bits can scale, "
            f'found {magnitude:.3g}. Use --precision bf16. File "{s.source.path}".'
        )
    return data
