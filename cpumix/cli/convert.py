"""`cpumix convert`: make one model file from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

import cpumix
from cpumix.units import format_seconds, format_size

from . import options
from .optional_value import OptionalValueCommand
from .progress import byte_progress
from .texts import note_first_run


@contextmanager
def _naming(target: Path, resume: bool) -> Iterator[None]:
    """Say where an interrupted conversion is kept: its file is hidden, and may be large."""
    from cpumix.store.temporary import temporary_files  # not above: --help starts faster

    try:
        yield
    except BaseException:
        for path in temporary_files(target) if resume else []:
            click.echo(f'kept for --resume: "{path}"', err=True)
        raise


@click.command(
    cls=OptionalValueCommand,
    epilog="Example: cpumix convert Mixtral-8x7B-Instruct-v0.1 mixtral.bin --ram 48G",
)
@options.source
@options.target
@options.source_precision
@options.ram
@options.lora
@options.force
@options.resume
@options.discard_shards
@options.low_copies
@options.ignore_field
@options.calibrate
@options.losses_of
@options.calibration_tokens
@options.as_json
def command(
    source: Path,
    target: Path,
    precision: str,
    ram: int | None,
    lora: list[tuple[Path, float]],
    force: bool,
    resume: bool,
    discard_shards: bool,
    low_copy: bool,
    ignore_field: tuple[str, ...],
    calibrate: str | None,
    losses_of: Path | None,
    calibration_tokens: int,
    as_json: bool,
) -> None:
    """Convert a checkpoint to one file.

    SOURCE is what was downloaded: a folder with config.json or params.json, weights (safetensors,
    PyTorch, MLX, quantized by GPTQ, AWQ and others) and the tokenizer, or a GGUF file; or a name
    on the Hugging Face hub, ORG/NAME[@REVISION]. TARGET is the file to write. Nothing bears
    TARGET's name before it is complete.
    """
    text: str | bool = False if calibrate is None else calibrate or True
    if text:
        note_first_run()
    with byte_progress(f"Converting {source.name or source}") as progress, _naming(target, resume):
        report = cpumix.convert(
            source,
            target,
            precision=precision,
            ram=ram,
            lora=lora,
            force=force,
            resume=resume,
            discard_shards=discard_shards,
            low_copy=low_copy,
            ignore_fields=ignore_field,
            calibrate=text,
            losses_of=losses_of,
            calibration_tokens=calibration_tokens,
            progress=progress,
        )
    if report.resumed:
        click.echo(f"  {report.resumed} tensors were done before", err=True)
    for loss in report.losses:
        click.echo(f"  {loss}", err=True)
    for note in report.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(asdict(report), default=str))
    click.echo(
        f"{report.target}: {report.precision}, {format_size(report.file_bytes)} from "
        f"{format_size(report.source_bytes)}, {report.tensors} tensors in "
        f"{format_seconds(report.seconds)}",
        err=True,
    )
