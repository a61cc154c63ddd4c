"""Draw quality against bits, from results of tools/compare_formats.py.

    python tools/plot_quality.py tools/quality.json docs/quality.svg

Across: bits of a weight, the mean of the whole model. Upwards: the KL divergence from the original,
on a logarithmic scale; lower is better. A line for each kind of calibration, and points for the
types of llama.cpp. Needs matplotlib: pip install 'cpumix[plot]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
THEIRS = "llama.cpp"
LINES = {  # calibration of a row: its label, color and marker
    THEIRS: ("llama.cpp", "#8a8a8a", "s"),
    "none": ("cpumix", "#3b6fb6", "o"),
    "shipped": ("cpumix, calibrated with its own text", "#e08a2e", "^"),
    "same": ("cpumix, calibrated with text of the same kind", "#3f9b5f", "v"),
}


def of_kind(rows: list[Row], kind: str) -> list[Row]:
    """Return the rows of one kind of calibration, or of llama.cpp."""
    return [row for row in rows if row["calibration"] == kind]


def labels(rows: list[Row]) -> Iterator[tuple[str, float, float, bool]]:
    """Yield names, place, and whether they are ours.

    A level's is at its lowest point; types of llama.cpp that have the same bytes share one.
    """
    for row in of_kind(rows, "none"):
        lowest = min(r["kl_divergence"] for r in rows if r["level"] == row["level"])
        yield row["level"], row["bits_per_weight"], lowest, True
    groups: dict[int, list[Row]] = {}
    for row in of_kind(rows, THEIRS):
        groups.setdefault(row["weight_bytes"], []).append(row)
    for group in groups.values():
        highest = max(row["kl_divergence"] for row in group)
        names = ", ".join(row["level"] for row in group)
        yield names, group[0]["bits_per_weight"], highest, False


def draw(rows: list[Row], target: Path) -> None:
    """Write the figure, in the format that the target's name ends in."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # The same file from the same numbers: no random names, no date, letters as letters.
    plt.rcParams.update({"svg.hashsalt": "cpumix", "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for kind, (label, color, marker) in LINES.items():
        points = sorted((r["bits_per_weight"], r["kl_divergence"]) for r in of_kind(rows, kind))
        if not points:
            continue
        style = "none" if kind == THEIRS else "-"
        axes.plot(
            *zip(*points, strict=True), linestyle=style, color=color, marker=marker, label=label
        )
    for names, x, y, is_ours in labels(rows):
        color = LINES["none" if is_ours else THEIRS][1]
        at, side = ((-7, -10), "right") if is_ours else ((7, -3), "left")
        if "," in names:  # a second point is near
            at = (2, -15)
        axes.annotate(names, (x, y), at, textcoords="offset points", ha=side, color=color, size=8)
    axes.margins(x=0.1, y=0.12)
    axes.set_xlabel("bits of a weight, of all matrices")
    axes.set_ylabel("KL divergence from bfloat16, nats")
    axes.set_yscale("log")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    metadata = {"Date": None} if target.suffix == ".svg" else None
    figure.savefig(target, dpi=120, metadata=metadata)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Read, draw, and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="of compare_formats.py --json")
    parser.add_argument("target", type=Path, help="file.svg or file.png")
    options = parser.parse_args(arguments)
    rows = [row for path in options.results for row in json.loads(path.read_text("utf-8"))]
    draw(rows, options.target)
    print(f"{len(rows)} rows drawn to {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
