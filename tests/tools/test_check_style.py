"""The house rules hold, and the program that checks them sees when they do not."""

from __future__ import annotations

from pathlib import Path

import check_style
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("rule", check_style.CHECKS, ids=lambda rule: rule.__name__)
def test_house_style(rule):
    assert list(rule(check_style.ROOT)) == []


@pytest.fixture
def tree(tmp_path):
    """A package that keeps the rules; `write` adds to it."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path

    write("cpumix/errors.py", "class ConfigError(Exception): ...\n")
    write("cpumix/units.py", "from .errors import ConfigError\n")
    return write


def test_circle_is_seen(tree):
    tree("cpumix/kv/cache.py", "def f():\n    from cpumix.kv.pool import Pool")
    root = tree("cpumix/kv/pool.py", "if TYPE_CHECKING:\n    from .cache import Cache")
    found = list(check_style.check_circles(root))
    assert len(found) == 1
    assert "a circle of imports: cpumix.kv." in found[0]
    root = tree("cpumix/kv/pool.py", "from .. import units")
    assert list(check_style.check_circles(root)) == []


@pytest.mark.parametrize(
    ("body", "complaints"),
    [
        ("sums = np.zeros(16)\n    store(address(sums))", 1),
        ("for row in rows:\n        store(address(row))", 1),
        ("store(address(out))", 0),
        ("store(address(out.codes))", 0),
        ("def inner(sums):\n        store(address(sums))\n    inner(np.zeros(16))", 0),
        ("def inner(sums):\n        store(address(out))", 1),  # a closure holds nothing for numba
    ],
)
def test_address_that_outlives_its_array_is_seen(tree, body, complaints):
    root = tree("cpumix/kernels/norm.py", f"def norm(out, rows):\n    {body}\n")
    found = list(check_style.check_addresses(root))
    assert len(found) == complaints
    assert all("may outlive the array" in x for x in found)


def test_long_file_is_seen(tree):
    root = tree("cpumix/config.py", "\n" * 321)
    assert list(check_style.check_lengths(root)) == ["cpumix/config.py: 321 lines, at most 320 fit"]


@pytest.mark.parametrize(
    ("here", "there", "complaints"),
    [
        ("ROWS = 16", "ROWS = 4", 1),
        ("class Row: ...", "class Row: ...", 1),
        ("ROWS, STEP = range(2)", "ROWS, STEP = range(2)", 1),  # of one table, and of another
        ("ROWS: int = 1", "LINES = 1", 0),
        ("Ints = list[int]", "Ints = list[int]", 0),
    ],
)
def test_name_with_two_meanings_is_seen(tree, here, there, complaints):
    tree("cpumix/quant/tiles.py", here)
    tree("cpumix/store/use.py", "from cpumix.quant.tiles import Ints, ROWS, Row")
    found = list(check_style.check_names(tree("cpumix/model.py", there)))
    assert len(found) == complaints
    assert all("model.py and quant/tiles.py; one name, one meaning" in x for x in found)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("cpumix/units.py", "import cpumix.memory", "units must not import memory"),
        ("cpumix/quant/q4.py", "from ..store import gguf", "quant must not import store"),
        ("cpumix/store/writer.py", "def f():\n    from cpumix import memory", "not import memory"),
        ("cpumix/kv/cache.py", "from ..memory import planner", "kv must not import memory"),
        ("cpumix/model.py", "import cpumix", "model must not import __init__"),
        ("cpumix/model.py", "import numba.core", "numba is imported only in cpumix/kernels/"),
        ("cpumix/model.py", "from psutil import x", "psutil is imported only in cpumix/machine.py"),
        ("cpumix/kernels/q4.py", "from numba import njit", "njit is used only in"),
        ("cpumix/utils.py", "", "not a room"),
    ],
)
def test_wrong_import_is_seen(tree, name, text, complaint):
    (found,) = check_style.check_imports(tree(name, text))
    assert complaint in found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cpumix/cli/run.py", "import click, cpumix\nfrom cpumix.errors import ConfigError"),
        ("cpumix/store/writer.py", "from . import gguf\nfrom ..config import ModelConfig"),
        ("cpumix/kernels/compile/jit.py", "from numba import njit"),
        ("cpumix/__init__.py", "from cpumix.model import load"),
    ],
)
def test_right_import_is_not(tree, name, text):
    assert list(check_style.check_imports(tree(name, text))) == []


def test_two_files_of_tests_with_one_name_are_seen(tree):
    tree("tests/a/test_x.py", "")
    (found,) = check_style.check_test_files(tree("tests/b/test_x.py", ""))
    assert found == "tests/b/test_x.py: has the name of tests/a/test_x.py"


FAULT = (
    'raise ConfigError(f"context {n}: expected at most {m} tokens, found " f"{n}. Less, please")'
)


@pytest.mark.parametrize(
    ("test", "covered"),
    [
        (r'match=r"expected at most .* tokens"', True),
        (r'match="Less, please"', True),
        (r'match=r"found \d+\. Less, please$"', True),
        (r'match="expected one of"', False),
        (r'match="expected"', False),
    ],
)
def test_message_without_a_test_is_seen(tree, test, covered):
    tree("cpumix/model.py", FAULT)
    root = tree("tests/test_plan.py", f"raises(ConfigError, {test})")
    assert (list(check_style.check_messages(root)) == []) is covered


def test_message_shared_with_another_needs_its_own_words(tree):
    other = FAULT.replace("Less", "Much less").replace("context", "prompt of")
    tree("cpumix/model.py", f"{FAULT}\n{other}")
    root = tree("tests/test_plan.py", 'raises(ConfigError, match="expected at most .* tokens")')
    assert len(list(check_style.check_messages(root))) == 2


@pytest.mark.parametrize("decorator", ["kernel", 'specialised(parallel_kernel, "q8")'])
@pytest.mark.parametrize(("count", "complaints"), [(8, 0), (9, 1)])
def test_kernels_of_many_arguments_are_seen(tree, decorator, count, complaints):
    arguments = ", ".join(f"x{i}" for i in range(count))
    root = tree("cpumix/kernels/k.py", f"@{decorator}\ndef run({arguments}): ...\n")
    tree("cpumix/kernels/plain.py", f"def run({arguments}, more): ...\n")
    found = list(check_style.check_kernels(root))
    assert found == ["cpumix/kernels/k.py:2: run takes 9 arguments, at most 8"][:complaints]


@pytest.mark.parametrize("owner", ["time", "progress.time", '"time.monotonic"'])
def test_clock_of_all_threads_is_seen(tree, owner):
    root = tree("tests/test_one.py", f"def f(m):\n    m.setattr({owner}, 'sleep', 1)\n")
    found = list(check_style.check_clocks(root))
    assert found == ["tests/test_one.py:2: sets the clock of all threads"]
    root = tree("tests/test_one.py", "def f(m):\n    m.setattr(progress, 'time', 1)\n")
    assert list(check_style.check_clocks(root)) == []
