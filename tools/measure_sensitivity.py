"""Measure what each group of a model's matrices loses at each format: what mixes are composed by.

    python tools/measure_sensitivity.py CHECKPOINT TEXT [--windows 10] [--json FILE]

The groups are those that a mix decides on (`cpumix/memory/mixing.py`): each layer's w1 and w3, its
w2, its attention; the head; the embedding. Each in turn takes each format that it may have, while
all other matrices stay bfloat16, and the KL divergence of the predictions from the bfloat16 model's
is what the group loses alone, in nats. Windows are the first of TEXT, of 512 tokens each, and their
second halves count.

Tokens for which the router finds two experts nearly equal go to another one at any change of the
weights. Each group alone tips them, and so the losses of groups add up to more than all groups lose
together. Therefore all groups are also measured together, at each format of experts, and what a
group loses is its part of that: the losses alone, times one number for each format.

cpumix/quant/sensitivity.py holds what the demo model's checkpoint lost, to 3 digits;
tools/sensitivity.json the run that these numbers come from.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cpumix
from cpumix.measure.perplexity import Comparison, cut, evaluate
from cpumix.measure.recorded import Recorded
from cpumix.memory.mixing import DENSE_FORMATS, EXPERT_FORMATS
from cpumix.quant.precision import PRECISIONS, LayerFormats, Precision
from cpumix.store import ModelFile, ModelWriter, build_entries, build_metadata
from cpumix.store.matrices import matrices_of

CONTEXT = 512
INT6 = Precision.uniform("int6", experts="q6", dense="q6")  # no level, but a format of experts
UNIFORM = (PRECISIONS["int8"], INT6, *(PRECISIONS[name] for name in ("int4", "int3", "int2")))
Alone = dict[tuple[str, str], float]
"""Nats by group and format."""


def groups(layers: int) -> Iterator[tuple[str, str, int | None, tuple[str, ...]]]:
    """Yield name, field, layer and formats of each group."""
    for layer in range(layers):
        yield f"layer {layer} gate_up", "gate_up", layer, EXPERT_FORMATS
        yield f"layer {layer} down", "down", layer, EXPERT_FORMATS
        yield f"layer {layer} attention", "attention", layer, DENSE_FORMATS
    yield "head", "head", None, DENSE_FORMATS
    yield "embedding", "embedding", None, DENSE_FORMATS


def with_group(layers: int, field: str, layer: int | None, kind: str) -> Precision:
    """Return bfloat16 everywhere, but `kind` in one group."""
    rest = [LayerFormats("bf16", "bf16", "bf16")] * layers
    precision = Precision("one-group", "bf16", "bf16", tuple(rest))
    if layer is None:
        return replace(precision, **{field: kind})
    rest[layer] = rest[layer]._replace(**{field: kind})
    return replace(precision, layers=tuple(rest))


class Bench:
    """The files of one checkpoint at every format, and how far others made of them are off."""

    def __init__(self, checkpoint: Path, text: str, windows: int, stack: ExitStack) -> None:
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cpumix-")))
        self._text, self._windows = text, windows
        self._sources = {}
        for precision in (PRECISIONS["bf16"], *UNIFORM):
            path = self._folder / f"{precision.name}.bin"
            cpumix.convert(checkpoint, path, precision)
            file = stack.enter_context(ModelFile(path))
            for entry in file.tensors.values():
                self._sources.update({part: (file, entry) for part in entry.parts})
        model = stack.enter_context(cpumix.load(self._folder / "bf16.bin", context=CONTEXT))
        self.config, self._original = model.config, model.file
        self._reference = stack.enter_context(Recorded(model))
        for ids in cut(model.tokenizer, text, CONTEXT)[:windows]:
            self._reference.logits(ids)

    def measure(self, precision: Precision) -> Comparison:
        """Return how far a precision's predictions are from bfloat16's."""
        path = self._folder / "composed.bin"
        self._compose(path, precision)
        with cpumix.load(path, context=CONTEXT, kv="f32") as model:
            result = evaluate(
                model,
                self._text,
                against=self._reference,
                context=CONTEXT,
                windows=self._windows,
            )
        assert result.against is not None
        return result.against

    def _compose(self, path: Path, precision: Precision) -> None:
        """Write a model file of the other files' matrices: quantizing anew takes far longer."""
        original = self._original
        metadata = build_metadata(self.config, precision, original.files, precision.name)
        entries = build_entries(self.config, precision)
        with ModelWriter(path, metadata, entries, force=True) as writer:
            for entry in entries:
                for part in entry.parts:
                    writer.write(entry.name, self._bytes(part))
            writer.commit()

    def _bytes(self, part: tuple[str, str]) -> NDArray[np.uint8]:
        """Return the bytes of one matrix, of a name and a format."""
        file, tensor = self._sources[part]
        found = matrices_of(file, tensor)
        return next(matrix.data for matrix in found if (matrix.spec.name, matrix.format) == part)


def measure_all(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield a row for each group and format, then one for all groups at each format of experts."""
    layers = bench.config.num_hidden_layers
    for precision in UNIFORM:
        yield {"group": "all", "format": precision.name, **divergence(bench.measure(precision))}
    for name, field, layer, formats in groups(layers):
        for kind in formats:
            found = bench.measure(with_group(layers, field, layer, kind))
            yield {"group": name, "format": kind, **divergence(found)}


def losses(rows: Sequence[dict[str, Any]], layers: int) -> Alone:
    """Return what each group loses at each format as a part of what all lose together."""
    alone = {(row["group"], row["format"]): row["kl_divergence"] for row in rows}
    lost: Alone = {}
    for precision in UNIFORM:  # from many bits to few: what the dense part loses is known then
        taken = {
            (name, getattr(precision if layer is None else precision.layer(layer), field))
            for name, field, layer, _ in groups(layers)
        }
        known = sum(lost[key] for key in taken & lost.keys())
        new = taken - lost.keys()
        scale = (alone["all", precision.name] - known) / sum(alone[key] for key in new)
        lost |= {key: scale * alone[key] for key in new}
    for name, _, _, formats in groups(layers):  # more bits never lose more: that is noise
        for fewer, more in zip(formats[-2::-1], formats[:0:-1], strict=True):
            lost[name, fewer] = max(lost[name, fewer], lost[name, more])
    return lost


def divergence(found: Comparison) -> dict[str, float]:
    """Return the figures of a row."""
    return {
        "kl_divergence": found.kl_divergence,
        "kl_divergence_error": found.kl_divergence_error,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=10, help=f"of {CONTEXT} tokens")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    options = parser.parse_args(arguments)
    text, rows = options.text.read_text(encoding="utf-8"), []
    with ExitStack() as stack:
        for row in measure_all(Bench(options.checkpoint, text, options.windows, stack)):
            rows.append(row)
            error = row["kl_divergence_error"]
            told = f"{row['kl_divergence']:.6f} +- {error:.6f} nats"
            print(f"{row['group']:<18} {row['format']:<5} {told}", flush=True)
    layers = sum(row["group"].endswith("gate_up") for row in rows) // len(EXPERT_FORMATS)
    lost = losses(rows, layers)
    print("\nAs parts of what all lose together, in nats:")
    for name, _, _, formats in groups(layers):
        print(f"{name:<18} " + "  ".join(f"{kind} {lost[name, kind]:.3g}" for kind in formats))
    if options.json:
        result = {
            "checkpoint": options.checkpoint.resolve().name,
            "text": options.text.name,
            "windows": options.windows,
            "context": CONTEXT,
            "the rest": "bf16",
            "rounding": "data-free",
            "alone": rows,
            "losses": {
                name: {kind: lost[name, kind] for kind in formats}
                for name, _, _, formats in groups(layers)
            },
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
