"""The program that measures batches: that it ends, and says what it compares."""

from __future__ import annotations

import re

import measure_batch
import pytest


@pytest.mark.slow
def test_batch_beside_bench(capsys):
    options = ["--parallel", "2", "--threads", "1", "--lines", "3", "--tokens", "4"]
    assert measure_batch.main([*options, "--rounds", "1"]) == 0
    told = r"a batch: [\d.]+ tok/s\nbench --parallel 2: [\d.]+ tok/s\na batch has [\d.]+ of the sp"
    assert re.match(told, capsys.readouterr().out)
