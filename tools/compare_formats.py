"""Compare levels: bytes of the file, and how far its predictions are from the original's.

    python tools/compare_formats.py CHECKPOINT TEXT [--levels int8,int4,int3,int2] [--json FILE]

Each level is converted three times: without calibration, calibrated with text of the same kind, and
calibrated with the text that cpumix brings. TEXT is cut into pieces of 16 KiB: every second one is
scored, and the others are the text of the same kind, so that nothing is scored that was calibrated
with. Windows of 512 tokens, second halves, against the bfloat16 weights; see docs/accuracy.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import cpumix
from cpumix.measure.perplexity import cut, evaluate

CONTEXT = 512
PIECE = 16 << 10  # letters, up to the end of a line
KINDS = ("none", "same kind", "shipped")


class Recorded:
    """The original's logits for some windows, kept: it runs once."""

    def __init__(self, model: cpumix.Model, windows: Sequence[Sequence[int]]) -> None:
        self.config, self.tokenizer = model.config, model.tokenizer
        self._kept = {tuple(ids): model.logits(ids) for ids in windows}

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Return what the model said of this window."""
        return self._kept[tuple(ids)]


def alternate(text: str) -> tuple[str, str]:
    """Return every second piece of a text, and the others."""
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        pieces.append(text[start:end])
        start = end
    return "".join(pieces[0::2]), "".join(pieces[1::2])


def rows(
    checkpoint: Path, text: str, levels: Sequence[str], windows: int | None, tokens: int
) -> Iterator[dict[str, Any]]:
    """Yield what each level costs, with each kind of calibration."""
    scored, same_kind = alternate(text)
    with tempfile.TemporaryDirectory(prefix="cpumix-formats-") as folder:
        path, own = Path(folder) / "model.bin", Path(folder) / "text.txt"
        own.write_text(same_kind, encoding="utf-8")
        cpumix.convert(checkpoint, path, "bf16")
        with cpumix.load(path, context=CONTEXT) as original:
            pieces = cut(original.tokenizer, scored, CONTEXT)[:windows]
            reference = Recorded(original, pieces)
        for level in levels:
            for kind, calibrate in zip(KINDS, (False, own, True), strict=True):
                report = cpumix.convert(
                    checkpoint,
                    path,
                    level,
                    calibrate=calibrate,
                    calibration_tokens=tokens,
                    force=True,
                )
                with cpumix.load(path, context=CONTEXT) as model:
                    result = evaluate(
                        model, scored, against=reference, context=CONTEXT, windows=windows
                    )
                found = result.against
                assert found is not None
                yield {
                    "level": level,
                    "calibration": kind,
                    "file_bytes": report.file_bytes,
                    "seconds": round(report.seconds, 1),
                    "kl_divergence": found.kl_divergence,
                    "kl_divergence_error": found.kl_divergence_error,
                    "perplexity_ratio": found.ratio,
                    "same_top": found.same_top,
                }


@click.command(help=__doc__.partition("\n")[0])
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--levels", default="int8,int4,int3,int2", show_default=True)
@click.option("--windows", type=click.IntRange(min=1), help="Score so many. Default: all.")
@click.option("--tokens", type=click.IntRange(min=1), default=16384, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), help="File for the result.")
def main(
    checkpoint: Path, text: Path, levels: str, windows: int | None, tokens: int, target: Path | None
) -> None:
    """Print a table, row by row as they are measured."""
    found = []
    click.echo("level  calibration         MB       KL      +-   ppl ratio   same top")
    content = text.read_text(encoding="utf-8")
    for row in rows(checkpoint, content, levels.split(","), windows, tokens):
        found.append(row)
        click.echo(
            f"{row['level']:<6} {row['calibration']:<12} {row['file_bytes'] / 1e6:>9.2f} "
            f"{row['kl_divergence']:>8.5f} {row['kl_divergence_error']:>7.5f} "
            f"{row['perplexity_ratio']:>11.5f} {100 * row['same_top']:>8.2f} %"
        )
        sys.stdout.flush()
    if target is not None:
        target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
