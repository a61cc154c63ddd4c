"""What calibration is for: predictions of a real model come nearer to the original's.

The demo model's image (demo_checkpoint.py) is converted to int3, where rounding costs enough to be
measured on few tokens. Nothing that is scored has been calibrated with.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from compare_formats import alternate
from demo_checkpoint import write_demo_checkpoint

import cpumix
from cpumix.measure.perplexity import evaluate

pytestmark = pytest.mark.slow

HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"
CONTEXT, WINDOWS, TOKENS = 512, 6, 6144


def test_calibrated_is_nearer_to_the_original(demo_model, tmp_path):
    folder = write_demo_checkpoint(tmp_path / "checkpoint", demo_model)
    scored, calibrated = alternate(HELDOUT.read_text(encoding="utf-8"))
    own = tmp_path / "own.txt"
    own.write_text(calibrated, encoding="utf-8")
    path = tmp_path / "model.bin"
    cpumix.convert(folder, tmp_path / "bf16.bin", "bf16")
    lost = []
    with cpumix.load(tmp_path / "bf16.bin", context=CONTEXT) as original:
        for calibrate in (False, True, own):
            options = {"calibrate": calibrate, "calibration_tokens": TOKENS, "force": True}
            cpumix.convert(folder, path, "int3", **options)
            with cpumix.load(path, context=CONTEXT) as model:
                found = evaluate(
                    model, scored, against=original, context=CONTEXT, windows=WINDOWS
                ).against
            lost.append(found.kl_divergence)
    plain, of_another_kind, of_its_kind = lost
    assert of_its_kind < 0.8 * plain, lost
    assert of_another_kind < plain, lost
