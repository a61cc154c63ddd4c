"""`cpumix batch`: answer every line of a file, on this machine or on Ray."""

from __future__ import annotations

import json
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpumix import __version__
from cpumix.errors import CpumixError, quoted
from cpumix.extras import from_extra

from . import options, sampling
from .conversions import model_file
from .optional_value import OptionalValue, OptionalValueCommand
from .progress import LineStatus
from .texts import note_first_run

if TYPE_CHECKING:
    from cpumix.batch.job import BatchReport, Crew
    from cpumix.batch.settings import Settings
    from cpumix.batch.worker import ModelOptions


@click.command(
    cls=OptionalValueCommand,
    epilog="Example: cpumix batch questions.jsonl answers.jsonl -m mixtral.bin",
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path),
    help="The model file. Default: the small demo model.",
)
@options.convert
@click.option("--column", metavar="NAME", help="The column of a table that has the prompts.")
@click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    help="Tokens of an answer at most, where a line does not say. Default: 256 of a plain prompt, "
    "else OpenAI's: 16 of a completion, of a chat what the context has room for.",
)
@options.raw
@options.system
@options.chat_template
@options.parallel(8)
@options.context
@options.kv
@options.ram
@options.threads
@click.option(
    "--part-lines",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Lines that are kept together. A killed process has to do at most two parts again.",
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option(
    "--ray",
    "address",
    cls=OptionalValue,
    is_flag=False,
    flag_value="",
    metavar="[ADDRESS]",
    help="Share the work among the nodes of the Ray cluster at ADDRESS; without one that which "
    "runs here, else this machine alone. Write it last, or as --ray=ADDRESS.",
)
@click.option(
    "--actors",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes on each node of --ray, which share its processors and memory.",
)
@options.as_json
@sampling.options
def command(
    source: Path,
    target: Path,
    model: Path | None,
    convert: bool,
    column: str | None,
    part_lines: int,
    force: bool,
    address: str | None,
    actors: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Answer every line of a file, in order.

    IN has a request a line, as in OpenAI's batch files, or {"prompt": TEXT}; or it is a table, in
    CSV or parquet, with prompts in a --column. OUT is of the same format. A line that is at fault
    has an error in its place, and the exit status is 1. Interrupted at any moment, the same command
    goes on where it was. Options of sampling are for lines that do not say otherwise; each line has
    a seed of its own that follows from --seed.
    """
    with from_extra("batch", "batch"):
        from cpumix.batch import files, job, parts
    work = job.BatchJob(files.open_lines(source, target, column), target, part_lines)
    work.check_target(force)
    loading, settings = _settings(model_file(model, convert, given["ram"]), given)
    depends_on = work.depends_on(loading.fingerprint, settings.to_dict(), __version__)
    began = time.monotonic()
    with ExitStack() as stack:
        kept = stack.enter_context(parts.PartsFolder(target, depends_on))
        report = job.BatchReport(work.lines, work.kept(kept))
        if report.kept:
            click.echo(f"going on: {report.kept} of {work.lines} lines are done", err=True)
        try:
            if report.kept < work.lines:
                crew = _crew(loading, settings, address, actors)
                stack.callback(crew.close)
                with LineStatus(work.lines, report.kept) as status:
                    report = work.run(kept, crew, status)
            work.join(kept, report, force)
        except KeyboardInterrupt:
            done = f"{work.kept(kept)} of {work.lines} lines are done"
            again = shlex.join(["cpumix", *sys.argv[1:]])
            click.echo(f"{done}; to go on, type: {again}", err=True)
            raise
    _tell(report, time.monotonic() - began, as_json)
    if report.failed:
        raise CpumixError(
            f"batch: expected an answer to each of {report.lines} lines, found {report.failed} "
            f"without one, the first being {report.first_failure} See the errors in "
            f"{quoted(target)}."
        )


def _settings(path: Path | None, given: dict[str, Any]) -> tuple[ModelOptions, Settings]:
    """Sort the options into those of the model and those that answers depend on."""
    from cpumix.batch.settings import Settings
    from cpumix.batch.worker import ModelOptions, look_at
    from cpumix.model import DEMO_MODEL

    path = DEMO_MODEL if path is None else path.absolute()
    parallel, ram, threads = (given.pop(name) for name in ("parallel", "ram", "threads"))
    found = look_at(path, given.pop("context"), given.pop("kv"))
    plain = {name: given.pop(name) for name in ("max_tokens", "raw", "system")}
    settings = Settings(
        context=found.context,
        kv=found.kv,
        seed=given.pop("seed") or 0,
        chat_template=given.pop("template"),
        sampling=sampling.given(given),
        **plain,
    )
    return ModelOptions(path, found.fingerprint, parallel, ram, threads), settings


def _crew(model: ModelOptions, settings: Settings, address: str | None, actors: int) -> Crew:
    """Return those who answer: a model in this process, or Ray's actors."""
    if address is None:
        from cpumix.batch.here import CrewHere

        note_first_run()
        crew = CrewHere(model, settings)
        for note in crew.notes:
            click.echo(note, err=True)
        return crew
    with from_extra("ray", "--ray"):
        from cpumix.batch.ray_crew import RayCrew
    return RayCrew(model, settings, address, actors, lambda note: click.echo(note, err=True))


def _tell(report: BatchReport, seconds: float, as_json: bool) -> None:
    """Say what was done: on stderr in words, or on stdout as JSON."""
    counts = report.counts
    if report.passed_over:
        names = ", ".join(sorted(report.passed_over)[:20])
        click.echo(f"fields that are not known were passed over: {names}", err=True)
    if as_json:
        numbers = {"lines": report.lines, "kept": report.kept, "failed": report.failed}
        done = {name: value for name, value in asdict(counts).items() if name != "lines"}
        click.echo(json.dumps({**numbers, **done, "seconds": round(seconds, 3)}))
        return
    shared = f" ({counts.cached_tokens} of them once for several)" if counts.cached_tokens else ""
    rate = f", {counts.written_tokens / seconds:.1f} tok/s" if counts.written_tokens else ""
    click.echo(
        f"{report.lines} lines, {report.failed} failed; {counts.prompt_tokens} tokens read"
        f"{shared}, {counts.written_tokens} written in {seconds:.1f} s{rate}",
        err=True,
    )
