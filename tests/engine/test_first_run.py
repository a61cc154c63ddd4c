"""What a budget leaves decides where kernels are compiled; side files count."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from model_files import CONFIG
from tiny_models import CONFIGS, write_model, write_source

import cpumix
from cpumix.engine import first_run
from cpumix.engine.first_run import APART, COMPILER_BYTES, compile_apart
from cpumix.errors import BudgetError
from cpumix.kernels.compile import jit
from cpumix.machine import MachineInfo
from cpumix.memory.limit import make_budget
from cpumix.memory.planner import make_plan
from cpumix.memory.side_bytes import NO_SIDE_FILES
from cpumix.quant.precision import PRECISIONS
from cpumix.tokenizer import Tokenizer
from cpumix.units import MIB

MACHINE = MachineInfo(8 << 30, 8 << 30, None, 2, 4096)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is started, none of which runs; nothing has been compiled yet."""
    started: list[Any] = []
    monkeypatch.setattr(jit, "is_cold", lambda what: what != "-bf16-int8")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: started.append(command[-1]))
    return started


@pytest.mark.parametrize(
    ("precision", "names"),
    [
        ("bf16", "['bf16']"),
        ("int8", "['q8']"),
        ("int4", "['q4s', 'q6']"),
    ],
)
def test_little_room_compiles_in_another_process(
    calls: list[Any], precision: str, names: str
) -> None:
    assert not compile_apart(COMPILER_BYTES, PRECISIONS[precision], "f16")
    assert compile_apart(COMPILER_BYTES - 1, PRECISIONS[precision], "f16")
    assert calls == [f"from cpumix.measure import warmup; warmup.compile_for({names}, 'f16')"]


def test_what_another_level_or_cache_has_compiled_is_not_enough(calls: list[Any]) -> None:
    assert compile_apart(0, PRECISIONS["bf16"], "f16")
    assert not compile_apart(0, PRECISIONS["bf16"], "int8")


def test_that_process_starts_no_other(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(APART, "1")
    assert not compile_apart(0, PRECISIONS["int8"], "f16")
    assert calls == []


def test_what_is_compiled_needs_no_process(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "is_cold", lambda what: False)
    assert not compile_apart(0, PRECISIONS["int8"], "f16")
    assert calls == []


def test_kernels_that_cannot_be_kept_are_refused(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_run.jit, "cache_folder", lambda: None)
    message = "more for compiling the kernels, as no cache folder keeps them, found 10.0 MiB"
    with pytest.raises(BudgetError, match=message):
        compile_apart(10 * MIB, PRECISIONS["int8"], "f16")


def test_load_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("cpumix.model.compile_apart", lambda *given: asked.append(given))
    path = write_model(tmp_path, CONFIGS["moe"])
    with cpumix.load(path, ram="2G", context=64, threads=1) as model:
        plan = make_plan(model.config, "int8", 64, 2 << 30, "f16")
    ((room, precision, kv),) = asked
    assert (precision, kv) == (PRECISIONS["int8"], "f16")
    assert 0 <= (2 << 30) - plan.total_bytes - room < 64 * MIB  # what the tokenizer took too much


@pytest.mark.parametrize("paged", [False, True])
def test_budget_between_the_total_and_what_paging_needs_will_do(paged: bool) -> None:
    """The pager's margin is not needed where nothing pages."""
    level = PRECISIONS["int8"]
    plan = make_plan(CONFIG, level, 64, 8 << 30, "f16")
    assert plan.minimum_bytes == plan.total_bytes
    found = make_budget(CONFIG, level, 64, "f16", plan.total_bytes + 5, MACHINE)
    assert (found.pager, found.room) == (None, 5)
    with pytest.raises(BudgetError, match="is below the"):
        make_budget(CONFIG, level, 64, "f16", plan.total_bytes - 1, MACHINE)


def test_what_the_tokenizer_takes_too_much_is_counted() -> None:
    level = PRECISIONS["int8"]
    plan = make_plan(CONFIG, level, 64, 8 << 30, "f16")
    ram = plan.total_bytes + 100 * MIB
    assert make_budget(CONFIG, level, 64, "f16", ram, MACHINE).room == 100 * MIB
    usual = NO_SIDE_FILES.at_least(20 * MIB, CONFIG.vocab_size)
    assert make_budget(CONFIG, level, 64, "f16", ram, MACHINE, 1, usual).room == 100 * MIB
    large = NO_SIDE_FILES.at_least(200 * MIB, CONFIG.vocab_size)
    with pytest.raises(BudgetError, match="is below the"):
        make_budget(CONFIG, level, 64, "f16", ram, MACHINE, 1, large)


def test_side_files_too_large_to_read_are_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "source", CONFIGS["moe"])
    (source / "tokenizer_config.json").write_text('{"a": "' + "b" * (30 << 20) + '"}')
    cpumix.convert(source, path := tmp_path / "model.bin", "int8")
    monkeypatch.setattr(Tokenizer, "from_files", None)
    message = r"reading the tokenizer and side files may take 1.7 GiB, found a budget of 250"
    with pytest.raises(BudgetError, match=message):
        cpumix.load(path, ram="250M")
