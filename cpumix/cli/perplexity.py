"""`cpumix perplexity`: how well a model predicts a text, and what a lower precision costs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

import cpumix

from . import options
from .progress import progress_bar
from .texts import note_first_run, read_file

if TYPE_CHECKING:
    from cpumix.measure.perplexity import Evaluation


@click.command(epilog="Example: cpumix perplexity int4.bin book.txt --against bf16.bin")
@options.model
@options.text
@options.against
@options.window
@options.windows
@options.kv
@options.low_copy
@options.threads
@options.as_json
def command(
    model: Path,
    text: Path,
    against: Path | None,
    context: int,
    windows: int | None,
    kv: str,
    low_copy: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score how well a model predicts a text.

    The file TEXT is cut into windows, and the second half of each is scored; lower is better. With
    --against, say also how far MODEL's predictions are from that other model's. --kv and --low-copy
    are for MODEL only, so that a file can be compared with itself.
    """
    content = read_file(text)
    note_first_run()
    from cpumix.measure.perplexity import evaluate

    with ExitStack() as stack:
        loaded, *others = (
            stack.enter_context(
                cpumix.load(path, context=context, threads=threads, kv=cache, low_copy=copies)
            )
            for path, cache, copies in ((model, kv, low_copy), (against, "auto", "off"))
            if path is not None
        )
        for one in (loaded, *others):
            one.check_writes()
        other = others[0] if others else None
        progress = stack.enter_context(progress_bar("Scoring", "{} windows".format))
        result = evaluate(
            loaded, content, against=other, context=context, windows=windows, progress=progress
        )
    click.echo(json.dumps(asdict(result)) if as_json else _describe(result, f"against {against}"))


def _describe(result: Evaluation, reference: str) -> str:
    rows = [
        (
            "perplexity",
            f"{result.perplexity:.4f} +- {result.perplexity_error:.4f}, "
            f"{result.tokens} tokens in {result.windows} windows of {result.context}",
        )
    ]
    if found := result.against:
        rows += [
            (reference, f"{found.perplexity:.4f} +- {found.perplexity_error:.4f}"),
            ("ratio", f"{found.ratio:.5f} +- {found.ratio_error:.5f}"),
            ("KL divergence", f"{found.kl_divergence:.5f} +- {found.kl_divergence_error:.5f}"),
            ("same top token", f"{100 * found.same_top:.2f} %"),
            ("probabilities", f"{100 * found.probability_rms:.2f} % apart (RMS)"),
        ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
