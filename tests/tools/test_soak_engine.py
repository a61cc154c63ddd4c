"""The soak of the engine: a short one, and that it sees what goes wrong."""

from __future__ import annotations

import pytest
import soak_engine
from soaking import MemoryWatch


@pytest.mark.slow
def test_short_soak_finds_nothing(capsys):
    options = ["--minutes", "0.05", "--parallel", "4", "--context", "256"]
    assert soak_engine.main(options) == 0
    assert "no fault" in capsys.readouterr().out


def test_faults_are_told(capsys, monkeypatch):
    run, memory = soak_engine.Soak.__new__(soak_engine.Soak), MemoryWatch(int, 1)
    run.whole, run.broken, run.faults = 3, 1, ["prompt 5 gave another text than before"]
    memory.samples = [1 << 30] * 8 + [3 << 30] * 8
    monkeypatch.setattr(soak_engine, "soak", lambda *arguments: (run, memory))
    assert soak_engine.main(["--ram", "2G"]) == 1
    out = capsys.readouterr().out
    assert "prompt 5 gave another text than before" in out
    assert "3.0 GiB of memory, above 2.0 GiB" in out
