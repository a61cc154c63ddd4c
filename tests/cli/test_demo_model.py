"""The command line on real models: the demo model, and a tiny checkpoint converted here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from stats_names import STATS_NAMES

from cpumix.cli.main import main


def invoke(*arguments, **options):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)


@pytest.fixture(scope="module")
def model(checkpoint_folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("model") / "tiny.bin"
    assert invoke("convert", checkpoint_folder, target, "--precision", "int8").exit_code == 0
    return target


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cpumix", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def test_demo_writes_english():
    result = invoke("run", "-p", "And they returned to the city", "-n", 32, "--temperature", 0)
    assert result.exit_code == 0
    words = result.stdout.lower().split()
    assert len(words) >= 15
    assert {"the", "and"} <= set(words)


@pytest.mark.slow
def test_same_seed_same_text_for_any_number_of_threads():
    options = ["-p", "The wicked man", "-n", 24, "--seed", 7]
    texts = {invoke("run", *options, "--threads", n).stdout for n in range(1, os.cpu_count() + 1)}
    assert len(texts) == 1
    assert invoke("run", *options[:-1], 8).stdout not in texts


def test_stats_have_the_promised_fields(tmp_path, demo_model):
    path = tmp_path / "stats.json"
    result = invoke("run", demo_model, "-p", "Now", "-n", 5, "--stats", "--stats-json", path)
    stats = json.loads(path.read_text())
    assert list(stats) == STATS_NAMES
    assert stats["generated_tokens"] <= 5
    assert stats["mapped_bytes"] == demo_model.stat().st_size
    assert 0 < stats["resident_bytes"] <= stats["mapped_bytes"]
    assert "tok/s" in result.stderr
    assert "tok/s" not in result.stdout


def test_log_probabilities_beside_the_text(tmp_path):
    words = ["run", "-p", "Now the", "-n", 4, "--temperature", 0, "--logprobs", 2]
    result = invoke(*words)
    lines = result.stderr.splitlines()
    assert len(lines) == 4
    assert all(re.fullmatch(r' +-\d+\.\d{3} ".+"( +-\d+\.\d{3} ".+"){2}', line) for line in lines)
    path = tmp_path / "stats.json"
    again = invoke(*words, "--stats-json", path)
    assert (again.stdout, again.stderr) == (result.stdout, "")
    entries = json.loads(path.read_text())["logprobs"]
    assert "".join(entry["token"] for entry in entries) == result.stdout.removesuffix("\n")
    for line, entry in zip(lines, entries, strict=True):
        top = entry.pop("top_logprobs")
        assert top[0] == entry  # at temperature 0 the likeliest token is taken
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert 0 > entry["logprob"] > top[1]["logprob"]
        assert line.startswith(f"{entry['logprob']:8.3f} {json.dumps(entry['token'])}")
        assert len(top) == 2


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_empty_prompt(prompt):
    for result in (invoke("run", "-p", prompt), invoke("run", "-p", "-", input=prompt)):
        assert (result.exit_code, result.stdout) == (1, "")
        assert "cpumix: error: prompt: expected some text, found none" in result.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--context", "4"], "do not fit into a context of 4"),
        (["--context", "99999"], "context: expected 1 to 2048 tokens, which is what the model was"),
        (["--threads", "999"], "threads: expected 1 to "),
        (["--ram", "8M"], "memory: a budget of 8.0 MiB is below the "),
    ],
)
def test_what_the_model_cannot_do(model, options, sentence):
    result = invoke("run", model, "-p", "one two three four five six", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert result.stderr.startswith("cpumix: error: ")


def test_missing_model_file(tmp_path):
    result = invoke("run", tmp_path / "none.bin", "-p", "x")
    assert result.exit_code == 1
    assert "none.bin" in result.stderr


def test_convert_of_no_checkpoint_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    result = invoke("convert", tmp_path / "empty", tmp_path / "target.bin")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("cpumix: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_existing_target_needs_force(checkpoint_folder, model):
    before = model.read_bytes()
    again = ["convert", checkpoint_folder, model, "--precision", "int8"]
    result = invoke(*again)
    assert result.exit_code == 1
    assert "Use --force to replace it" in result.stderr
    report = json.loads(invoke(*again, "--force", "--json").stdout)
    assert report["target"] == str(model)
    assert report["file_bytes"] == len(before)
    assert model.read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_interrupted_run_ends_cleanly(demo_model):
    process = start("run", "-p", "And they returned", "-n", "2000", "--stats")
    assert process.stdout.read(8)  # the text has begun
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.endswith("\ninterrupted\n")
    assert "tok/s" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_reader_that_goes_away_is_not_an_error():
    process = start("run", "-p", "And they returned", "-n", "2000")
    assert process.stdout.read(8)
    process.stdout.close()
    process.wait(timeout=600)
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("option", ["--stats-json", "--trace"])
def test_refused_run_leaves_its_outputs_alone(tmp_path, option):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("numbers of an earlier run")
    for path in (old, new):
        result = invoke("run", "-p", "Now", "--ram", "2M", option, path)
        assert result.exit_code == 1
        assert "Use --ram" in result.stderr
    assert old.read_text() == "numbers of an earlier run"
    assert not new.exists()


@pytest.mark.parametrize("option", ["--stats-json", "--trace"])
def test_output_that_cannot_be_written_is_refused_at_once(tmp_path, option):
    for path in (tmp_path, tmp_path / "no" / "folder"):
        result = invoke("run", "-p", "Now", option, path)
        assert result.exit_code == 2
        assert "expected a file that can be written" in result.stderr
        assert not result.stdout
