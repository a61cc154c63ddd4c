"""`cpumix verify`: read a model file and compare every checksum."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .progress import byte_progress


@click.command(epilog="Example: cpumix verify mixtral.bin")
@options.model
def command(model: Path) -> None:
    """Check that a model file is undamaged.

    Reads all of it, for instance after copying it, and names the first tensor that differs.
    """
    from cpumix.store.reader import ModelFile

    with ModelFile(model) as file, byte_progress(f"Verifying {model.name}") as progress:
        file.verify(progress)
        click.echo(f"{model}: {len(file.tensors)} tensors, all as they were written")
