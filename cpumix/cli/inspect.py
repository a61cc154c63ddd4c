"""`cpumix inspect`: say what is in a model file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from cpumix.cli import options
from cpumix.units import format_size


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
        tensor_bytes: Counter[str] = Counter()
        tensor_counts: Counter[str] = Counter()
        for tensor in file.tensors.values():
            tensor_bytes[tensor.format] += tensor.nbytes
            tensor_counts[tensor.format] += 1
        facts = {
            "path": str(model),
            "precision": file.precision,
            "file_bytes": file.mapped_bytes,
            "formats": {
                name: {"tensors": tensor_counts[name], "bytes": size}
                for name, size in tensor_bytes.most_common()
            },
            "files": {name: len(data) for name, data in file.files.items()},
            "config": config,
        }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"{model}: {facts['precision']}, {format_size(file.mapped_bytes)}")
    for name, size in tensor_bytes.most_common():
        click.echo(f"  {name:<5} {tensor_counts[name]:>6} tensors  {format_size(size):>10}")
    for name, data in file.files.items():
        click.echo(f"  {name}: {format_size(len(data))}")
    for name, value in config.items():
        click.echo(f"  {name}: {value}")
