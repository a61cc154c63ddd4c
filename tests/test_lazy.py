"""What is imported when it is first needed, and what `cpumix inspect` and `fit` so leave alone."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from levels import run

import cpumix
from cpumix.lazy import later, names_in

PACKAGES = [
    "cpumix",
    *(f"cpumix.{name}" for name in ("checkpoint", "experts", "sampling", "store", "tokenizer")),
]
RUN = """
import os, sys
from contextlib import redirect_stdout, suppress
from cpumix.cli.main import main
with redirect_stdout(sys.stderr), suppress(SystemExit):
    main(sys.argv[2:])
eval(f"print({sys.argv[1]})")
"""
MODULES = "*sys.modules"
THREADS = "len(os.listdir('/proc/self/task')), os.environ.get('OPENBLAS_NUM_THREADS')"
# What other commands need, of ours and of others.
SLOW = {
    *("numba", "llvmlite", "jinja2", "tokenizers", "sentencepiece", "numpy.random", "numpy.ma"),
    *("asyncio", "ssl", "hashlib", "logging", "importlib.metadata", "importlib.resources"),
    *("cpumix.tokenizer.tokenizer", "cpumix.tokenizer.chat_template", "cpumix.store.writer"),
    *("cpumix.experts.pager", "cpumix.checkpoint.lora", "cpumix.converter"),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_the_names_that_it_promises(package):
    module = import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'laod'"):
        module.laod  # noqa: B018


def test_a_name_is_looked_up_in_its_module_each_time(monkeypatch):
    find = names_in("cpumix", {"prod": "config.values"})
    monkeypatch.setattr("cpumix.config.values.prod", 1, raising=False)
    assert find("prod") == 1
    monkeypatch.setattr("cpumix.config.values.prod", 2)
    assert find("prod") == 2


def test_later_is_the_function_itself():
    assert later("math", "hypot")(3, 4) == 5


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A folder with one model in three forms."""
    folder = tmp_path_factory.mktemp("sources")
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96}
    write_checkpoint(folder / "hf", **sizes)
    cpumix.convert(folder / "hf", folder / "model.bin", "int4")
    cpumix.export(folder / "model.bin", folder / "model.gguf")
    return folder


CASES = {  # the command, and which containers and encodings it imports
    "hf": ("inspect {}/hf", {"safetensors"}, {"plain"}),
    "gguf": ("inspect {}/model.gguf", set(), {"plain", "ggml"}),
    "model": ("inspect {}/model.bin", set(), {"plain"}),
    "fit": ("fit {}/hf --no-probe --ram 8G", set(), {"plain"}),
}


def after(expression: str, words: list[str], **environment: str) -> list[str]:
    """Run a command of cpumix in a process of its own; return what is the case there afterwards."""
    done = run(["-c", RUN, expression, *words], **environment)
    assert (done.returncode, "error" in done.stderr) == (0, False), done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_only_what_is_needed_is_imported(sources, case):
    """Most of the time that `cpumix inspect` takes is that of its imports."""
    command, containers, encodings = CASES[case]
    modules = after(MODULES, command.format(sources).split())
    assert SLOW & set(modules) <= ({"logging"} if case == "fit" else set())  # its probe's pool
    assert rows("containers", modules) == containers
    assert rows("encodings", modules) == encodings


def rows(room: str, modules: list[str]) -> set[str]:
    """Return the rows of a table whose modules have been imported, by the modules' names."""
    begin = f"cpumix.checkpoint.{room}."
    names = {name.removeprefix(begin).partition(".")[0] for name in modules if begin in name}
    return names - {"gguf", "gguf_files"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no account of threads")
@pytest.mark.parametrize("command", ["inspect {}/hf", "fit {}/hf --no-probe --ram 8G"])
def test_numpy_has_the_threads_that_the_user_names_or_none(sources, command, monkeypatch):
    """And the variable that tells it is the user's again afterwards."""
    words = command.format(sources).split()
    assert after(THREADS, words, OPENBLAS_NUM_THREADS="2")[1:] == ["2"]
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert after(THREADS, words) == ["1", "None"]
