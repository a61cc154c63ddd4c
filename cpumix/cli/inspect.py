"""`cpumix inspect`: say what is in a model file or checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpumix.errors import escaped, quoted
from cpumix.units import format_count, format_size

from . import options
from .short_run import start_numpy, without_collector

if TYPE_CHECKING:
    from cpumix.checkpoint.lora import AdapterFacts
    from cpumix.inspector import Facts


@click.command(epilog="Example: cpumix inspect mixtral.bin")
@options.source
@options.as_json
@without_collector()
def command(source: Path, as_json: bool) -> None:
    """Show what a model file or a checkpoint holds.

    SOURCE is a model file, or a checkpoint in any form that `cpumix convert` takes, or the folder
    of a low-rank adapter. Only headers are read, so one of any size answers at once.
    """
    start_numpy()
    from cpumix.checkpoint.open import find_source_name
    from cpumix.inspector import inspect

    if find_source_name(source) is None and _is_adapter(source, as_json):
        return
    found = inspect(source)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        click.echo("\n".join(_lines(found)))


def _is_adapter(path: Path, as_json: bool) -> bool:
    """Show the adapter at a path; return whether there is one."""
    from cpumix.checkpoint.lora import describe_adapter

    adapter = describe_adapter(path)
    if adapter is None:
        return False
    if as_json:
        facts = {"path": str(path), "source": "adapter", **adapter._asdict()}
        click.echo(json.dumps(facts))
    else:
        click.echo("\n".join(_adapter_lines(path, adapter)))
    return True


def _adapter_lines(path: Path, adapter: AdapterFacts) -> list[str]:
    base = "not named" if adapter.base is None else quoted(adapter.base)
    size = format_size(adapter.nbytes)
    return [
        f"{path}: {adapter.kind} adapter, {size} in {adapter.tensors} tensors",
        f"  trained on: {base}",
        *(f"  {name}: {escaped(value)}" for name, value in adapter.settings.items()),
        f"  merged with: cpumix convert CHECKPOINT TARGET --lora {path}",
    ]


def _lines(facts: Facts) -> list[str]:
    config = json.loads(facts.config.to_json())
    lines = [
        f"{facts.path}: {facts.precision or facts.source}, {format_size(facts.nbytes)}",
        f"{facts.config.described}: {format_count(facts.weights)} weights, "
        f"{format_count(facts.active_weights)} for each token",
    ]
    for group, kinds in facts.groups.items():
        for name, amount in kinds.items():
            size = format_size(amount.bytes)
            lines.append(f"  {size:>10}  {group}: {amount.tensors} tensors in {name}")
    for name, nbytes in facts.files.items():
        lines.append(f"  {format_size(nbytes):>10}  {name}")
    lines.append(f"  tokenizer: {facts.tokenizer}")
    templates = ", ".join(map(escaped, facts.templates)) or "none"
    lines.append(f"  chat templates: {templates}")
    for name, nbytes in facts.memory.items():
        lines.append(f"  {format_size(nbytes):>10}  memory to run at {name}")
    width = max(map(len, config))
    return lines + [f"  {name:<{width}}  {value}" for name, value in config.items()]
