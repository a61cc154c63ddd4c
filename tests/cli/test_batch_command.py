"""`cpumix batch`: from a file to a file, interrupted at any moment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batches import read_lines, run_batch, write_lines
from chat_models import write_chat_model

from cpumix.batch import job as jobs
from cpumix.batch.parts import folder_of

LINES = [{"prompt": f"Hello {i}", "max_tokens": 3, "row": i} for i in range(7)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_chat_model(tmp_path_factory.mktemp("model"), max_position_embeddings=1024)


@pytest.fixture
def batch(model, tmp_path, monkeypatch):
    """Return a function that runs the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run_batch(*arguments, "-m", model)


def test_answers_in_order(batch):
    lines = [*LINES, b"no", {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x"}}]
    write_lines(Path("in.jsonl"), lines)
    done = batch("in.jsonl", "out.jsonl", "--part-lines", 2)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "9 lines, 1 failed" in done.stderr
    assert "expected an answer to each of 9 lines, found 1 without one" in done.stderr
    assert "the first being line 8: line: expected JSON" in done.stderr
    answers = read_lines(Path("out.jsonl"))
    assert [answer.get("row") for answer in answers] == [*range(7), None, None]
    assert all(answer["generated_text"] for answer in answers[:7])
    assert answers[8]["response"]["status_code"] == 200
    assert [path.name for path in Path().iterdir() if path.name.startswith("out")] == ["out.jsonl"]


def test_how_it_is_computed_changes_nothing(batch):
    write_lines(Path("in.jsonl"), LINES)
    done = batch("in.jsonl", "a.jsonl", "--seed", 3, "--json")
    assert done.exit_code == 0
    numbers = json.loads(done.stdout)
    assert (numbers["lines"], numbers["failed"], numbers["kept"]) == (7, 0, 0)
    assert numbers["written_tokens"] <= 21
    assert (
        batch("in.jsonl", "b.jsonl", "--seed", 3, "--part-lines", 1, "--parallel", 1).exit_code == 0
    )
    assert batch("in.jsonl", "c.jsonl", "--seed", 4).exit_code == 0
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    assert Path("a.jsonl").read_bytes() != Path("c.jsonl").read_bytes()


def test_tables(batch):
    Path("in.csv").write_text("text,n\nHello,1\nyou,2\n")
    assert batch("in.csv", "out.csv", "--column", "text", "-n", 2).exit_code == 0
    head, *rows = Path("out.csv").read_text().splitlines()
    assert head == "text,n,generated_text,finish_reason,prompt_tokens,completion_tokens,error"
    assert len(rows) >= 2
    pq.write_table(pa.table({"text": ["Hello", None]}), "in.parquet")
    done = batch("in.parquet", "out.parquet", "--column", "text", "-n", 2)
    assert "line 2: prompt: expected a text" in done.stderr
    made = pq.read_table("out.parquet").to_pylist()
    assert made[0]["completion_tokens"] <= 2
    assert made[1]["error"].startswith("prompt: expected a text")


def test_unknown_fields_are_told_once(batch):
    body = {"prompt": "x", "max_tokens": 1, "colour": 1}
    write_lines(Path("in.jsonl"), [{"url": "/v1/completions", "body": body}] * 2)
    assert "not known were passed over: colour\n" in batch("in.jsonl", "out.jsonl").stderr


def test_finished_parts_are_never_done_again(batch, monkeypatch):
    write_lines(Path("in.jsonl"), LINES)
    assert batch("in.jsonl", "whole.jsonl").exit_code == 0

    def interrupted(self, parts, report, force):
        raise KeyboardInterrupt

    with monkeypatch.context() as change:
        change.setattr(jobs.BatchJob, "join", interrupted)
        done = batch("in.jsonl", "out.jsonl", "--part-lines", 2)
    assert done.exit_code == 130
    assert "7 of 7 lines are done; to go on, type: cpumix" in done.stderr
    folder = folder_of(Path("out.jsonl"))
    (folder / "00001.jsonl").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.jsonl")}
    given = []
    with monkeypatch.context() as change:
        change.setattr(jobs.BatchJob, "join", interrupted)
        put = jobs.PartsFolder.put
        change.setattr(
            jobs.PartsFolder, "put", lambda self, n, data: (given.append(n), put(self, n, data))
        )
        done = batch("in.jsonl", "out.jsonl", "--part-lines", 2)
    assert "going on: 5 of 7 lines are done" in done.stderr
    assert given == [1]
    assert times.items() <= {p.name: p.stat().st_mtime_ns for p in folder.glob("*.jsonl")}.items()
    done = batch("in.jsonl", "out.jsonl", "--part-lines", 2)
    assert done.exit_code == 0
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--temperature", 0], "temperature"),
        (["--seed", 1], "seed"),
        (["--system", "Be kind."], "system"),
        (["-c", 256], "context"),
        (["--part-lines", 3], "part_lines"),
        (["-n", 9], "max_tokens"),
    ],
)
def test_other_settings_are_refused(batch, monkeypatch, changed, told):
    write_lines(Path("in.jsonl"), LINES)
    monkeypatch.setattr(jobs.BatchJob, "join", lambda *arguments: None)
    assert batch("in.jsonl", "out.jsonl").exit_code == 0
    done = batch("in.jsonl", "out.jsonl", *changed)
    assert done.exit_code == 1
    assert f"found those of another ({told}: not the same)" in done.stderr
    assert batch("in.jsonl", "out.jsonl", "--parallel", 3, "--kv", "auto").exit_code == 0


def test_another_model_or_input_is_refused(batch, monkeypatch, demo_model):
    write_lines(Path("in.jsonl"), LINES)
    monkeypatch.setattr(jobs.BatchJob, "join", lambda *arguments: None)
    assert batch("in.jsonl", "out.jsonl").exit_code == 0
    assert "(model: not the same)" in run_batch("in.jsonl", "out.jsonl").stderr
    write_lines(Path("in.jsonl"), LINES[:-1])
    assert "(input: not the same)" in batch("in.jsonl", "out.jsonl").stderr


def test_output_that_is_there(batch, monkeypatch):
    write_lines(Path("in.jsonl"), LINES)
    Path("out.jsonl").write_text("mine")
    refused = batch("in.jsonl", "out.jsonl")
    assert "expected a new name for the output, found a file" in refused.stderr
    assert not folder_of(Path("out.jsonl")).exists()
    assert batch("in.jsonl", "out.jsonl", "--force").exit_code == 0
    assert len(read_lines(Path("out.jsonl"))) == 7
    # Killed after the output had its name, and before the parts were deleted:
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").unlink()
    with monkeypatch.context() as change:
        change.setattr(jobs.PartsFolder, "remove", lambda self: self.close())
        assert batch("in.jsonl", "out.jsonl").exit_code == 0
    assert batch("in.jsonl", "out.jsonl").exit_code == 0
    assert Path("out.jsonl").read_bytes() == whole
    # Another file has come to be there meanwhile:
    Path("out.jsonl").unlink()
    with monkeypatch.context() as change:
        change.setattr(jobs.PartsFolder, "remove", lambda self: self.close())
        assert batch("in.jsonl", "out.jsonl").exit_code == 0
    Path("out.jsonl").write_text("mine")
    assert "expected a new name for the output" in batch("in.jsonl", "out.jsonl").stderr
    assert Path("out.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("in.jsonl", "no/out.jsonl", "expected a folder for the output, found none"),
        ("in.jsonl", "in.jsonl", "expected another file for the output than"),
        ("in.jsonl", "folder.jsonl", "expected another file for the output than"),
        ("empty.jsonl", "out.jsonl", "expected lines in .*, found none"),
        ("none.jsonl", "out.jsonl", "batch: cannot read"),
    ],
)
def test_refusals(batch, source, target, told):
    write_lines(Path("in.jsonl"), LINES)
    Path("empty.jsonl").write_text("\n")
    Path("folder.jsonl").mkdir()
    done = batch(source, target)
    assert done.exit_code == 1
    assert re.search(told, done.stderr)


def test_output_that_cannot_be_written(batch, monkeypatch):
    write_lines(Path("in.jsonl"), LINES)

    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as change:
        change.setattr(jobs, "rename_new", full)
        done = batch("in.jsonl", "out.jsonl")
    assert "batch: cannot write" in done.stderr
    assert "Make room, and start the batch again: it goes on" in done.stderr
    assert batch("in.jsonl", "out.jsonl").exit_code == 0


def test_missing_packages(batch, monkeypatch):
    write_lines(Path("in.jsonl"), LINES)
    monkeypatch.setitem(sys.modules, "cpumix.batch.ray_crew", None)
    refused = batch("in.jsonl", "out.jsonl", "--ray")
    assert 'Run: pip install "cpumix[ray]"' in refused.stderr
    for module in [name for name in sys.modules if name.startswith("cpumix.batch")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("cpumix.batch", raising=False)
    monkeypatch.setitem(sys.modules, "cpumix.batch.job", None)
    assert 'Run: pip install "cpumix[batch]"' in batch("in.jsonl", "out.jsonl").stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows sends no Ctrl-C to one process")
def test_ctrl_c_says_what_to_type(batch, model):
    write_lines(Path("in.jsonl"), [{"prompt": "Hello", "max_tokens": 400, "ignore_eos": True}] * 90)
    command = [sys.executable, "-m", "cpumix", "batch", "in.jsonl", "out.jsonl", "-m", str(model)]
    process = subprocess.Popen(
        [*command, "-c", "512", "-t", "1", "--part-lines", "1"], stderr=subprocess.PIPE, text=True
    )
    folder = folder_of(Path("out.jsonl"))
    while process.poll() is None and not [*folder.glob("*.jsonl")]:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 90 lines are done; to go on, type: cpumix batch in.jsonl out.jsonl -m" in told
    assert "Traceback" not in told
