"""The perplexity of llama.cpp itself, on the same weights: only where llama-cpp-python is.

    pip install '.[llama]' && pytest tests/measure/test_perplexity_llama_cpp.py

Its logits are scored here the way that llama-perplexity does it (tools/perplexity/perplexity.cpp):
its own tokenizer, windows of n_ctx tokens that know nothing of each other, the first token of each
replaced by BOS, and of each window the losses of the second half's tokens but the first.
CPUMIX_SEEDLING names the folder of the checkpoint that the demo model was converted from: it is
measured on all of its heldout.txt if it is there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from demo_checkpoint import write_demo_checkpoint

import cpumix
from cpumix.measure.perplexity import evaluate

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"
SEEDLING = os.environ.get("CPUMIX_SEEDLING")
CONTEXT = 512
DIGITS = 2e-4  # half of the fourth; llama.cpp rounds what it multiplies bfloat16 weights with


def losses(path: Path, text: str, windows: int | None) -> Iterator[float]:
    """Yield the loss of each scored token of a text in llama.cpp."""
    theirs = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False
    )
    ids = theirs.tokenize(text.encode(), add_bos=True, special=False)
    for first in list(range(0, len(ids) - CONTEXT + 1, CONTEXT))[:windows]:
        window = [theirs.token_bos(), *ids[first + 1 : first + CONTEXT]]
        theirs.reset()
        theirs.eval(window)
        for place in range(CONTEXT // 2, CONTEXT - 1):
            logits = np.asarray(theirs.scores[place], np.float64)
            logits -= logits.max()
            yield math.log(np.exp(logits).sum()) - logits[window[place + 1]]


def compare(checkpoint: Path, text: Path, windows: int | None, folder: Path) -> float:
    """Hold our perplexity against theirs, to 4 digits; return theirs."""
    words = text.read_text(encoding="utf-8")
    cpumix.convert(checkpoint, folder / "m.bin", "bf16")
    cpumix.export(folder / "m.bin", folder / "m.gguf")
    with cpumix.load(folder / "m.bin", context=CONTEXT) as model:
        ours = evaluate(model, words, context=CONTEXT, windows=windows)
    found = list(losses(folder / "m.gguf", words, windows))
    theirs = float(np.exp(np.mean(found)))
    print(f"perplexity {ours.perplexity:.5f}, llama.cpp {theirs:.5f}, {len(found)} tokens")
    assert len(found) == ours.tokens
    assert ours.perplexity == pytest.approx(theirs, rel=DIGITS)
    return theirs


def test_image_of_the_original(demo_model: Path, tmp_path: Path) -> None:
    folder = write_demo_checkpoint(tmp_path / "checkpoint", demo_model)
    compare(folder, HELDOUT, 8, tmp_path)


@pytest.mark.skipif(not SEEDLING, reason="CPUMIX_SEEDLING does not name the seedling's folder")
def test_original(tmp_path: Path) -> None:
    folder = Path(str(SEEDLING))
    theirs = compare(folder, folder / "heldout.txt", None, tmp_path)
    assert theirs == pytest.approx(25.07, abs=0.01)  # what llama-perplexity prints
