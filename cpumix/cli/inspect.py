"""`cpumix inspect`: say what is in a model file or checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpumix.units import format_count, format_size

from . import options

if TYPE_CHECKING:
    from cpumix.inspector import Facts


@click.command(epilog="Example: cpumix inspect mixtral.bin")
@options.source
@options.as_json
def command(source: Path, as_json: bool) -> None:
    """Show what a model file or a checkpoint holds.

    SOURCE is a model file, or a checkpoint in any form that `cpumix convert` takes. Only headers
    are read, so one of any size answers at once.
    """
    from cpumix.inspector import inspect

    facts = inspect(source)
    if as_json:
        click.echo(json.dumps(facts.to_json()))
    else:
        click.echo("\n".join(_lines(facts)))


def _lines(facts: Facts) -> list[str]:
    config = json.loads(facts.config.to_json())
    lines = [
        f"{facts.path}: {facts.precision or facts.source}, {format_size(facts.nbytes)}",
        f"{facts.config.architecture}: {format_count(facts.weights)} weights, "
        f"{format_count(facts.active_weights)} for each token",
    ]
    for group, kinds in facts.groups.items():
        for name, amount in kinds.items():
            size = format_size(amount.bytes)
            lines.append(f"  {size:>10}  {group}: {amount.tensors} tensors in {name}")
    for name, nbytes in facts.files.items():
        lines.append(f"  {format_size(nbytes):>10}  {name}")
    templates = ", ".join(facts.templates) or "none"
    lines.append(f"  chat templates: {templates}")
    for name, nbytes in facts.memory.items():
        lines.append(f"  {format_size(nbytes):>10}  memory to run at {name}")
    width = max(map(len, config))
    return lines + [f"  {name:<{width}}  {value}" for name, value in config.items()]
