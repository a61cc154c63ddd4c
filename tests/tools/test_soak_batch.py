"""The program that kills batches, with a few kills."""

from __future__ import annotations

import random

import pytest
import soak_batch
from tiny_models import CONFIGS, write_model


@pytest.mark.slow
def test_killed_batches_end_with_the_same_bytes(tmp_path, capsys):
    model = write_model(tmp_path, CONFIGS["moe"])
    assert soak_batch.main(["--lines", "40", "--kills", "3", "--model", str(model)]) == 0
    assert "40 answers, the same; 0 parts done again" in capsys.readouterr().out


def test_lines_are_the_same_each_time():
    made = soak_batch.make_lines(50, random.Random(3))
    assert made == soak_batch.make_lines(50, random.Random(3))
    assert any(line in soak_batch.FAULTS for line in made.splitlines())
