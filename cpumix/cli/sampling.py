"""The options of sampling: one for each parameter, with llama.cpp's names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from cpumix.errors import quoted
from cpumix.input_file import read_text_input
from cpumix.sampling.params import RANGES, SamplingParams, token_id

DEFAULTS = SamplingParams()
NUMBERS: Mapping[str, tuple[str, str]] = {  # parameter: option, help
    "temperature": ("--temperature", "How adventurous; 0 always takes the likeliest token."),
    "top_k": ("--top-k", "Choose among the K likeliest tokens; 0 means all."),
    "top_p": ("--top-p", "Choose among the fewest tokens that hold P of the probability."),
    "min_p": ("--min-p", "Choose among tokens at least P times as likely as the likeliest."),
    "typical_p": ("--typical-p", "Choose among tokens that surprise about as much as expected."),
    "top_n_sigma": ("--top-n-sigma", "Choose among logits N deviations below the highest."),
    "xtc_probability": ("--xtc-probability", "How often to exclude the top choices."),
    "xtc_threshold": ("--xtc-threshold", "From which probability on a token is a top choice."),
    "repeat_last_n": ("--repeat-last-n", "Tokens that penalties look at; -1 means all."),
    "repeat_penalty": ("--repeat-penalty", "Divide the logits of tokens that came up; 1 is off."),
    "presence_penalty": ("--presence-penalty", "Take this off tokens that came up."),
    "frequency_penalty": ("--frequency-penalty", "Take this off for each time that one came up."),
    "dry_multiplier": ("--dry-multiplier", "How much to penalize going on with a repetition."),
    "dry_base": ("--dry-base", "How fast that grows with the repetition's length."),
    "dry_allowed_length": ("--dry-allowed-length", "Tokens that may repeat without penalty."),
    "dry_penalty_last_n": ("--dry-penalty-last-n", "Tokens that it looks at; -1 means all."),
    "dynatemp_range": ("--dynatemp-range", "How far the temperature follows the entropy."),
    "dynatemp_exponent": ("--dynatemp-exp", "How the entropy becomes a temperature."),
    "mirostat": ("--mirostat", "2 aims at a steady surprise; replaces all other cuts."),
    "mirostat_tau": ("--mirostat-ent", "The surprise that Mirostat aims at, in bits."),
    "mirostat_eta": ("--mirostat-lr", "How fast Mirostat learns."),
}
ALIASES = {"temperature": ["--temp"]}
_BIAS = re.compile(r"(\d+)([+-](?:\d+\.?\d*|inf))")


def _number(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    allowed = RANGES[str(param.name)]
    if value is not None and not allowed.holds(value):
        raise click.BadParameter(f"expected {allowed.words}, found {value}.", ctx, param)
    return value


def _several(ctx: click.Context, param: click.Parameter, values: tuple[Any, ...]) -> Any:
    return values or None  # not given


def _biases(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[int, float] | None:
    biases = {}
    for value in values:
        match = _BIAS.fullmatch(value)
        token = token_id(match[1]) if match else None
        if match is None or token is None or float(match[2]) == math.inf:
            raise click.BadParameter(
                "expected a token id and what to add, such as 15043+1 or 2-inf, "
                f"found {quoted(value)}.",
                ctx,
                param,
            )
        biases[token] = float(match[2])
    return biases or None


def _text(ctx: click.Context, param: click.Parameter, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return read_text_input(path).decode()
    except (OSError, ValueError) as error:
        raise click.BadParameter(
            f"expected a text file that can be read, found {error}.", ctx, param
        ) from error


def _make_options() -> list[Callable[[Any], Any]]:
    file: dict[str, Any] = {"type": click.Path(path_type=Path), "metavar": "FILE"}
    file["callback"] = _text
    several: dict[str, Any] = {"multiple": True, "callback": _several}
    return [
        *(
            click.option(
                flag,
                *ALIASES.get(name, []),
                name,
                type=RANGES[name].kind,
                callback=_number,
                help=f"{about} Default: {getattr(DEFAULTS, name)}.",
            )
            for name, (flag, about) in NUMBERS.items()
        ),
        click.option(
            "--dry-sequence-breaker",
            "dry_sequence_breakers",
            **several,
            metavar="TEXT",
            help="Repetitions end at TEXT; may be given again. Default: newline, colon, quote, *.",
        ),
        click.option(
            "--logit-bias",
            multiple=True,
            callback=_biases,
            metavar="ID(+|-)N",
            help="Add N to the logit of token ID, or take it off; -inf rules it out.",
        ),
        click.option(
            "-s",
            "--seed",
            type=click.IntRange(min=0, max=2**63 - 1),
            help="The same seed gives the same text, on any number of threads. Default: a new one; "
            "of a batch 0.",
        ),
        click.option("--stop", **several, metavar="TEXT", help="End before TEXT; may be repeated."),
        click.option(
            "--stop-token",
            "stop_token_ids",
            type=click.IntRange(min=0),
            **several,
            metavar="ID",
            help="End at token ID, too; may be given again.",
        ),
        click.option(
            "--ignore-eos", is_flag=True, default=None, help="Go on where the model would end."
        ),
        click.option("--json-schema", **file, help="Write JSON that follows the schema in FILE."),
        click.option("--regex", metavar="REGEX", help="Write a text that REGEX matches."),
        click.option("--grammar", **file, help="Write by the grammar in FILE, Lark or GBNF."),
    ]


_OPTIONS = _make_options()


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of sampling; it gets them by the names of `SamplingParams`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that the user gave; for the others a model may have its own."""
    return {name: value for name, value in values.items() if value is not None}
