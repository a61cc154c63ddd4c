"""`cpumix bench`: how fast a model runs here, beside what the machine can do."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpumix import __version__

from . import options
from .progress import byte_progress
from .texts import note_first_run

if TYPE_CHECKING:
    from cpumix.model import Model

DEFAULT_PRECISIONS = ("int4", "int8")


def _counts(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Read numbers of texts, such as "1,2,4"."""
    try:
        counts = tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        counts = (0,)
    if any(count < 1 for count in counts):
        raise click.BadParameter(f'expected numbers of texts such as 1,2,4, found "{text}".')
    return counts


@click.command(epilog="Example: cpumix bench mixtral.bin --rounds 9")
@options.optional_model
@options.threads
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Timings of each kind of work.",
)
@click.option(
    "--layers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Layers to make up without MODEL.",
)
@click.option(
    "--parallel",
    callback=_counts,
    metavar="N[,N...]",
    help="Instead, write so many texts at once: 1,2,4,8,16.",
)
@options.as_json
def command(
    model: Path | None,
    threads: int | None,
    rounds: int,
    layers: int,
    parallel: tuple[int, ...],
    as_json: bool,
) -> None:
    """Measure decode and prefill against the machine.

    Without MODEL, layers as wide as Mixtral 8x7B's are made up in a temporary folder (0.8 GiB a
    layer at int4, twice that at int8), and the start of a fresh process is timed too.
    """
    note_first_run()
    from cpumix.loading import load
    from cpumix.measure import bench
    from cpumix.measure.parallel import TEXT_TOKENS, WRITTEN_TOKENS

    most, texts = max(parallel, default=1), TEXT_TOKENS + WRITTEN_TOKENS

    def opener(path: Path, context: int | None) -> Callable[[], Model]:
        room = texts if parallel else context
        return lambda: load(path, threads=threads, context=room, parallel=most)

    if model is not None:
        report = bench.run([opener(model, None)], rounds, False, __version__, parallel)
    else:
        with tempfile.TemporaryDirectory(prefix="cpumix-bench-") as folder:
            paths = [Path(folder) / f"{precision}.bin" for precision in DEFAULT_PRECISIONS]
            _make_models(paths, layers)
            opens = [opener(path, bench.CONTEXT) for path in paths]
            report = bench.run(opens, rounds, not parallel, __version__, parallel)
    click.echo(json.dumps(report.to_dict()) if as_json else report.table())


def _make_models(paths: list[Path], layers: int) -> None:
    from cpumix.measure.random_model import mixtral_8x7b, write_random_model
    from cpumix.model import DEMO_MODEL
    from cpumix.store import ModelFile

    with ModelFile(DEMO_MODEL) as demo:
        tokenizer = demo.files
    for path in paths:
        with byte_progress(f"Making {path.stem} weights") as progress:
            write_random_model(path, mixtral_8x7b(layers), path.stem, tokenizer, progress)
