"""The package from outside: what a fresh interpreter imports, and how fast it answers."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from levels import run

import cpumix

pytestmark = pytest.mark.slow

PACKAGE = Path(cpumix.__file__).parent
MODULES = sorted(
    ".".join(["cpumix", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)
NEEDS_NUMBA = re.compile(
    r"cpumix\.(kernels|experts|transformer|engine|model|converter|measure|api|batch|loading|ray|serve)\b"
)


def fresh(code: str, *arguments: str, **environment: str) -> str:
    """Run code in a new interpreter where warnings are errors, and return what it prints."""
    done = run(["-W", "error", "-c", code, *arguments], **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT_EACH = """
import json, os, sys, traceback

def loaded_by(module):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        try:
            __import__(module)
            answer = {name: name in sys.modules for name in ("numba", "click")}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(theirs, json.dumps(answer).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        return json.load(answer)

import numpy
light, heavy = sys.argv[1].split(), sys.argv[2].split()
found = {module: loaded_by(module) for module in light}
import numba
found |= {module: loaded_by(module) for module in heavy}
print(json.dumps(found))
"""


@pytest.mark.long_run
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that begin with NumPy")
def test_each_module_imports_alone():
    """In a process with none of ours: NumPy and numba, which take longest, are there already."""
    heavy = [module for module in MODULES if NEEDS_NUMBA.match(module)]
    light = [module for module in MODULES if module not in heavy]
    found = fresh(IMPORT_EACH, " ".join(light), " ".join(heavy), OPENBLAS_NUM_THREADS="1")
    imports = json.loads(found)
    assert sorted(imports) == MODULES
    errors = {module: answer["error"] for module, answer in imports.items() if "error" in answer}
    assert not errors
    assert not [module for module in light if imports[module]["numba"]]
    others = ("cpumix.cli", "cpumix.serve", "cpumix.batch.ray", "cpumix.ray")  # all have commands
    assert not [m for m in MODULES if imports[m]["click"] and not m.startswith(others)]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "-h"], ["convert", "-h"]])
def test_help_loads_neither_numba_nor_numpy(arguments):
    code = f"""
import sys
from cpumix.cli.main import main
try:
    main({arguments})
except SystemExit as exit:
    assert exit.code == 0
print("loaded:", *sys.modules)
"""
    loaded = fresh(code).split("loaded:")[1].split()
    assert not {"numba", "numpy", "llvmlite", "cpumix.tokenizer"} & set(loaded)


def test_public_names_are_no_modules():
    code = """
import cpumix
for name in ("convert", "load", "plan"):
    assert callable(getattr(cpumix, name))
    try:
        __import__(f"cpumix.{name}")
    except ImportError:
        continue
    raise AssertionError(name)
"""
    fresh(code)


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="module 'cpumix' has no attribute 'laod'"):
        cpumix.laod  # noqa: B018


def test_all_public_names_exist():
    assert all(hasattr(cpumix, name) for name in cpumix.__all__)
    assert set(cpumix.__all__) <= set(dir(cpumix))


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert cpumix.__version__ == version("cpumix")
