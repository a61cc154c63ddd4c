"""`cpumix verify`: check a model file, by itself and against its checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpumix.units import format_count

from . import options
from .progress import byte_progress, progress_bar

if TYPE_CHECKING:
    from cpumix.store import ModelFile
    from cpumix.verifier import Difference

_WORST = 10


@click.command(epilog="Example: cpumix verify mixtral.bin --against Mixtral-8x7B-Instruct-v0.1")
@options.model
@click.option(
    "--against",
    metavar="SOURCE",
    type=click.Path(path_type=Path),
    help="Compare each tensor with that of the checkpoint which the file was made of.",
)
@options.lora
@options.ignore_field
@options.as_json
def command(
    model: Path,
    against: Path | None,
    lora: list[tuple[Path, float]],
    ignore_field: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check that a model file is undamaged.

    Reads all of it, for instance after copying it, and names the first tensor that differs from
    what was written, or holds something that is no number. With --against, says how far rounding
    has moved the weights: relative RMS, and the ten tensors that it moved most.
    """
    from cpumix.store import ModelFile
    from cpumix.verifier import verify

    with ModelFile(model) as file:
        with byte_progress(f"Verifying {model.name}") as progress:
            verify(file, progress)
        count = len(file.tensors)
        differences: list[Difference] = []
        rms = None
        if against is not None:
            differences, rms = _compare(file, against, lora, ignore_field)
    if as_json:
        facts = {"path": str(model), "tensors": count}
        if rms is not None:
            facts |= {"relative_rms": rms, "differences": [asdict(d) for d in differences]}
        click.echo(json.dumps(facts))
        return
    click.echo(f"{model}: {count} tensors, all as they were written")
    if rms == 0:
        click.echo(f"against {against}: the same numbers")
    elif rms is not None:
        click.echo(f"against {against}: relative RMS {rms:.2g}; most of all:")
        for d in differences[:_WORST]:
            click.echo(f"  {d.relative_rms:<8.2g} {d.name}, {d.format} from {d.encoding}")


def _compare(
    file: ModelFile,
    against: Path,
    lora: list[tuple[Path, float]],
    ignored: tuple[str, ...],
) -> tuple[list[Difference], float]:
    from cpumix.checkpoint import merge_adapter, open_checkpoint
    from cpumix.verifier import compare

    checkpoint = open_checkpoint(against, ignored)
    for folder, times in lora:
        checkpoint = merge_adapter(checkpoint, folder, times)
    with progress_bar(f"Comparing with {against.name}", format_count) as progress:
        return compare(file, checkpoint, progress)
