"""`cpumix classify`: say which label of a classifier a text has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import cpumix
from cpumix.errors import ConfigError, escaped

from . import options
from .conversions import model_file
from .progress import progress_bar
from .texts import note_first_run, read_prompt, read_stdin

if TYPE_CHECKING:
    from cpumix.engine.classification import Classification


@click.command(epilog="Example: cpumix classify moods.bin -p 'What a day!'")
@options.model
@options.optional_texts
@options.convert
@click.option("-p", "--prompt", help="One text to classify; - reads it from standard input.")
@options.context
@options.kv
@options.threads
@options.ram
@options.as_json
def command(
    model: Path,
    texts: Path | None,
    convert: bool,
    prompt: str | None,
    context: int | None,
    kv: str,
    threads: int | None,
    ram: int | None,
    as_json: bool,
) -> None:
    """Say which label a text has, and how likely each is.

    MODEL is a file that `cpumix convert` made of a classifier: a checkpoint with a score head. FILE
    has a text on each line; - is standard input. Of each the likeliest label and its probability
    are printed, of a text given by -p all labels. With --json a line is an object with all of it.
    """
    if (texts is None) == (prompt is None):
        raise click.UsageError("Expected a text with -p, or a FILE with one on each line.")
    given = [read_stdin() if prompt == "-" else prompt or ""] if texts is None else _lines(texts)
    path = model_file(model, convert, ram)
    note_first_run()
    with (
        cpumix.load(path, ram=ram, threads=threads, context=context, kv=kv) as loaded,
        progress_bar("Classifying", "{} texts".format) as progress,
    ):
        for note in loaded.notes:
            click.echo(note, err=True)
        found = loaded.classify(given, progress=progress)
    for one in found:
        if as_json:
            click.echo(json.dumps(one.to_dict()))
        elif texts is None:
            click.echo(_table(one))
        else:
            click.echo(f"{escaped(one.label)}\t{one.probability:.4f}")


def _lines(path: Path) -> list[str]:
    text = read_stdin() if str(path) == "-" else read_prompt(path)
    if not text:
        raise ConfigError("texts: expected one on each line, found an empty file. Write one there.")
    return text.split("\n")


def _table(found: Classification) -> str:
    """Return all labels, the likeliest first."""
    rows = [(escaped(row["label"]), row["probability"]) for row in found.to_dict()["labels"]]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {probability:.4f}" for label, probability in rows)
