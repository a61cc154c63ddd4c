"""Draw what a trace of the expert pager says, as a PNG.

    cpumix run model.bin -p "Once upon a time" --ram 16G --trace trace.tsv
    python tools/plot_paging.py trace.tsv paging.png [--window 16]

Above: the memory that experts take, after each token. Below: the share of experts that each token
found in memory, averaged over a window, and where each layer's misses fall. Needs matplotlib:
pip install 'cpumix[plot]'.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.experts.trace import COLUMNS
from cpumix.units import GIB

WINDOW = 16  # tokens


class Passes(NamedTuple):
    """A trace by passes of the model, P in all, of one token each or a prompt's many."""

    ends: NDArray[np.int64]  # (P,) tokens of the trace up to the end of each
    resident: NDArray[np.int64]  # (P,) bytes of experts in memory after it
    hits: NDArray[np.int64]  # (P, layers)
    uses: NDArray[np.int64]  # (P, layers)


def read_trace(lines: Iterable[str]) -> Passes:
    """Read a trace's lines; SystemExit says what is wrong with them."""
    rows = csv.reader(lines, delimiter="\t")
    if (found := tuple(next(rows, ()))) != COLUMNS:
        raise SystemExit(f"trace: expected the columns {', '.join(COLUMNS)}, found {found}.")
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows if len(row) == len(COLUMNS)]
    layers = 1 + max((int(r["layer"]) for r in records), default=-1)
    passes = (
        [records[i : i + layers] for i in range(0, len(records) - layers + 1, layers or 1)]
        if layers
        else []
    )
    if not passes:
        raise SystemExit("trace: expected a line for each layer and token, found no whole token.")
    found_by_layer = [[r["found"].split(",") for r in records] for records in passes]
    return Passes(
        ends=np.cumsum([int(records[0]["tokens"]) for records in passes]),
        resident=np.array([int(records[-1]["resident_bytes"]) for records in passes]),
        hits=np.array([[f.count("hit") for f in found] for found in found_by_layer]),
        uses=np.array([[len(f) for f in found] for found in found_by_layer]),
    )


def smooth(values: NDArray[np.float64], weights: NDArray[np.int64], window: int):  # type: ignore[no-untyped-def]
    """Return the weighted mean of each value and those before it, `window` in all."""
    ones = np.ones(min(window, len(values)))
    total = np.convolve(values * weights, ones)[: len(values)]
    return total / np.convolve(weights, ones)[: len(values)]


def draw(passes: Passes, target: Path, window: int) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, middle, below) = pyplot.subplots(
        3, 1, sharex=True, figsize=(10, 8), height_ratios=(2, 2, 3), layout="constrained"
    )
    starts = np.concatenate([[0], passes.ends])
    above.stairs(passes.resident / GIB, starts, fill=True, color="tab:blue", alpha=0.6)
    above.set_ylabel("experts in memory, GiB")
    hits, uses = passes.hits.sum(axis=1), passes.uses.sum(axis=1)
    middle.stairs(100 * hits / uses, starts, color="lightgray")
    middle.stairs(100 * smooth(hits / uses, uses, window), starts, color="tab:green")
    middle.set_ylabel(f"hit rate, %\n(mean of {window} passes)")
    middle.set_ylim(0, 102)
    misses = (passes.uses - passes.hits).T  # (layers, P)
    mesh = below.pcolormesh(starts, np.arange(len(misses) + 1), misses, cmap="OrRd", vmin=0)
    below.set_ylabel("layer")
    below.set_xlabel("tokens")
    figure.colorbar(mesh, ax=below, label="experts read", location="bottom", shrink=0.4)
    whole = 100 * hits.sum() / uses.sum()
    figure.suptitle(f"{passes.ends[-1]} tokens, {len(misses)} layers, {whole:.1f} % hits")
    figure.savefig(target, format="png", dpi=100)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Read a trace and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path, help="What `cpumix run --trace` wrote.")
    parser.add_argument("target", type=Path, help="The PNG to write.")
    parser.add_argument("--window", type=int, default=WINDOW, help="Passes to average over.")
    options = parser.parse_args(arguments)
    with open(options.trace, encoding="utf-8", newline="") as stream:
        passes = read_trace(stream)
    draw(passes, options.target, options.window)
    print(f"{options.target}: {len(passes.ends)} passes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
