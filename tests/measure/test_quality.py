"""What quantizing costs: predictions of held-out text at int8 and int4, against bfloat16's.

The demo model's original checkpoint is too large to keep here, so that the ordinary run measures a
checkpoint in its image (demo_checkpoint.py), on a fifth of the held-out text. Every processor gets
the same bits, so its limits are what was measured and a little more: with 2 candidates for int4's
scales instead of 16, the divergence is 0.00577. When CPUMIX_SEEDLING names the original's folder,
it is measured too, on all of its heldout.txt; there the limits are what llama.cpp loses with
formats of the same size (Q8_0, IQ4_NL).

data/heldout.txt is every fifth 4 KiB of that text, which the model was not trained on: parts of the
King James Bible, the Jargon File 4.4.7 and The Devil's Dictionary, all in the public domain.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from demo_checkpoint import write_demo_checkpoint
from numpy.typing import NDArray

import cpumix
from cpumix.measure.perplexity import Comparison, evaluate
from cpumix.model import Model

SEEDLING = os.environ.get("CPUMIX_SEEDLING")
HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"
CONTEXT = 512


class Limits(NamedTuple):
    """The most that a precision may lose."""

    ratio: float  # of the perplexity to bfloat16's
    kl_divergence: float  # from bfloat16's predictions, nats


IMAGE = {"int8": Limits(1.0001, 0.00060), "int4": Limits(1.0037, 0.0054)}
LLAMA_CPP = {"int8": Limits(1.001, 0.0006), "int4": Limits(1.005, 0.0085)}


class Reference:
    """A model that remembers its logits, which both precisions are compared with."""

    def __init__(self, model: Model) -> None:
        self.config, self.tokenizer, self._model = model.config, model.tokenizer, model
        self._known: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        if (key := tuple(ids)) not in self._known:
            self._known[key] = self._model.logits(ids)
        return self._known[key]


@contextmanager
def converted(folder: Path, precision: str, scratch: Path) -> Iterator[Model]:
    path = scratch / f"{precision}.bin"
    cpumix.convert(folder, path, precision)
    with cpumix.load(path, context=CONTEXT) as model:
        yield model


def check(folder: Path, text: Path, limits: dict[str, Limits], scratch: Path) -> Comparison:
    """Compare both precisions with bfloat16; return the last comparison."""
    words = text.read_text(encoding="utf-8")
    with converted(folder, "bf16", scratch) as original:
        reference = Reference(original)
        for precision, most in limits.items():
            with converted(folder, precision, scratch) as model:
                found = evaluate(model, words, against=reference, context=CONTEXT).against
            assert found is not None
            print(precision, found)
            assert found.ratio <= most.ratio
            assert found.kl_divergence <= most.kl_divergence
    return found


@pytest.mark.slow
def test_image_of_the_original(demo_model: Path, tmp_path: Path) -> None:
    folder = write_demo_checkpoint(tmp_path / "checkpoint", demo_model)
    found = check(folder, HELDOUT, IMAGE, tmp_path)
    assert found.perplexity == pytest.approx(27.241, abs=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not SEEDLING, reason="CPUMIX_SEEDLING does not name the seedling's folder")
def test_original(tmp_path: Path) -> None:
    folder = Path(str(SEEDLING))
    found = check(folder, folder / "heldout.txt", LLAMA_CPP, tmp_path)
    assert found.perplexity == pytest.approx(25.07, abs=0.01)  # llama.cpp's
