"""What `cpumix.convert` does, from the source's name to the report."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpumix.arguments import check_path
from cpumix.checkpoint import Checkpoint, merge_adapter, open_checkpoint
from cpumix.checkpoint.as_is import choose_precision_as_is, is_quantized
from cpumix.config import ModelConfig
from cpumix.errors import ConfigError, ConvertError
from cpumix.hub import HubShards, download, open_shards, parse_name
from cpumix.input_file import regular
from cpumix.machine import machine_info
from cpumix.memory.mixing import find_precision
from cpumix.memory.own_losses import read_losses
from cpumix.memory.planner import choose_precision, default_context
from cpumix.memory.side_bytes import count_side_bytes
from cpumix.quant import FORMATS
from cpumix.quant.precision import CODED, LOW_COPIES, Precision
from cpumix.quant.sensitivity import MEASURED
from cpumix.store import ModelWriter, build_entries, build_metadata
from cpumix.store.layout import is_model_file
from cpumix.tokenizer import Tokenizer, prepare_files
from cpumix.units import parse_size

from .code_books import with_code_books
from .losses import Loss
from .pipeline import Progress, write_tensors
from .shard_disposal import ShardDisposal, most_space, order_by_shards, written_together
from .slices import cut
from .tensor_errors import TensorErrors

CALIBRATION_TOKENS = 16384
HEADER_BYTES = 64 << 20  # of a model file, with tokenizer and padding of tensors, at most


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


def convert(
    source: str | Path,
    target: str | Path,
    precision: str | Precision = "auto",
    *,
    ram: str | int | None = None,
    lora: Sequence[tuple[str | Path, float]] = (),
    force: bool = False,
    resume: bool = False,
    discard_shards: bool = False,
    low_copy: bool = False,
    ignore_fields: Collection[str] = (),
    calibrate: str | Path | bool = False,
    calibration_tokens: int = CALIBRATION_TOKENS,
    losses_of: str | Path | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Write the checkpoint at `source`, of any form that `checkpoint` reads, to the file `target`.

    A source that is not there may be a name on the Hugging Face hub, see `hub`.

    `precision`: "bf16", "int8", "int4", "int3", "int2"; "mix-3.5": what loses least with 3.5 bits
    for a weight; "auto": the best that fits `ram` ("64G" or bytes; this machine's memory if not
    given); "as-is": what keeps most of a quantized checkpoint's numbers. Whatever it is, numbers
    that fit into it as they are are not rounded again. A `Precision` says it tensor by tensor.
    `lora`: folders of adapters to merge in, in this order, and how many times each. An existing
    target is replaced only with `force`. With `resume`, what an interrupted conversion has done is
    kept, and taken up by the next one of the same source and options. With `discard_shards`, the
    shards of a source on the hub are fetched one by one, and each is deleted from the hub's cache
    as soon as it is converted; one single file is fetched whole, and deleted at the end. With
    `low_copy` the file holds a 2-bit copy of each expert too, for tokens that need it little.
    Fields of config.json that are named in `ignore_fields` count as absent. With `calibrate`,
    weights are rounded for the inputs that they have on a text: that of a file, or for True one
    that cpumix brings; `calibration_tokens` of it, spread evenly, are used. That takes hours for a
    large model. Mixes are composed by the losses that `losses_of`, a calibrated file of the same
    model, has recorded; else by those of a small model. `progress` is called with the source bytes
    done and in all.
    Raises ConvertError or ConfigError; then, as after a kill, nothing is left of `target`.
    """
    check_path("source", source)
    check_path("target", target)
    began = time.perf_counter()
    hub_name = None if os.path.exists(source) else parse_name(Path(source).as_posix())
    shards = None
    if hub_name is None:
        place = Path(source)
        if discard_shards:
            raise ConfigError(
                f'discard shards: expected a name on the hub as source, found "{place}". Leave '
                "--discard-shards out: what is yours is not deleted."
            )
    elif discard_shards:
        place, shards = open_shards(hub_name)
    else:
        place = download(hub_name)
    checkpoint = open_checkpoint(place, ignore_fields, shards.heads if shards else {})
    for folder, times in lora:
        checkpoint = merge_adapter(checkpoint, Path(folder), times)
    tokenizer = Tokenizer.from_files(checkpoint.files)  # refuse a damaged one now
    files = prepare_files(checkpoint.files)
    if precision == "auto":
        limit = machine_info().limit_bytes if ram is None else parse_size(str(ram))
        context = default_context(checkpoint.config)
        side = count_side_bytes(files, checkpoint.config.vocab_size)
        precision = choose_precision(checkpoint.config, limit, context, side=side).precision
    if isinstance(precision, Precision):
        chosen = precision
    elif precision == "as-is":
        chosen = choose_precision_as_is(checkpoint)
    elif precision == CODED.name and choose_precision_as_is(checkpoint) is CODED:
        chosen = CODED  # of two forms of int4 the one that keeps numbers of 4 bits
    else:
        own = None if losses_of is None else read_losses(Path(losses_of), checkpoint.config)
        chosen = find_precision(precision, checkpoint.config, own or MEASURED)
    if low_copy:
        chosen = with_low_copies(chosen, checkpoint.config)
    _refuse_own_source(checkpoint, [place, *(Path(folder) for folder, _ in lora)], Path(target))
    entries = with_code_books(build_entries(checkpoint.config, chosen), checkpoint)
    name = Path(source).resolve().name if hub_name is None else hub_name.repo.partition("/")[2]
    calibration = None
    if calibrate is not False:
        from .calibration import Calibration  # not above: it brings the whole forward pass

        config = checkpoint.config
        calibration = Calibration(calibrate, calibration_tokens, tokenizer, config, entries)
    ordered, folder = entries, place if place.is_dir() else place.parent
    if calibration is not None:
        ordered = calibration.entries
    elif discard_shards:
        ordered = order_by_shards(checkpoint, entries)
    errors = TensorErrors(entries, calibration is not None)
    metadata = build_metadata(checkpoint.config, chosen, files, name) | errors.metadata
    slices = list(cut(checkpoint, ordered))
    uses = list(written_together(slices)) if discard_shards else []
    space = HEADER_BYTES + most_space(uses, folder, shards, Path(target)) if uses else None
    with ModelWriter(
        Path(target),
        metadata,
        entries,
        force=force,
        resume=resume,
        source=_fingerprint(checkpoint, lora, shards)
        + (calibration.fingerprint if calibration else b""),
        free_bytes=space,
        order=[e.name for e in ordered] if discard_shards or calibration else None,
        results=errors.results,
    ) as writer:
        finished, disposal = writer.finished, None
        if discard_shards:
            left = [s.source.paths for s in slices if s.entry.name not in finished]
            disposal = ShardDisposal(left, folder, shards)
        write = write_tensors if calibration is None else calibration.write_tensors
        losses = write(writer, slices, disposal, errors, progress)
        writer.commit()
        size = writer.nbytes
    seconds = time.perf_counter() - began
    return ConvertReport(
        Path(target),
        chosen.name,
        size,
        checkpoint.source_bytes,
        seconds,
        len(entries),
        (*checkpoint.notes, *tokenizer.notes, *_rounded_twice(checkpoint, losses)),
        losses,
        len(finished),
    )


def with_low_copies(precision: Precision, config: ModelConfig) -> Precision:
    """Return a precision with low copies; ConfigError where they would serve nobody."""
    if config.num_experts_per_tok < 2:
        raise ConfigError(
            "low copy: expected a model whose tokens go through two experts or more, found "
            f"{config.num_experts_per_tok}. Leave --low-copy out."
        )
    return replace(precision, low=LOW_COPIES)


def _fingerprint(
    checkpoint: Checkpoint, lora: Sequence[tuple[str | Path, float]], shards: HubShards | None
) -> bytes:
    """Return bytes that change if a file of the source does, or which adapters are merged."""
    paths = {tensor.path for tensor in checkpoint.tensors.values()} - (
        shards.sizes.keys() if shards else set()
    )
    adapters = [path for folder, _ in lora for path in Path(folder).iterdir()]
    files: list[tuple[str, int, int | str]] = [
        (p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in (*sorted(paths), *adapters)
    ]
    files += shards.identity if shards else []
    return json.dumps([sorted(files), [(str(folder), times) for folder, times in lora]]).encode()


def _rounded_twice(checkpoint: Checkpoint, losses: tuple[Loss, ...]) -> Iterator[str]:
    """Yield a note if weights were rounded that a quantizer had rounded before."""
    before = {t.encoding for t in checkpoint.tensors.values() if is_quantized(t)}
    worse = [
        loss
        for loss in losses
        if loss.encoding in before and FORMATS[loss.format].bits_per_weight < 8
    ]
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
    shards = {tensor.path for tensor in checkpoint.tensors.values() if tensor.path.exists()}
    beside = [p for place in places for p in (place.iterdir() if place.is_dir() else [place])]
    others = [] if _is_model_file(target) else [path for path in beside if path.is_file()]
    if any(target.samefile(path) for path in (*shards, *others)):
        raise ConvertError(
            "target: expected a file of its own, found a file of the checkpoint or of an adapter "
            f'at "{target}". Name another target.'
        )


def _is_model_file(path: Path) -> bool:
    with open(path, "rb", opener=regular) as file:
        return is_model_file(file.read(64))
