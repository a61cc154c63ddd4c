"""`cpumix inspect`: say what is in a model file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from cpumix.units import format_size

from . import options


@click.command(epilog="Example: cpumix inspect mixtral.bin")
@options.model
@options.as_json
def command(model: Path, as_json: bool) -> None:
    """Show what a model file holds.

    Only the header is read, so a file of any size answers at once.
    """
    from cpumix.store.reader import ModelFile

    with ModelFile(model) as file:
        config = json.loads(file.config.to_json())
        counts = Counter(tensor.format for tensor in file.tensors.values())
        sizes = {
            name: sum(t.nbytes for t in file.tensors.values() if t.format == name)
            for name in counts
        }
        side_files = {name: len(data) for name, data in file.files.items()}
        precision, file_bytes = file.precision, file.mapped_bytes
    if as_json:
        facts = {
            "path": str(model),
            "precision": precision,
            "file_bytes": file_bytes,
            "formats": {n: {"tensors": counts[n], "bytes": size} for n, size in sizes.items()},
            "files": side_files,
            "config": config,
        }
        click.echo(json.dumps(facts))
        return
    click.echo(f"{model}: {precision}, {format_size(file_bytes)}")
    for name, size in sizes.items():
        click.echo(f"  {format_size(size):>10}  {counts[name]} tensors in {name}")
    for name, size in side_files.items():
        click.echo(f"  {format_size(size):>10}  {name}")
    width = max(map(len, config))
    for name, value in config.items():
        click.echo(f"  {name:<{width}}  {value}")
