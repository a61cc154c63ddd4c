"""Compare precisions: bytes of the weights, and how far predictions are from the original's.

    python tools/compare_formats.py CHECKPOINT TEXT [--levels int8,int4,int3,int2,mix-4.48]
        [--calibrations none,same,shipped] [--json FILE]

Each precision is converted without calibration, calibrated with text of the same kind, and
calibrated with the text that cpumix brings. TEXT is cut into pieces of 16 KiB: every second one is
scored, and the others are the text of the same kind, so that nothing is scored that was calibrated
with. Where that kind is not asked for, all of TEXT is scored. Windows of 512 tokens, second halves,
against the bfloat16 weights; see docs/accuracy.md. MB are 10^6 bytes of all tensors, without what
the model file adds. tools/plot_quality.py draws the result.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import cpumix
from cpumix.measure.perplexity import evaluate
from cpumix.measure.recorded import Recorded
from cpumix.measure.routing import RoutedModel
from cpumix.memory.sizes import weight_count
from cpumix.store import ModelFile

CONTEXT = 512
PIECE = 16 << 10  # letters, up to the end of a line
HEAD = "    MB   bits       KL      +-   ppl ratio   same top"
KINDS = ("none", "same", "shipped")


def alternate(text: str) -> tuple[str, str]:
    """Return every second piece of a text, and the others."""
    pieces, start = [], 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        pieces.append(text[start:end])
        start = end
    return "".join(pieces[0::2]), "".join(pieces[1::2])


def rows(
    checkpoint: Path,
    text: str,
    levels: Sequence[str],
    kinds: Sequence[str],
    windows: int | None,
    tokens: int,
) -> Iterator[dict[str, Any]]:
    """Yield what each level costs, with each kind of calibration."""
    scored, same_kind = alternate(text) if "same" in kinds else (text, "")
    with tempfile.TemporaryDirectory(prefix="cpumix-formats-") as folder:
        path, original, own = (Path(folder) / name for name in ("m.bin", "bf16.bin", "text.txt"))
        own.write_text(same_kind, encoding="utf-8")
        calibrations = {"none": False, "same": own, "shipped": True}
        cpumix.convert(checkpoint, original, "bf16")
        with (
            RoutedModel(original, context=CONTEXT) as bf16,
            Recorded(bf16) as reference,
        ):
            for level in levels:
                for kind in kinds:
                    report = cpumix.convert(
                        checkpoint,
                        path,
                        level,
                        calibrate=calibrations[kind],
                        calibration_tokens=tokens,
                        force=True,
                    )
                    with RoutedModel(path, context=CONTEXT) as model:
                        result = evaluate(
                            model, scored, against=reference, context=CONTEXT, windows=windows
                        )
                    assert result.against is not None
                    yield {
                        "level": level,
                        "calibration": kind,
                        **sizes(path),
                        "seconds": round(report.seconds, 1),
                        "tokens": result.tokens,
                        **asdict(result.against),
                    }


def figures(row: dict[str, Any]) -> str:
    """Return what is printed of a row, in the columns of `HEAD`."""
    return (
        f"{row['weight_bytes'] / 1e6:>6.2f} "
        f"{row['bits_per_weight']:>6.2f} {row['kl_divergence']:>8.5f} "
        f"{row['kl_divergence_error']:>7.5f} {row['ratio']:>11.5f} "
        f"{100 * row['same_top']:>8.2f} %"
    )


def sizes(path: Path) -> dict[str, float]:
    """Return the bytes of a model file and of its weights, and the bits of a weight."""
    with ModelFile(path) as file:
        nbytes = sum(entry.nbytes for entry in file.tensors.values())
        bits = 8 * nbytes / weight_count(file.config)
    return {"file_bytes": path.stat().st_size, "weight_bytes": nbytes, "bits_per_weight": bits}


def chosen_kinds(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    """Return the kinds of calibration that are named in an option."""
    kinds = value.split(",")
    if wrong := set(kinds) - set(KINDS):
        raise click.BadParameter(f"expected some of {', '.join(KINDS)}, found {min(wrong)}.")
    return kinds


@click.command(help=__doc__.partition("\n")[0])
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--levels", default="int8,int4,int3,int2", show_default=True)
@click.option("--calibrations", default=",".join(KINDS), show_default=True, callback=chosen_kinds)
@click.option("--windows", type=click.IntRange(min=1), help="Score so many. Default: all.")
@click.option("--tokens", type=click.IntRange(min=1), default=16384, show_default=True)
@click.option("--json", "target", type=click.Path(path_type=Path), help="File for the result.")
def main(
    checkpoint: Path,
    text: Path,
    levels: str,
    calibrations: list[str],
    windows: int | None,
    tokens: int,
    target: Path | None,
) -> None:
    """Print a table, row by row as they are measured."""
    found, content = [], text.read_text(encoding="utf-8")
    click.echo(f"level    calibration{HEAD}")
    for row in rows(checkpoint, content, levels.split(","), calibrations, windows, tokens):
        found.append(row)
        click.echo(f"{row['level']:<8} {row['calibration']:<10} {figures(row)}")
        sys.stdout.flush()
    if target is not None:
        target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
