"""`cpumix classify`, and what the other commands say of a classifier."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import cpumix
from cpumix.cli.main import main
from cpumix.errors import ConvertError


@pytest.fixture
def invoke():
    def invoke(*arguments: object, stdin: str | None = None):
        return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)

    return invoke


@pytest.fixture
def lines(tmp_path):
    (path := tmp_path / "lines.txt").write_bytes(b"a good day\r\nit rained\n\nso what")
    return path


def test_one_text_has_all_labels(invoke, classifier_file):
    done = invoke("classify", classifier_file, "-p", "a good day")
    with cpumix.load(classifier_file) as model:
        (expected,) = model.classify(["a good day"])
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {label for label, _ in rows} == {"calm", "glad", "sad"}
    assert rows[0] == [expected.label, f"{expected.probability:.4f}"]
    assert [float(p) for _, p in rows] == sorted((float(p) for _, p in rows), reverse=True)
    assert (
        invoke("classify", classifier_file, "-p", "-", stdin="a good day\n").output == done.output
    )


def test_a_file_has_a_text_on_each_line(invoke, classifier_file, lines):
    done = invoke("classify", classifier_file, lines)
    with cpumix.load(classifier_file) as model:
        expected = model.classify(["a good day", "it rained", "", "so what"])
    assert done.stdout == "".join(f"{one.label}\t{one.probability:.4f}\n" for one in expected)
    stdin = lines.read_text()
    assert invoke("classify", classifier_file, "-", stdin=stdin).stdout == done.stdout
    told = invoke("classify", classifier_file, lines, "--json").stdout.splitlines()
    assert [json.loads(line) for line in told] == [one.to_dict() for one in expected]


@pytest.mark.parametrize("arguments", [[], ["-p", "a", "lines.txt"]])
def test_one_source_of_texts(invoke, classifier_file, arguments):
    done = invoke("classify", classifier_file, *arguments)
    assert done.exit_code == 2
    assert "Expected a text with -p, or a FILE with one on each line." in done.stderr


def refusal(done) -> str:
    assert (done.exit_code, done.stdout) == (1, "")
    return done.stderr


def test_file_that_cannot_be_classified(invoke, classifier_file, lines, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    done = invoke("classify", classifier_file, tmp_path / "empty.txt")
    assert "texts: expected one on each line, found an empty file." in refusal(done)
    done = invoke("classify", classifier_file, lines, "-c", 7)
    assert "text 1: prompt: 9 tokens do not fit into a context of 7." in refusal(done)


def test_model_that_writes(invoke, demo_model):
    done = invoke("classify", demo_model, "-p", "a")
    assert "expected a classifier, with a score head, found MixtralForCausalLM" in refusal(done)


@pytest.mark.parametrize(
    "command",
    [["run", "-p", "hello"], ["chat"], ["perplexity", "lines.txt"]],
    ids=lambda command: command[0],
)
def test_commands_that_write(invoke, classifier_file, lines, command):
    name, *others = command
    given = [lines if word == "lines.txt" else word for word in others]
    done = invoke(name, classifier_file, *given, stdin="hello\n")
    assert done.exit_code == 1
    assert "expected a language head, which writes texts, found a classifier" in done.stderr
    assert "no chat template" not in done.stderr


def test_inspect(invoke, classifier_file):
    for path in (classifier_file, classifier_file.parent / "checkpoint"):
        shown = invoke("inspect", path).stdout
        assert "MixtralForSequenceClassification: 443,904 weights" in shown
        assert "score head: 1 tensors" in shown
        assert "['calm', 'glad', 'sad']" in shown
    groups = json.loads(invoke("inspect", classifier_file, "--json").stdout)["groups"]
    assert groups["score head"] == {"f32": {"tensors": 1, "weights": 192, "bytes": 768}}


def test_verify(invoke, classifier_file):
    source = classifier_file.parent / "checkpoint"
    done = invoke("verify", classifier_file, "--against", source)
    assert (done.exit_code, "relative RMS 0.005" in done.stdout) == (0, True)


def test_fit_names_the_command(invoke, classifier_file):
    done = invoke("fit", classifier_file, "--no-probe", "--ram", "8G")
    assert f"cpumix classify {classifier_file} -p" in done.stdout


def test_export_is_refused(classifier_file, tmp_path):
    with pytest.raises(ConvertError, match="export: expected a model with a language"):
        cpumix.export(classifier_file, tmp_path / "moods.gguf")
    assert not [*tmp_path.iterdir()]
