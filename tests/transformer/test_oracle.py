"""cpumix answers as transformers did: logits within the promised tolerance, the same greedy text.

`make oracle` does the same with transformers itself instead of the golden files.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from oracle_cases import CASES, LOGITS_TOLERANCE, Case, Golden, ask_cpumix, shards_crc

pytestmark = pytest.mark.slow

SEEDLING = os.environ.get("CPUMIX_SEEDLING")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cpumix_equals_transformers(case: Case, tmp_path: Path) -> None:
    golden = Golden.load(case.name)
    logits, greedy = ask_cpumix(case.write(tmp_path), golden.prompt, case.greedy_tokens)
    assert logits.shape == (len(golden.prompt), case.config["vocab_size"])
    assert golden.error(logits) <= LOGITS_TOLERANCE
    np.testing.assert_array_equal(greedy, golden.greedy)


@pytest.mark.skipif(not SEEDLING, reason="CPUMIX_SEEDLING does not name the seedling's folder")
def test_cpumix_equals_transformers_on_a_trained_model() -> None:
    folder = Path(str(SEEDLING))
    golden = Golden.load("seedling")
    assert shards_crc(folder) == golden.weights, "not the seedling these answers were recorded from"
    logits, greedy = ask_cpumix(folder, golden.prompt)
    assert golden.error(logits) <= LOGITS_TOLERANCE
    np.testing.assert_array_equal(greedy, golden.greedy)


def test_error_is_relative_and_covers_the_kept_rows_and_columns() -> None:
    golden = Golden.load("prompt-3000")
    assert golden.rows[0] == 0
    assert golden.rows[-1] == 2999
    logits = np.zeros((3000, 384), dtype=np.float32)
    logits[np.ix_(golden.rows, golden.columns)] = golden.logits * np.float32(1.01)
    assert golden.error(logits) == pytest.approx(0.01, rel=1e-3)
