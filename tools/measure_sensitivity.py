"""Measure what each group of a model's matrices loses at each format: what mixes are composed by.

    python tools/measure_sensitivity.py CHECKPOINT TEXT [--windows 10] [--json FILE]

The groups are those that a mix decides on (`cpumix/memory/mixing.py`): each layer's w1 and w3, its
w2, its attention; the head; the embedding. Each in turn takes each format that it may have, while
all other matrices stay bfloat16, and the KL divergence of the predictions from the bfloat16 model's
is what the group loses, in nats. Windows are the first of TEXT, of 512 tokens each, and their
second halves count. The last rows hold the levels against the sums of their groups, which is how
far losses add up.

cpumix/quant/sensitivity.py holds what the demo model's checkpoint lost, tools/sensitivity.json the
run that the numbers come from.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import cpumix
from cpumix.measure.perplexity import Comparison, cut, evaluate
from cpumix.measure.recorded import Recorded
from cpumix.memory.mixing import DENSE_FORMATS, EXPERT_FORMATS
from cpumix.quant import nbytes as tensor_bytes
from cpumix.quant.precision import PRECISIONS, LayerFormats, Precision
from cpumix.store import ModelFile, ModelWriter, build_entries, build_metadata

CONTEXT = 512
LEVELS = ("int8", "int4", "int3", "int2")
UNIFORM = (*(PRECISIONS[name] for name in ("bf16", *LEVELS)),
           Precision.uniform("int6", experts="q6", dense="q6"))  # fmt: skip


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
        for precision in UNIFORM:
            path = self._folder / f"{precision.name}.bin"
            cpumix.convert(checkpoint, path, precision)
            file = stack.enter_context(ModelFile(path))
            for entry in file.tensors.values():
                self._sources.update({part: (file, entry.name) for part in entry.parts})
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

    def _bytes(self, part: tuple[str, str]) -> memoryview:
        """Return the bytes of one matrix, of a name and a format."""
        file, holder = self._sources[part]
        entry, start = file.tensors[holder], 0
        shapes = {spec.name: spec.shape for spec in self.config.tensors()}
        for other in entry.parts:
            nbytes = tensor_bytes(other[1], shapes[other[0]])
            if other == part:
                return memoryview(file.data(holder))[start : start + nbytes]
            start += nbytes
        raise AssertionError(part)


def measure_all(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yield a row for each group and format, then one for each level and the sum of its groups."""
    layers, lost = bench.config.num_hidden_layers, {}
    for name, field, layer, formats in groups(layers):
        for kind in formats:
            found = bench.measure(with_group(layers, field, layer, kind))
            lost[field, layer, kind] = found.kl_divergence
            yield {"group": name, "format": kind, **divergence(found)}
    for level in LEVELS:
        found = bench.measure(PRECISIONS[level])
        total = sum(
            lost[field, layer, format_of(PRECISIONS[level], field, layer)]
            for _, field, layer, _ in groups(layers)
        )
        yield {"group": "all", "format": level, **divergence(found), "sum_of_groups": total}


def format_of(precision: Precision, field: str, layer: int | None) -> str:
    """Return the format that a precision gives to a group."""
    found: str = getattr(precision if layer is None else precision.layer(layer), field)
    return found


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
            told = "".join(f"{name} {row[name]:.6f}  " for name in list(row)[2:])
            print(f"{row['group']:<18} {row['format']:<5} {told}", flush=True)
    if options.json:
        result = {
            "checkpoint": options.checkpoint.resolve().name,
            "text": options.text.name,
            "windows": options.windows,
            "context": CONTEXT,
            "the rest": "bf16",
            "rounding": "data-free",
            "losses": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
