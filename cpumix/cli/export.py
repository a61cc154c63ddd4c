"""`cpumix export`: write a model file as GGUF, for llama.cpp and its relatives."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

import cpumix
from cpumix.units import format_seconds, format_size

from . import options
from .progress import byte_progress


@click.command(epilog="Example: cpumix export mixtral.bin mixtral.gguf")
@options.model
@options.target
@options.force
@options.as_json
def command(model: Path, target: Path, force: bool, as_json: bool) -> None:
    """Write a model file as GGUF, which llama.cpp loads.

    The numbers stay what they are: int8 becomes Q8_0, int4 IQ4_NL, bf16 BF16. The tokenizer and
    chat template come along.
    """
    with byte_progress(f"Exporting {model.name}") as progress:
        report = cpumix.export(model, target, force=force, progress=progress)
    if as_json:
        click.echo(json.dumps(asdict(report), default=str))
    types = ", ".join(f"{n} in {name}" for name, n in sorted(report.types.items()))
    click.echo(
        f"{report.target}: {format_size(report.file_bytes)}, tensors: {types}, in "
        f"{format_seconds(report.seconds)}",
        err=True,
    )
