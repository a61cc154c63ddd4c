"""Every option and argument, defined once: the same word means the same thing in each command."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cpumix.input_file import read_text
from cpumix.units import parse_size

from .optional_value import OptionalValue
from .output_file import OutputFile

SHIPPED_TEXT = ""  # of --calibrate without a file
AS_IS = "as-is"  # of a checkpoint, so only `convert` knows what it means
PRECISION_PATTERN = r"auto|bf16|int8|int4|int3|int2|mix-[1-9]?[0-9](\.[0-9]{1,2})?"


def _to_bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return None if value is None else parse_size(value)


def _precision_name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(
        PRECISION_PATTERN, value
    ):  # whether the model can have so few bits is seen later
        known = PRECISION_PATTERN.partition("[")[0].replace("|", ", ") + "B"
        raise click.BadParameter(f'expected one of {known}, found "{value}".', ctx, param)
    return value


def _adapters(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[tuple[Path, float]]:
    """Split each folder from the scale after its last colon, if a number is there."""
    found = []
    for value in values:
        folder, colon, scale = value.rpartition(":")
        try:
            number = float(scale) if colon else math.nan
        except ValueError:
            number = math.nan
        is_scaled = colon and math.isfinite(number)
        found.append((Path(folder), number) if is_scaled else (Path(value), 1.0))
    return found


def _template(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Return the template in a file of this name, or else the name of a template."""
    if value is None or not os.path.isfile(value):  # Path.is_file raises for a long name
        return value
    return read_text(Path(value))


def _source_precision(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return value if value == AS_IS else _precision_name(ctx, param, value)


_FOLDER_OR_FILE = click.Path(path_type=Path)

source = click.argument("source", type=_FOLDER_OR_FILE)
target = click.argument("target", type=_FOLDER_OR_FILE)
model = click.argument("model", type=_FOLDER_OR_FILE)
optional_model = click.argument("model", type=_FOLDER_OR_FILE, required=False)
text = click.argument("text", type=_FOLDER_OR_FILE)
optional_texts = click.argument("texts", type=_FOLDER_OR_FILE, required=False, metavar="[FILE]")
model_shape = click.argument("source", required=False)

_LEVELS = (
    "bf16, int8, int4, int3, int2, or mix-B: what loses least within B bits a weight, such as "
    "mix-3.4. auto takes the best that fits in --ram"
)
precision = click.option(
    "--precision",
    metavar="LEVEL",
    callback=_precision_name,
    default="auto",
    show_default=True,
    help=f"{_LEVELS}.",
)
source_precision = click.option(
    "--precision",
    metavar="LEVEL",
    callback=_source_precision,
    default="auto",
    show_default=True,
    help=f"{_LEVELS}, {AS_IS} the one that keeps most of a quantized checkpoint's numbers.",
)
ram = click.option(
    "--ram",
    metavar="SIZE",
    callback=_to_bytes,
    help="Memory to plan with, such as 64G (1G = 1GB = 1GiB). Default: this machine's.",
)
force = click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
resume = click.option(
    "--resume",
    is_flag=True,
    help="Keep what is done if interrupted, and go on from there the next time.",
)
convert = click.option(
    "--convert",
    is_flag=True,
    help="Convert MODEL first if it is a checkpoint, into the cache folder, and only once.",
)
discard_shards = click.option(
    "--discard-shards",
    is_flag=True,
    help="Download the files of a source on the hub one by one; delete each once it is converted. "
    "A source in one file is downloaded whole, and deleted at the end.",
)
losses_of = click.option(
    "--losses-of",
    metavar="FILE",
    type=_FOLDER_OR_FILE,
    help="Compose a mix by the losses that FILE, a calibrated file of this model, has recorded.",
)
calibrate = click.option(
    "--calibrate",
    cls=OptionalValue,
    metavar="[TEXT]",
    is_flag=False,
    flag_value=SHIPPED_TEXT,
    help="Round weights so that outputs on a text change least: of the file TEXT, or one of many "
    "kinds that cpumix brings. Better at the same size, and many times slower. Write it last, or "
    "as --calibrate=TEXT.",
)
calibration_tokens = click.option(
    "--calibration-tokens",
    metavar="N",
    type=click.IntRange(min=1),
    default=16384,
    show_default=True,
    help="Tokens of the text to calibrate with.",
)
lora = click.option(
    "--lora",
    metavar="DIR[:SCALE]",
    multiple=True,
    callback=_adapters,
    help="Merge the low-rank adapter in this folder, SCALE times (once if not given). Repeatable.",
)
ignore_field = click.option(
    "--ignore-field",
    metavar="NAME",
    multiple=True,
    help="Pass over a field of config.json that cpumix refuses and that you know not to matter; "
    "rope_scaling.NAME for a part of it. Can be given again.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

model_option = click.option(
    "-m", "--model", "model_option", type=_FOLDER_OR_FILE, help="The same as MODEL."
)
prompt = click.option("-p", "--prompt", help="What to continue or answer; - reads standard input.")
prompt_file = click.option(
    "-f", "--file", "prompt_file", type=_FOLDER_OR_FILE, help="A file with the prompt."
)
max_tokens = click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Tokens to make at most.",
)
answer_tokens = click.option(
    "-n",
    "--max-tokens",
    type=click.IntRange(min=1),
    help="Tokens of an answer at most. Default: as many as the context has room for; 128 of a "
    "model that only continues texts.",
)
system = click.option(
    "--system",
    metavar="TEXT",
    default="",
    help="The system text: how the model should behave, in words.",
)
messages = click.option(
    "--messages",
    type=_FOLDER_OR_FILE,
    metavar="FILE",
    help="Go on with a conversation: a JSON list of messages with role and content, as "
    "`/save` of cpumix chat writes it.",
)
draft = click.option(
    "--draft",
    type=click.Choice(["lookup"]),
    help="Guess tokens where the last ones have stood before: faster for texts that repeat their "
    "prompt, and the same text.",
)
_TEMPLATE: dict[str, Any] = {
    "metavar": "NAME|FILE",
    "callback": _template,
    "help": "Use another template: one of the model's, one of Mistral's such as mistral-v1, or the "
    "Jinja template in FILE.",
}
chat_template = click.option("--chat-template", "template", **_TEMPLATE)
served_template = click.option("--chat-template", **_TEMPLATE)
context = click.option(
    "-c",
    "--context",
    type=click.IntRange(min=1),
    help="Tokens of prompt and answer to keep in memory. Default: the model's, at most 4096.",
)
prompt_cache = click.option(
    "--prompt-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Go on from the prompt saved in this file, and save it there.",
)


def parallel(default: int) -> Callable[[Any], Any]:
    """Return the option that says how many texts are written at once."""
    return click.option(
        "--parallel",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        help="Texts that are written at once, each with a context of its own.",
    )


kv = click.option(
    "--kv",
    type=click.Choice(["auto", "f16", "int8", "f32"]),
    default="auto",
    show_default=True,
    help="How keys and values are kept; int8 halves their memory. auto is f32 for bf16, else f16.",
)
low_copy = click.option(
    "--low-copy",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Tokens that hardly need their second expert read its 2-bit copy. auto: if there is one.",
)
low_copies = click.option(
    "--low-copy",
    is_flag=True,
    help="Keep a 2-bit copy of each expert too, for tokens that hardly need it.",
)
threads = click.option(
    "-t", "--threads", type=click.IntRange(min=1), help="Default: one for each physical core."
)
raw = click.option("--raw", is_flag=True, help="Give the prompt as it is, without chat template.")
special = click.option(
    "--special",
    is_flag=True,
    help="As --raw, and read control tokens such as <s> and [INST] in the prompt as tokens.",
)
logprobs = click.option(
    "--logprobs",
    metavar="N",
    type=click.IntRange(min=0),
    help="Tell how likely each token was, and the N likeliest ones: on stderr after the text, or "
    "in the file of --stats-json.",
)
stats = click.option("--stats", is_flag=True, help="Say on stderr how fast it was.")
stats_json = click.option(
    "--stats-json",
    type=OutputFile(),
    metavar="FILE",
    help="Write the same numbers to FILE as one JSON object.",
)
trace = click.option(
    "--trace",
    type=OutputFile(),
    metavar="FILE",
    help="Write a line to FILE for each layer and token: which experts, found in memory or not.",
)

against = click.option(
    "--against", type=_FOLDER_OR_FILE, help="A more precise file of the same model to compare with."
)
window = click.option(
    "--context",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Tokens in a window; the second half is scored.",
)
windows = click.option(
    "--windows", type=click.IntRange(min=1), help="Score so many windows. Default: the whole text."
)

no_probe = click.option(
    "--no-probe", is_flag=True, help="Assume usual bandwidths of memory and disk; measure nothing."
)
verify = click.option(
    "--verify",
    type=_FOLDER_OR_FILE,
    metavar="MODEL",
    help="Run a model file for a moment and compare what it takes with what was predicted.",
)
