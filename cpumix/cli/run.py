"""`cpumix run`: continue a prompt, or answer it, and stream the text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import click

import cpumix
from cpumix.errors import ConfigError, quoted

from . import options, sampling
from .conversions import model_file
from .progress import PromptStatus
from .texts import note_first_run, read_prompt, read_stdin


@click.command(epilog="Example: cpumix run mixtral.bin -p 'Why is the sky blue?' --stats")
@options.optional_model
@options.model_option
@options.convert
@options.prompt
@options.prompt_file
@options.max_tokens
@sampling.options
@options.context
@options.kv
@options.threads
@options.ram
@options.raw
@options.special
@options.prompt_cache
@options.stats
@options.stats_json
@options.trace
def command(
    model: Path | None,
    model_option: Path | None,
    convert: bool,
    prompt: str | None,
    prompt_file: Path | None,
    max_tokens: int,
    context: int | None,
    kv: str,
    threads: int | None,
    ram: int | None,
    raw: bool,
    special: bool,
    prompt_cache: Path | None,
    stats: bool,
    stats_json: IO[str] | None,
    trace: IO[str] | None,
    **params: Any,
) -> None:
    """Continue a prompt and stream the text.

    MODEL is a file that `cpumix convert` made; without it, the small demo model that comes with
    cpumix answers. With --convert it may be a checkpoint too. A model with a chat template is asked
    through it, unless --raw is given.
    """
    text = _read(prompt, prompt_file)
    model = model_file(_one_of(model, model_option), convert, ram)
    note_first_run()
    from cpumix.measure.warmup import helped

    with cpumix.load(model, ram=ram, threads=threads, context=context, kv=kv) as loaded:
        said = _say(loaded.notes)
        spelled = None if special else loaded.tokenizer.find_control(text)
        if spelled:
            click.echo(f"{quoted(spelled)} is read as text; --special makes it a token", err=True)
        if trace:
            loaded.trace(trace)
        if prompt_cache and prompt_cache.exists():
            loaded.load_prompt(prompt_cache)
        status = PromptStatus()
        generation = loaded.generate(
            text,
            max_tokens=max_tokens,
            raw=raw or special,
            progress=status,
            special=special,
            **sampling.given(params),
        )
        try:
            with helped(loaded.kv):
                for piece in generation:
                    click.echo(piece, nl=False)
            done = generation.stats
            if prompt_cache and done.cached_tokens < done.prompt_tokens - 1:
                loaded.save_prompt(prompt_cache, generation)
        finally:  # after Ctrl-C too: the numbers so far are worth having
            status.clear()
            click.echo()
            _say(note for note in loaded.notes if note not in said)
            if generation.stop_reason == "context":
                click.echo(
                    f"the context of {loaded.context} tokens is full: give it more with --context",
                    err=True,
                )
            if not generation.complete:
                click.echo("the text is not complete: give it more tokens with -n", err=True)
            if stats:
                click.echo(generation.stats.summary(), err=True)
            if stats_json:
                json.dump(generation.stats.to_dict(), stats_json)
                stats_json.write("\n")


def _say(notes: Iterable[str]) -> list[str]:
    """Print notes on stderr, a line each, and return them."""
    said = list(notes)
    for note in said:
        click.echo(note, err=True)
    return said


def _read(prompt: str | None, file: Path | None) -> str:
    """Return the text to start from, wherever it is."""
    if (prompt is None) == (file is None):
        raise click.UsageError("Expected a prompt with -p, or a file that has it with -f.")
    if file is not None:
        return read_prompt(file)
    return read_stdin() if prompt == "-" else _check(prompt or "")


def _one_of(model: Path | None, other: Path | None) -> Path | None:
    if model is not None and other is not None:
        raise click.UsageError("Expected one model, found MODEL and -m.")
    return other if model is None else model


def _check(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # Python hands over undecodable arguments as surrogates
        raise ConfigError("prompt: expected UTF-8 text, found other bytes.") from error
    return prompt
