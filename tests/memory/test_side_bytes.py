"""What tokenizer and side files take: the same number for all who plan, and enough."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import CONFIGS, write_source

import cpumix
from cpumix.errors import BudgetError
from cpumix.fit.sources import open_source
from cpumix.memory.planner import make_plan
from cpumix.memory.side_bytes import (
    JSON_FACTOR,
    KEPT_FACTOR,
    MODEL_FACTOR,
    NO_SIDE_FILES,
    READING_FACTOR,
    SMALL_FILES,
    count_side_bytes,
)
from cpumix.memory.sizes import PROGRAM_BYTES, TOKEN_BYTES, TOKENIZER_LIBRARIES
from cpumix.units import MIB

DATA = Path(__file__).parents[1] / "data" / "tokenizer"


def test_usual_files_are_within_what_every_plan_has() -> None:
    files = {"tokenizer.model": (DATA / "mixtral.model").read_bytes(), "tokenizer.json": b" " * MIB}
    assert count_side_bytes(files, 32000) == NO_SIDE_FILES


def test_each_kind_of_file_counts() -> None:
    model = count_side_bytes({"tokenizer.model": bytes(4 * MIB)}, 32000)
    assert model == (MODEL_FACTOR * 4 * MIB - 32000 * TOKEN_BYTES, 0)
    spaced = count_side_bytes({"tokenizer.json": b"x \n\n" * (4 * MIB)}, 32000)
    assert spaced.kept == JSON_FACTOR * 4 * MIB - TOKENIZER_LIBRARIES - 32000 * TOKEN_BYTES
    others = {"tokenizer.model": b"", "tokenizer.json": bytes(MIB), "a.jinja": bytes(9 * MIB)}
    kept, reading = count_side_bytes(others, 32000)
    assert (kept, reading) == (KEPT_FACTOR * (10 * MIB - SMALL_FILES), READING_FACTOR * 10 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1 << 20, 30 << 20])
def test_fit_and_plan_and_run_agree_to_the_byte(tmp_path: Path, size: int) -> None:
    source = write_source(tmp_path / "source", CONFIGS["moe"])
    (source / "tokenizer_config.json").write_text(json.dumps({"a": "b" * size}))
    cpumix.convert(source, model := tmp_path / "model.bin", "int8")
    found = open_source(str(model))
    assert found.side == open_source(str(source)).side
    assert (found.side != NO_SIDE_FILES) == (size > SMALL_FILES)
    plans = [
        cpumix.plan(str(path), ram="8G", context=64, precision="int8") for path in (source, model)
    ]
    least = plans[0].minimum_bytes
    assert plans[1] == plans[0] == make_plan(found.config, "int8", 64, 8 << 30, side=found.side)
    assert least >= PROGRAM_BYTES + READING_FACTOR * size * (size > SMALL_FILES)
    with pytest.raises(BudgetError):
        cpumix.load(model, ram=least - 1, context=64)
    cpumix.load(model, ram=least, context=64).close()


MEASURE = """
import sys
from cpumix.machine import peak_rss_bytes
from cpumix.tokenizer import Tokenizer
import cpumix.model
model = open(sys.argv[1], "rb").read()
files = {"tokenizer.model": model, "tokenizer_config.json": sys.stdin.buffer.read()}
before = peak_rss_bytes()
Tokenizer.from_files(files)
print(peak_rss_bytes() - before)
"""
HOSTILE = {
    "lists": lambda: '{"a": [' + ("[" * 500 + "]" * 500 + ",") * 8000 + "0]}",
    "objects": lambda: '{"a": [' + '{"a": {}},' * 838_860 + "0]}",
    "tokens": lambda: (
        '{"added_tokens_decoder": {' + ",".join(f'"{i}":"x{i}"' for i in range(500_000)) + "}}"
    ),
    "names": lambda: "{" + ",".join(f'"n{i}_token":"x{i}"' for i in range(350_000)) + "}",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTILE)
def test_files_that_are_made_to_take_much_take_no_more(kind: str) -> None:
    text = HOSTILE[kind]().encode()
    command = [sys.executable, "-c", MEASURE, str(DATA / "mixtral.model")]
    done = subprocess.run(command, input=text, capture_output=True, check=True)
    most = READING_FACTOR * len(text) + 32000 * TOKEN_BYTES + TOKENIZER_LIBRARIES
    assert len(text) > 7 << 20
    assert 0 < int(done.stdout) < most
