"""`cpumix run`: continue a prompt, or answer it, and stream the text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import click

import cpumix
from cpumix.errors import quoted

from . import log_probabilities, options, sampling
from .conversions import model_file
from .progress import PromptStatus
from .prompts import read_question
from .texts import note_first_run


@click.command(epilog="Example: cpumix run mixtral.bin -p 'Why is the sky blue?' --stats")
@options.optional_model
@options.model_option
@options.convert
@options.prompt
@options.prompt_file
@options.messages
@options.system
@options.chat_template
@options.max_tokens
@sampling.options
@options.context
@options.kv
@options.low_copy
@options.threads
@options.ram
@options.raw
@options.special
@options.draft
@options.prompt_cache
@options.logprobs
@options.stats
@options.stats_json
@options.trace
def command(
    model: Path | None,
    model_option: Path | None,
    convert: bool,
    prompt: str | None,
    prompt_file: Path | None,
    messages: Path | None,
    system: str,
    template: str | None,
    max_tokens: int,
    context: int | None,
    kv: str,
    low_copy: str,
    threads: int | None,
    ram: int | None,
    raw: bool,
    special: bool,
    draft: str | None,
    prompt_cache: Path | None,
    stats: bool,
    stats_json: IO[str] | None,
    trace: IO[str] | None,
    **params: Any,
) -> None:
    """Continue a prompt and stream the text.

    MODEL is a file that `cpumix convert` made; without it, the small demo model that comes with
    cpumix answers. With --convert it may be a checkpoint too. A model with a chat template is asked
    through it, unless --raw is given; a model without one continues the prompt.
    """
    question = read_question(prompt, prompt_file, messages, system, template)
    if question.messages and (raw or special):
        raise click.UsageError(
            "--raw and --special take a prompt as it is: leave out --messages, --system and "
            "--chat-template."
        )
    model = model_file(_one_of(model, model_option), convert, ram)
    note_first_run()
    from cpumix.measure.warmup import helped

    with cpumix.load(
        model, ram=ram, threads=threads, context=context, kv=kv, low_copy=low_copy
    ) as loaded:
        said = _say(loaded.notes)
        spelled = None if special else loaded.tokenizer.find_control(question.text)
        if spelled:
            click.echo(f"{quoted(spelled)} is read as text; --special makes it a token", err=True)
        if trace:
            loaded.trace(trace)
        if prompt_cache and prompt_cache.exists():
            loaded.load_prompt(prompt_cache)
        status = PromptStatus()
        wanted: dict[str, Any] = {
            "max_tokens": max_tokens,
            "draft": bool(draft),
            "progress": status,
        }
        wanted |= sampling.given(params)
        if question.messages:
            generation = loaded.chat(question.messages, template=question.template, **wanted)
        else:
            generation = loaded.generate(
                question.text, raw=raw or special, special=special, **wanted
            )
        try:
            with helped(loaded.kv), status:
                for piece in generation:
                    click.echo(piece, nl=False)
            done = generation.stats
            if prompt_cache and done.cached_tokens < done.prompt_tokens - 1:
                loaded.save_prompt(prompt_cache, generation)
        finally:  # after Ctrl-C too: the numbers so far are worth having
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
            told, tokens = generation.log_probabilities, loaded.tokenizer
            if stats_json:
                numbers = generation.stats.to_dict()
                if params["logprobs"] is not None:
                    numbers["logprobs"] = log_probabilities.to_dicts(told, tokens)
                json.dump(numbers, stats_json)
                stats_json.write("\n")
            else:
                _say(log_probabilities.to_lines(told, tokens))


def _say(notes: Iterable[str]) -> list[str]:
    """Print notes on stderr, a line each, and return them."""
    said = list(notes)
    for note in said:
        click.echo(note, err=True)
    return said


def _one_of(model: Path | None, other: Path | None) -> Path | None:
    if model is not None and other is not None:
        raise click.UsageError("Expected one model, found MODEL and -m.")
    return other if model is None else model
