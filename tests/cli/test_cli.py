"""What the command line does by itself: parsing, streams, exit statuses. The library is a fake."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from command_line import parse

import cpumix
from cpumix.cli import sampling
from cpumix.cli.main import COMMANDS, main
from cpumix.cli.optional_value import OptionalValue, OptionalValueCommand
from cpumix.errors import ConvertError, FormatError
from cpumix.sampling import SamplingParams


@pytest.fixture
def invoke():
    """Run a command line; the result has stdout, stderr and exit_code."""

    def invoke(*arguments: str, stdin: str | bytes | None = None):
        return CliRunner().invoke(main, arguments, input=stdin)

    return invoke


class FakeModel:
    """Stands in for `cpumix.load`: keeps what it is asked, says "Hello, 🌍!"."""

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}
        self.pieces: list[object] = ["Hello", ", ", "🌍", "!"]
        self.notes: list[str] = []
        self.kv, self.log_probabilities = "f16", []
        self.complete, self.stop_reason, self.context = True, "eos", 64
        self.tokenizer = SimpleNamespace(find_control=lambda text: "<s>" if "<s>" in text else None)
        self.stats = SimpleNamespace(
            to_dict=lambda: {"generated_tokens": 4}, summary=lambda: "4 tokens, 8.0 tok/s"
        )

    def load(self, path=None, **options):
        self.asked |= {"path": path, **options}
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.asked["closed"] = True

    def generate(self, prompt, **options):
        self.asked |= {"prompt": prompt, **options}
        return self

    def helped(self, kv):
        self.asked["helped"] = kv
        return nullcontext()

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece


@pytest.fixture
def model(monkeypatch):
    fake = FakeModel()
    monkeypatch.setitem(cpumix.__dict__, "load", fake.load)
    notes = SimpleNamespace(first_run_note=lambda: "compiling kernels for this CPU, once")
    monkeypatch.setitem(sys.modules, "cpumix.kernels.compile.jit", notes)
    helper = SimpleNamespace(helped=fake.helped)
    monkeypatch.setitem(sys.modules, "cpumix.measure.warmup", helper)
    return fake


def test_every_command_has_help_that_fits_a_line():
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert 0 < len(command.help.splitlines()[0]) <= 60
        assert f"cpumix {name}" in command.epilog
        assert all(o.help for o in command.params if isinstance(o, click.Option)), name


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], *([name, "-h"] for name in COMMANDS)])
def test_help(invoke, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Usage: ")


def test_help_after_a_command_was_only_parsed(invoke):
    parse("warmup", [])
    assert invoke("warmup", "-h").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["rum"],
        ["run"],  # -p is missing
        ["run", "-p", "x", "-n", "0"],
        ["run", "-p", "x", "--temperature", "-1"],
        ["run", "-p", "x", "--temperature", "nan"],
        ["run", "-p", "x", "--top-p", "0"],
        ["run", "-p", "x", "--top-p", "inf"],
        ["run", "-p", "x", "--top-k", "many"],
        ["run", "-p", "x", "--seed", "-1"],
        ["run", "-p", "x", "--logit-bias", "seven"],
        ["run", "-p", "x", "--logit-bias", "1" * 5000 + "+1"],
        ["run", "-p", "x", "--json-schema", "no/such/file.json"],
        ["run", "-p", "x", "--threads", "0"],
        ["run", "-p", "x", "--stats-json", "no/such/folder/stats.json"],
        ["run", "-p", "x", "--trace", "."],
        ["convert", "source"],
        ["convert", "source", "target", "--precision", "int5"],
    ],
)
def test_mistyped_command_is_a_usage_error(invoke, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert "Try " in result.stderr


@pytest.mark.parametrize("command", [["run", "-p", "x"], ["convert", "a", "b"]])
@pytest.mark.parametrize("size", ["64X", "-5G", "0", ""])
def test_ram_that_cannot_be_parsed(invoke, command, size):
    result = invoke(*command, "--ram", size)
    assert result.exit_code == 1
    assert result.stderr.startswith("cpumix: error: size: ")
    assert result.stderr.count("\n") == 1


def test_run_streams_to_stdout_and_notes_to_stderr(invoke, model):
    result = invoke("run", "some.bin", "-p", "Hi", "--stats")
    assert result.exit_code == 0
    assert result.stdout == "Hello, 🌍!\n"
    assert result.stderr == "compiling kernels for this CPU, once\n4 tokens, 8.0 tok/s\n"
    assert model.asked["closed"]


def test_run_passes_every_option_on(invoke, model):
    options = "-n 7 --temperature 0 --top-k 5 --top-p 0.5 --seed 9 --context 99 --threads 2 --raw"
    assert invoke("run", "-p", "Hi", *options.split(), "--ram", "2GiB").exit_code == 0
    expected = {
        "path": None,
        "ram": 2 * 2**30,
        "threads": 2,
        "context": 99,
        "prompt": "Hi",
        "max_tokens": 7,
        "temperature": 0.0,
        "top_k": 5,
        "top_p": 0.5,
        "seed": 9,
        "raw": True,
        "helped": "f16",
    }
    assert {key: model.asked[key] for key in expected} == expected


def test_run_leaves_what_was_not_asked_for_to_the_model(invoke, model):
    assert invoke("run", "-p", "Hi").exit_code == 0
    asked = {"draft", "path", "ram", "threads", "context", "kv", "prompt", "max_tokens", "raw"}
    asked |= {"low_copy", "progress", "special"}
    assert set(model.asked) - asked == {"helped", "closed"}


def test_every_sampling_parameter_has_an_option(invoke, model, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "null"}')
    options = {
        **{name: flag for name, (flag, _) in sampling.NUMBERS.items()},
        **{"seed": "--seed", "regex": "--regex", "json_schema": "--json-schema"},
        **{"stop": "--stop", "stop_token_ids": "--stop-token", "grammar": "--grammar"},
        **{"logit_bias": "--logit-bias", "dry_sequence_breakers": "--dry-sequence-breaker"},
    }
    values = {"regex": "a+", "stop": "END", "logit_bias": "7-inf", "dry_sequence_breakers": ";"}
    values |= {"json_schema": str(schema), "grammar": str(schema)}
    for name, flag in options.items():
        value = values.get(name, "2" if name in ("mirostat", "dry_base") else "1")
        assert invoke("run", "-p", "Hi", flag, value).exit_code == 0, flag
    assert invoke("run", "-p", "Hi", "--ignore-eos").exit_code == 0
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    assert fields - {"logprobs"} == {*options, "ignore_eos"}  # those are for programs
    assert fields - {"logprobs"} <= set(model.asked)
    several = {name: model.asked[name] for name in ("stop", "stop_token_ids", "logit_bias")}
    assert several == {"stop": ("END",), "stop_token_ids": (1,), "logit_bias": {7: -math.inf}}
    assert model.asked["json_schema"] == model.asked["grammar"] == '{"type": "null"}'


def test_run_says_that_a_text_is_not_complete(invoke, model):
    model.complete = False
    result = invoke("run", "-p", "Hi")
    assert result.stderr.splitlines()[-1] == (
        "the text is not complete: give it more tokens with -n"
    )


def test_run_takes_options_from_the_environment(model):
    environment = {"CPUMIX_RUN_THREADS": "1"}
    assert CliRunner().invoke(main, ["run", "-p", "Hi"], env=environment).exit_code == 0
    assert model.asked["threads"] == 1


def test_run_writes_stats_as_one_object(invoke, model, tmp_path):
    path = tmp_path / "stats.json"
    assert invoke("run", "-p", "Hi", "--stats-json", str(path)).exit_code == 0
    assert json.loads(path.read_text()) == {"generated_tokens": 4}


def test_run_says_each_note_once(invoke, model):
    model.notes = ["memory: using less"]

    def pieces():
        yield "Hello"
        model.notes = [*model.notes, "paging: plainly"]

    model.pieces = pieces()
    result = invoke("run", "-p", "Hi")
    assert result.stderr.splitlines()[1:] == ["memory: using less", "paging: plainly"]


def test_run_hands_on_the_file_for_the_trace(invoke, model, tmp_path):
    model.trace = lambda stream: stream.write("a line\n")
    assert invoke("run", "-p", "Hi", "--trace", str(tmp_path / "trace.tsv")).exit_code == 0
    assert (tmp_path / "trace.tsv").read_text() == "a line\n"


def test_run_reads_the_prompt_from_stdin(invoke, model):
    assert invoke("run", "-p", "-", stdin="Grüße 🌍\n").exit_code == 0
    assert model.asked["prompt"] == "Grüße 🌍"


@pytest.mark.parametrize(
    ("prompt", "stdin", "sentence"),
    [
        ("caf\udce9", None, "prompt: expected UTF-8 text, found other bytes."),
        (
            "-",
            b"caf\xe9!",
            "standard input: expected UTF-8 text, found byte 0xe9 at position 3.",
        ),
    ],
)
def test_run_with_a_bad_prompt(invoke, model, prompt, stdin, sentence):
    result = invoke("run", "-p", prompt, stdin=stdin)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"cpumix: error: {sentence}\n"
    assert model.asked == {}


@pytest.mark.parametrize(
    ("redirection", "sentence"),
    [
        ("<&-", "standard input: expected text, found it closed."),
        ("0> /dev/null", "standard input: cannot be read (Bad file descriptor)."),
    ],
)
def test_run_with_unreadable_stdin(redirection, sentence):
    line = f'"{sys.executable}" -m cpumix run -p - {redirection}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_library_error_becomes_a_sentence(invoke, model):
    model.pieces = ["Hello", FormatError("tensor: expected 8 bytes, found 7.")]
    result = invoke("run", "-p", "Hi", "--stats")
    assert result.exit_code == 1
    assert "\ncpumix: error: tensor: expected 8 bytes, found 7.\n" in result.stderr
    assert "4 tokens" in result.stderr  # what was measured until then
    assert model.asked["closed"]


def test_ctrl_c_ends_cleanly_with_the_numbers_so_far(invoke, model):
    model.pieces = ["Hello", KeyboardInterrupt()]
    result = invoke("run", "-p", "Hi", "--stats")
    assert result.exit_code == 130
    assert result.stdout == "Hello\n"
    assert result.stderr.endswith("4 tokens, 8.0 tok/s\ninterrupted\n")
    assert model.asked["closed"]


@dataclass
class FakeReport:
    target: str = "t.bin"
    precision: str = "int4"
    file_bytes: int = 13 * 2**20
    source_bytes: int = 44 * 2**20
    seconds: float = 1.25
    tensors: int = 90
    notes: tuple[str, ...] = ()
    resumed: int = 2
    losses: tuple[str, ...] = ("experts: 3 tensors of Q8_0 as q8, same numbers",)


@pytest.fixture
def convert(monkeypatch):
    asked: dict[str, object] = {}

    def convert(source, target, **options):
        asked.update(source=str(source), target=str(target), **options)
        options["progress"](1, 4)
        options["progress"](4, 4)
        if str(source) == "bad":
            raise ConvertError("config.json: expected a file, found none: bad")
        return FakeReport()

    monkeypatch.setitem(cpumix.__dict__, "convert", convert)
    return asked


def test_convert_reports_on_stderr(invoke, convert):
    result = invoke("convert", "s", "t.bin", "--ram", "48G", "--precision", "int4", "--force")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == (
        "  2 tensors were done before\n"
        "  experts: 3 tensors of Q8_0 as q8, same numbers\n"
        "t.bin: int4, 13.0 MiB from 44.0 MiB, 90 tensors in 1.2 s\n"
    )
    del convert["progress"]
    expected = {"source": "s", "target": "t.bin", "precision": "int4", "ram": 48 * 2**30}
    assert convert == expected | {
        "force": True,
        "resume": False,
        "discard_shards": False,
        "lora": [],
        "ignore_fields": (),
        "calibrate": False,
        "calibration_tokens": 16384,
        "low_copy": False,
        "losses_of": None,
    }


@pytest.mark.parametrize(("given", "passed"), [([], True), (["some.txt"], "some.txt")])
def test_convert_calibrates_with_a_text_or_its_own(invoke, convert, given, passed):
    invoke("convert", "s", "t.bin", "--calibrate", *given)
    assert convert["calibrate"] == passed


@pytest.mark.parametrize(
    ("typed", "taken", "missing"),
    [
        ("convert --calibrate s t.bin", '--calibrate has taken "s" as its TEXT', "TARGET"),
        ("convert s --calibrate t.bin", '--calibrate has taken "t.bin" as its TEXT', "TARGET"),
        ("convert --calibrate s", '--calibrate has taken "s" as its TEXT', "SOURCE"),
        ("batch --ray in out", '--ray has taken "in" as its ADDRESS', "OUT"),
    ],
)
def test_option_that_has_taken_an_argument(invoke, typed, taken, missing):
    result = invoke(*typed.split())
    assert result.exit_code == 2
    assert f"Error: {taken}, and {missing} is missing. Write --" in result.stderr


@pytest.mark.parametrize("typed", ["convert --calibrate=x s", "batch --ray=x in", "batch in --ray"])
def test_argument_that_no_option_has_taken(invoke, typed):
    assert "Error: Missing argument '" in invoke(*typed.split()).stderr


def test_options_of_optional_value_explain_what_they_have_taken():
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        optional = [param for param in command.params if getattr(param, "_flag_needs_value", False)]
        assert all(isinstance(option, OptionalValue) for option in optional)
        assert isinstance(command, OptionalValueCommand) == bool(optional)


def test_convert_prints_json(invoke, convert):
    result = invoke("convert", "s", "t.bin", "--json")
    assert json.loads(result.stdout)["file_bytes"] == 13 * 2**20
    assert convert["precision"] == "auto"
    assert convert["force"] is False


def test_convert_that_fails(invoke, convert):
    result = invoke("convert", "bad", "t.bin")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == ("cpumix: error: config.json: expected a file, found none: bad\n")


def test_progress_bar_on_a_terminal_shows_bytes_and_time_left(convert, monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    from cpumix.cli.progress import byte_progress

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with byte_progress("Converting x") as progress:
        for done in range(0, 101, 10):
            progress(done * 2**20, 100 * 2**20)
    shown = terminal.getvalue()
    assert "Converting x" in shown
    assert "100.0 MiB" in shown
    assert "50%" in shown


def test_as_is_is_a_precision_of_convert_only(monkeypatch):
    seen = []

    def convert(*arguments, precision, **options):
        seen.append(precision)
        raise ConvertError("enough.")

    monkeypatch.setattr("cpumix.convert", convert)
    assert CliRunner().invoke(main, ["convert", "a", "b", "--precision", "as-is"]).exit_code == 1
    assert seen == ["as-is"]
    refused = CliRunner().invoke(main, ["fit", "--precision", "as-is"])
    assert refused.exit_code == 2
    assert (
        'expected one of auto, bf16, int8, int4, int3, int2, mix-B, found "as-is"' in refused.stderr
    )


# What others are used to
# ------------------------------------------------------------------------------------------------


def test_options_of_llama_cpp(invoke, model, tmp_path):
    (tmp_path / "prompt.txt").write_text("And they")
    line = "run -m m.bin -c 128 -t 2 -s 7 --temp 0.5 -n 9 -f"
    result = invoke(*line.split(), str(tmp_path / "prompt.txt"))
    assert result.exit_code == 0, result.stderr
    expected = {"prompt": "And they", "context": 128, "threads": 2, "seed": 7, "temperature": 0.5}
    assert model.asked.items() >= expected.items()
    assert str(model.asked["path"]) == "m.bin"


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--ctx-size", "No such option: --ctx-size. Use -c or --context."),
        ("--n-gpu-layers", "Everything runs on the processor."),
        ("--no-mmap", "Use --ram to say how much memory to take."),
        ("--conversation", "`cpumix chat` holds one."),
    ],
)
def test_option_of_another_program_is_answered_with_ours(invoke, option, hint):
    result = invoke("run", "-p", "x", option, "9")
    assert result.exit_code == 2
    assert f"Error: {hint}\n" in result.stderr or hint in result.stderr
    assert invoke("run", "-p", "x", "--no-such").exit_code == 2


@pytest.mark.parametrize(
    "arguments", [[], ["-p", "x", "-f", "y"], ["a.bin", "-m", "b.bin", "-p", "x"]]
)
def test_prompt_and_model_are_named_once(invoke, model, arguments):
    result = invoke("run", *arguments)
    assert result.exit_code == 2
    assert "Error: Expected " in result.stderr


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
@pytest.mark.parametrize("source", ["-p", "-f"])
def test_prompt_as_windows_writes_it(invoke, model, tmp_path, source, ending):
    data = b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree" + ending.encode()
    (tmp_path / "prompt.txt").write_bytes(data)
    where = "-" if source == "-p" else str(tmp_path / "prompt.txt")
    result = invoke("run", source, where, stdin=data)
    assert result.exit_code == 0
    assert model.asked["prompt"] == "one\ntwo\n\nthree"


def test_full_context_is_said(invoke, model):
    model.stop_reason = "context"
    result = invoke("run", "-p", "x")
    assert result.stderr.endswith("context of 64 tokens is full: give it more with --context\n")
    model.stop_reason = "length"
    assert "full" not in invoke("run", "-p", "x").stderr


def test_control_tokens_are_text_unless_asked_for(invoke, model):
    result = invoke("run", "-p", "<s>[INST] x", "--raw")
    assert '"<s>" is read as text; --special makes it a token\n' in result.stderr
    assert not model.asked["special"]
    result = invoke("run", "-p", "<s>[INST] x", "--special")
    assert "read as text" not in result.stderr
    assert (model.asked["special"], model.asked["raw"]) == (True, True)
