"""Which level a process runs at, from what the processor offers and what the user asks for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cpumix.errors import UnsupportedCpu
from cpumix.kernels.compile import isa
from cpumix.kernels.compile.isa import LEVELS, choose


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_level_that_is_forced_or_the_best(level):
    assert choose(level.name, frozenset(level.features)) is level
    assert choose(None, frozenset(level.features)) is level


def test_lower_level_can_be_forced():
    everything = frozenset().union(*(level.features for level in LEVELS))
    for level in LEVELS:
        assert choose(level.name, everything) is level


@pytest.mark.parametrize(
    ("triple", "system", "hardware", "features"),
    [
        ("aarch64-unknown-linux-gnu", "linux", isa.HWCAP_ASIMDDP, {"neon", "dotprod"}),
        ("aarch64-unknown-linux-gnu", "linux", 0, {"neon"}),
        ("arm64-apple-darwin24.0.0", "darwin", None, {"neon", "dotprod"}),
        ("aarch64-pc-windows-msvc", "win32", None, {"neon"}),
        ("x86_64-unknown-linux-gnu", "linux", isa.HWCAP_ASIMDDP, set()),
    ],
)
def test_arm_features_come_from_the_system(monkeypatch, triple, system, hardware, features):
    def getauxval(key):
        assert key == isa.AT_HWCAP
        return hardware

    monkeypatch.setattr(isa.llvm, "get_process_triple", lambda: triple)
    monkeypatch.setattr(isa.sys, "platform", system)
    monkeypatch.setattr(isa.ctypes, "CDLL", lambda _: SimpleNamespace(getauxval=getauxval))
    assert isa.arm_features() == features


@pytest.mark.parametrize(
    ("features", "level"),
    [({"neon", "dotprod"}, "neon"), ({"neon"}, "generic"), (set(), "generic")],
)
def test_level_of_an_arm_processor(features, level):
    assert choose(None, frozenset(features)).name == level


def test_level_that_the_processor_lacks():
    with pytest.raises(UnsupportedCpu, match=r"this processor lacks dotprod\. .* one of: generic"):
        choose("neon", frozenset({"neon"}))


def test_level_that_does_not_exist():
    with pytest.raises(UnsupportedCpu, match=r"no such level\. .* one of: generic, neon"):
        choose("mmx", frozenset({"neon", "dotprod"}))
