"""The package from outside: what a fresh interpreter imports, and how fast it answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cpumix

PACKAGE = Path(cpumix.__file__).parent
MODULES = sorted(
    ".".join(["cpumix", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)
NEEDS_NUMBA = re.compile(
    r"cpumix\.(kernels|experts|model|generate|generation|warmup|convert|evaluate|bench)\b"
)


def fresh(code: str) -> str:
    """Run code in a new interpreter where warnings are errors, and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_alone(module):
    loaded = fresh(f"import sys, {module}; print(*sys.modules)").split()
    if not NEEDS_NUMBA.match(module):
        assert "numba" not in loaded
    if not module.startswith("cpumix.cli"):
        assert "click" not in loaded


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
    assert not {"numba", "numpy", "llvmlite"} & set(loaded)


def test_public_names_stay_functions_beside_modules_of_the_same_name():
    code = """
import cpumix, cpumix.plan, cpumix.convert
from cpumix.plan import make_plan
assert callable(cpumix.plan) and callable(cpumix.convert) and callable(cpumix.load)
assert callable(make_plan)
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
