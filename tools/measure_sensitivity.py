"""Measure which layers' experts suffer most from 4 bits, and how well mixes of 4 and 8 bits do.

    python tools/measure_sensitivity.py CHECKPOINT TEXT [--windows 60] [--json FILE]

Predictions on TEXT are compared with those of the bfloat16 model, with the model's own routing:

- sensitivity of a layer: the KL divergence with int4 experts in this layer only, int8 elsewhere,
  minus that of the int8 model;
- curve: the KL divergence of every mix, layers put at 8 bits in the order of sensitivity,
  against the straight line between int4 and int8 over the file's bytes.

The text's first half gives the sensitivities and the second half the curve, so that the order is
not judged by the text that chose it. cpumix/quant/sensitivity.py holds the profile of the demo
model's checkpoint, tools/sensitivity.json the run that it came from.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cpumix
from cpumix.measure.perplexity import Evaluation, cut, evaluate
from cpumix.quant.precision import PRECISIONS, Precision, mix
from cpumix.store import ModelFile, ModelWriter, build_entries, build_metadata

CONTEXT = 512


class Recorded:
    """A model's logits for some windows, kept, so that a reference runs only once."""

    def __init__(self, model: cpumix.model.Model, windows: Sequence[Sequence[int]]) -> None:
        self.config, self.tokenizer = model.config, model.tokenizer
        self._kept = {tuple(ids): model.logits(ids).astype(np.float32) for ids in windows}

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Return what the model said of this window."""
        return self._kept[tuple(ids)]


def compose(target: Path, low: Path, high: Path, raised: Sequence[int]) -> Precision:
    """Write the int4 file `low` with these layers' experts from the int8 file `high`."""
    everything = len(raised) == ModelFile(low).config.num_hidden_layers
    precision = PRECISIONS["int8"] if everything else mix(raised) if raised else PRECISIONS["int4"]
    with ModelFile(low) as low_file, ModelFile(high) as high_file:
        config, name = low_file.config, low_file.metadata["general.name"]
        entries = build_entries(config, precision)
        metadata = build_metadata(config, precision, low_file.files, name)
        with ModelWriter(target, metadata, entries, force=True) as writer:
            for entry in entries:
                same = entry.format == low_file.tensors[entry.name].format
                writer.write(entry.name, (low_file if same else high_file).data(entry.name))
            writer.commit()
    return precision


class Bench:
    """The files of one checkpoint at every mix, and how far each is from the original."""

    def __init__(self, checkpoint: Path, text: str, windows: int, folder: Path) -> None:
        self._folder, self._text, self._windows = folder, text, windows
        self.files = {}
        for precision in ("bf16", "int8", "int4"):
            self.files[precision] = folder / f"{precision}.bin"
            cpumix.convert(checkpoint, self.files[precision], precision, force=True)
        with cpumix.load(self.files["bf16"], context=CONTEXT) as model:
            self.layers = model.config.num_hidden_layers
            self._reference = Recorded(model, cut(model.tokenizer, text, CONTEXT)[:windows])

    def measure(self, raised: Sequence[int]) -> tuple[Evaluation, int]:
        """Return how a mix predicts the text, and its file's bytes."""
        path = self._folder / "mix.bin"
        compose(path, self.files["int4"], self.files["int8"], raised)
        with cpumix.load(path, context=CONTEXT) as model:
            result = evaluate(
                model,
                self._text,
                against=self._reference,
                context=CONTEXT,
                windows=self._windows,
            )
        return result, path.stat().st_size


def sensitivities(bench: Bench) -> Iterator[float]:
    """Yield each layer's sensitivity in nats."""
    every = range(bench.layers)
    base = divergence(bench.measure(every)[0])
    for layer in every:
        yield divergence(bench.measure([other for other in every if other != layer])[0]) - base


def divergence(result: Evaluation) -> float:
    """Return the KL divergence from the reference, in nats a token."""
    assert result.against is not None
    return result.against.kl_divergence


def curve(bench: Bench, order: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield a row for every number of layers at 8 bits, and the straight line beside it."""
    ends = [bench.measure(raised) for raised in ([], range(bench.layers))]
    (low, low_bytes), (high, high_bytes) = [(divergence(e), size) for e, size in ends]
    for count in range(bench.layers + 1):
        result, size = bench.measure(order[:count])
        share = (size - low_bytes) / (high_bytes - low_bytes)
        assert result.against is not None
        yield {
            "raised": sorted(order[:count]),
            "file_bytes": size,
            "kl_divergence": divergence(result),
            "kl_divergence_error": result.against.kl_divergence_error,
            "line": low + share * (high - low),
            "perplexity_ratio": result.against.ratio,
        }


def halves(text: str) -> tuple[str, str]:
    """Cut a text in two, at the end of a line."""
    middle = text.index("\n", len(text) // 2)
    return text[:middle], text[middle:]


def main() -> int:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=60, help="of 512 tokens, in each half")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    options = parser.parse_args()
    first, second = halves(options.text.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="cpumix-sensitivity-") as folder:
        bench = Bench(options.checkpoint, first, options.windows, Path(folder))
        profile = []
        for layer, value in enumerate(sensitivities(bench)):
            profile.append(value)
            print(f"layer {layer:>3}  {value:.6f} nats", flush=True)
        order = sorted(range(len(profile)), key=lambda layer: -profile[layer])
        bench = Bench(options.checkpoint, second, options.windows, Path(folder))
        rows = []
        for row in curve(bench, order):
            rows.append(row)
            print(
                f"{len(row['raised']):>3} layers at int8  {row['file_bytes']:>12,} bytes  "
                f"KL {row['kl_divergence']:.6f} +- {row['kl_divergence_error']:.6f}  "
                f"line {row['line']:.6f}  perplexity x {row['perplexity_ratio']:.5f}",
                flush=True,
            )
    if options.json:
        result = {
            "checkpoint": options.checkpoint.resolve().name,
            "text": options.text.name,
            "windows": options.windows,
            "context": CONTEXT,
            "sensitivity": profile,
            "curve": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
