"""`cpumix perplexity`: how well a model predicts a text, and what a lower precision costs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import cpumix
from cpumix.cli import options
from cpumix.cli.progress import progress_bar
from cpumix.cli.texts import read_file

if TYPE_CHECKING:
    from cpumix.evaluate import Evaluation


@click.command(epilog="Example: cpumix perplexity int4.bin book.txt --against bf16.bin")
@options.model
@options.text
@options.against
@options.window
@options.windows
@options.threads
@options.as_json
def command(
    model: Path,
    text: Path,
    against: Path | None,
    context: int,
    windows: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score how well a model predicts a text.

    The file TEXT is cut into windows, and the second half of each is scored; lower is better. With
    --against, say also how far MODEL's predictions are from that other model's.
    """
    content = read_file(text)
    from cpumix.evaluate import evaluate

    with ExitStack() as stack:
        loaded, *others = (
            stack.enter_context(cpumix.load(path, context=context, threads=threads))
            for path in (model, against)
            if path is not None
        )
        other = others[0] if others else None
        progress = stack.enter_context(progress_bar("Scoring", "{} windows".format))
        result = evaluate(
            loaded, content, against=other, context=context, windows=windows, progress=progress
        )
    click.echo(json.dumps(asdict(result)) if as_json else _describe(result))


def _describe(result: Evaluation) -> str:
    lines = [
        f"perplexity {result.perplexity:.4f} +- {result.perplexity_error:.4f} "
        f"({result.tokens} tokens in {result.windows} windows of {result.context})"
    ]
    if other := result.against:
        lines += [
            f"other      {other.perplexity:.4f} +- {other.perplexity_error:.4f}",
            f"ratio      {other.ratio:.5f} +- {other.ratio_error:.5f}",
            f"KL         {other.kl_divergence:.5f} +- {other.kl_divergence_error:.5f} nats",
            f"same top   {100 * other.same_top:.2f} %",
        ]
    return "\n".join(lines)
