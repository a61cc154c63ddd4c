"""Measure llama.cpp's own types beside ours: the rows that compare_formats.py has, made by it.

    pip install '.[llama]'
    python tools/compare_llama_types.py CHECKPOINT TEXT [--types Q8_0,Q4_K_S,Q3_K_M] [--json FILE]

CHECKPOINT is exported as bfloat16, llama.cpp quantizes that to each type (without an importance
matrix) and computes the predictions of all of TEXT, which are compared with its own for the
bfloat16 weights, as llama-perplexity --kl-divergence does. See docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_gguf
import numpy as np
from compare_formats import HEAD, figures
from numpy.typing import NDArray

import cpumix
from cpumix.checkpoint.containers.gguf import read_gguf
from cpumix.config import ModelConfig
from cpumix.measure.perplexity import evaluate
from cpumix.measure.recorded import Recorded
from cpumix.memory.sizes import weight_count
from cpumix.tokenizer import Tokenizer

CONTEXT = 512
TYPES = ("Q8_0", "Q4_0", "IQ4_NL", "Q4_K_S", "Q4_K_M", "Q3_K_M", "Q2_K")


class Theirs:
    """A GGUF file in llama.cpp, with the tokens of ours."""

    def __init__(self, path: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
        import llama_cpp

        self.config, self.tokenizer = config, tokenizer
        self._model = llama_cpp.Llama(
            str(path), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False
        )

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (len(ids), vocab_size)."""
        self._model.reset()
        self._model.eval(list(ids))
        return np.array(self._model.scores[: len(ids)], np.float32)


def rows(
    checkpoint: Path, text: str, types: Sequence[str], windows: int | None
) -> Iterator[dict[str, Any]]:
    """Yield what each type costs."""
    with tempfile.TemporaryDirectory(prefix="cpumix-types-") as folder:
        ours, original, path = (Path(folder) / name for name in ("m.bin", "bf16.gguf", "m.gguf"))
        cpumix.convert(checkpoint, ours, "bf16")
        cpumix.export(ours, original)
        with cpumix.load(ours, context=CONTEXT) as model:
            own = model.config, model.tokenizer
        with Recorded(Theirs(original, *own)) as reference:
            for kind in types:
                llama_gguf.quantize(original, path, kind)
                found = evaluate(
                    Theirs(path, *own), text, against=reference, context=CONTEXT, windows=windows
                )
                assert found.against is not None
                weights = sum(tensor.nbytes for tensor in read_gguf(path).tensors.values())
                yield {
                    "level": kind,
                    "calibration": "llama.cpp",
                    "file_bytes": path.stat().st_size,
                    "weight_bytes": weights,
                    "bits_per_weight": 8 * weights / weight_count(own[0]),
                    "tokens": found.tokens,
                    **asdict(found.against),
                }


def main(arguments: list[str] | None = None) -> int:
    """Print a table, row by row as they are measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--windows", type=int, help="of 512 tokens; all of the text if not given")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args(arguments)
    found, text = [], options.text.read_text(encoding="utf-8")
    print(f"type     {HEAD}")
    for row in rows(options.checkpoint, text, options.types.split(","), options.windows):
        found.append(row)
        print(f"{row['level']:<8} {figures(row)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
