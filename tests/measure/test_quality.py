"""What quantizing costs: predictions of held-out text at each level, against bfloat16's.

The demo model's original checkpoint is too large to keep here, so that the ordinary run measures a
checkpoint in its image (demo_checkpoint.py), on a fifth of the held-out text. Every processor gets
the same bits, so the limits are what was measured, rounded up in the third digit. When
CPUMIX_SEEDLING names the original's folder, it is measured too, on all of its heldout.txt, and with
mixes of the bytes that llama.cpp's Q3_K_M and Q2_K have; what these and others lose is in
docs/accuracy.md.

data/heldout.txt is every fifth 4 KiB of that text, which the model was not trained on: parts of the
King James Bible, the Jargon File 4.4.7 and The Devil's Dictionary, all in the public domain.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from demo_checkpoint import write_demo_checkpoint

import cpumix
from cpumix.measure.comparison import Comparison
from cpumix.measure.perplexity import evaluate
from cpumix.measure.recorded import Recorded
from cpumix.model import Model

SEEDLING = os.environ.get("CPUMIX_SEEDLING")
HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"
CONTEXT = 512


class Limits(NamedTuple):
    """The most that a precision may lose."""

    ratio: float  # of the perplexity to bfloat16's
    kl_divergence: float  # from bfloat16's predictions, nats


IMAGE = {
    "int8": Limits(1.0000, 0.000592),
    "int4": Limits(1.0007, 0.00553),
    "int3": Limits(1.0124, 0.0187),
    "int2": Limits(1.0887, 0.101),
}
ORIGINAL = {
    "int8": Limits(1.0003, 0.00054),
    "int4": Limits(1.0034, 0.00541),
    "mix-4.48": Limits(1.0046, 0.0110),
    "int3": Limits(1.0124, 0.0182),
    "mix-3.66": Limits(1.0309, 0.0497),
    "int2": Limits(1.0838, 0.0995),
}


@contextmanager
def converted(folder: Path, precision: str, scratch: Path) -> Iterator[Model]:
    path = scratch / f"{precision}.bin"
    cpumix.convert(folder, path, precision)
    with cpumix.load(path, context=CONTEXT) as model:
        yield model


def check(folder: Path, text: Path, limits: dict[str, Limits], scratch: Path) -> Comparison:
    """Compare each precision with bfloat16; return the last comparison."""
    words = text.read_text(encoding="utf-8")
    with converted(folder, "bf16", scratch) as original, Recorded(original) as reference:
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
    found = check(folder, folder / "heldout.txt", ORIGINAL, tmp_path)
    assert found.perplexity == pytest.approx(25.07, abs=0.01)  # llama.cpp's
