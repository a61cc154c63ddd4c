"""`cpumix convert`: make one model file from a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

import cpumix
from cpumix.units import format_seconds, format_size

from . import options
from .progress import byte_progress


@click.command(epilog="Example: cpumix convert Mixtral-8x7B-Instruct-v0.1 mixtral.bin --ram 48G")
@options.source
@options.target
@options.precision
@options.ram
@options.force
@options.ignore_field
@options.as_json
def command(
    source: Path,
    target: Path,
    precision: str,
    ram: int | None,
    force: bool,
    ignore_field: tuple[str, ...],
    as_json: bool,
) -> None:
    """Convert a Hugging Face checkpoint to one file.

    SOURCE is the folder with config.json, *.safetensors and the tokenizer; TARGET is the file to
    write. Nothing bears TARGET's name before it is complete.
    """
    with byte_progress(f"Converting {source.name or source}") as progress:
        report = cpumix.convert(
            source,
            target,
            precision=precision,
            ram=ram,
            force=force,
            ignore_fields=ignore_field,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(asdict(report), default=str))
    click.echo(
        f"{report.target}: {report.precision}, {format_size(report.file_bytes)} from "
        f"{format_size(report.source_bytes)}, {report.tensors} tensors in "
        f"{format_seconds(report.seconds)}",
        err=True,
    )
