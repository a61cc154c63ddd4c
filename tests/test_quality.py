"""What quantizing costs: predictions of held-out text at int8 and int4, against bfloat16's.

The limits are what llama.cpp loses with formats of the same size on the demo model's original
checkpoint (Q8_0, IQ4_NL). The original is too large to keep here, so that the ordinary run measures
a checkpoint in its image (demo_checkpoint.py), on a fifth of the held-out text. When
CPUMIX_SEEDLING names the original's folder, it is measured too, on all of its heldout.txt.

data/heldout.txt is every fifth 4 KiB of that text, which the model was not trained on: parts of the
King James Bible, the Jargon File 4.4.7 and The Devil's Dictionary, all in the public domain.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from demo_checkpoint import write_demo_checkpoint

import cpumix
from cpumix.evaluate import evaluate

SEEDLING = os.environ.get("CPUMIX_SEEDLING")
HELDOUT = Path(__file__).parent / "data" / "heldout.txt"
CONTEXT = 512
MOST_RATIO = {"int8": 1.001, "int4": 1.005}  # of the perplexity to bfloat16's
MOST_DIVERGENCE = {"int8": 0.0006, "int4": 0.0085}  # KL from bfloat16's predictions, nats


class Subject(NamedTuple):
    """A checkpoint and a text, and what to expect of them."""

    folder: Path
    text: Path
    perplexity: float  # of the original at bfloat16
    tolerance: float
    doubt: float  # standard errors by which a short text may exceed a limit


@pytest.fixture(scope="module")
def image(tmp_path_factory, demo_model) -> Subject:
    folder = write_demo_checkpoint(tmp_path_factory.mktemp("checkpoint"), demo_model)
    return Subject(folder, HELDOUT, perplexity=27.23, tolerance=0.1, doubt=2)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_image_of_the_original(image: Subject, precision: str, tmp_path: Path) -> None:
    check(image, precision, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not SEEDLING, reason="CPUMIX_SEEDLING does not name the seedling's folder")
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_original(precision: str, tmp_path: Path) -> None:
    folder = Path(str(SEEDLING))
    llama_cpp = 25.07
    original = Subject(folder, folder / "heldout.txt", llama_cpp, tolerance=0.01, doubt=0)
    check(original, precision, tmp_path)


def check(subject: Subject, precision: str, scratch: Path) -> None:
    paths = {name: scratch / f"{name}.bin" for name in (precision, "bf16")}
    for name, path in paths.items():
        cpumix.convert(subject.folder, path, precision=name)
    text = subject.text.read_text(encoding="utf-8")
    with (
        cpumix.load(paths[precision], context=CONTEXT) as model,
        cpumix.load(paths["bf16"], context=CONTEXT) as reference,
    ):
        found = evaluate(model, text, against=reference, context=CONTEXT).against
    assert found is not None
    print(found)
    assert found.perplexity == pytest.approx(subject.perplexity, abs=subject.tolerance)
    assert found.ratio - subject.doubt * found.ratio_error <= MOST_RATIO[precision]
    divergence = found.kl_divergence - subject.doubt * found.kl_divergence_error
    assert divergence <= MOST_DIVERGENCE[precision]
