"""`cpumix perplexity`: how well a model predicts a text, and what a lower precision costs."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpumix.input_file import read_text

from . import options
from .progress import progress_bar
from .texts import note_first_run

if TYPE_CHECKING:
    from cpumix.measure.perplexity import Evaluation

LAYERS_IN_LINE = 8


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
    content = read_text(text)
    note_first_run()
    from cpumix.measure.perplexity import evaluate
    from cpumix.measure.routing import RoutedModel

    with ExitStack() as stack:
        loaded, *others = (
            stack.enter_context(
                RoutedModel(path, context=context, threads=threads, kv=cache, low_copy=copies)
            )
            for path, cache, copies in ((model, kv, low_copy), (against, "auto", "off"))
            if path is not None
        )
        for one in (loaded, *others):
            one.model.check_writes()
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
            (
                "KL divergence",
                f"{found.kl_divergence:.5f} +- {found.kl_divergence_error:.5f}; "
                f"median {found.kl_divergence_median:.5f}, 99 % below "
                f"{found.kl_divergence_99:.5f}, maximum {found.kl_divergence_maximum:.5f}",
            ),
            ("same top token", _percent(found.same_top, found.same_top_error)),
            (
                "probabilities",
                f"{_percent(found.probability_rms, found.probability_rms_error)} apart (RMS)",
            ),
        ]
        if found.other_experts is not None and found.other_experts_by_layer is not None:
            error = found.other_experts_error or 0.0
            layers = [f"{100 * share:.2f}" for share in found.other_experts_by_layer]
            rows.append(("other experts", _percent(found.other_experts, error)))
            rows += [
                ("" if first else "  by layer", "  ".join(layers[first : first + LAYERS_IN_LINE]))
                for first in range(0, len(layers), LAYERS_IN_LINE)
            ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _percent(share: float, error: float) -> str:
    return f"{100 * share:.2f} % +- {100 * error:.2f} %"
