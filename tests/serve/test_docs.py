"""What docs/serving.md shows works, against a server of the demo model."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent.parent / "docs" / "serving.md").read_text("utf-8")
CURL = re.findall(r"^\$ (curl .*)$", PAGE, re.MULTILINE)
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def to(served, text: str) -> str:
    return text.replace("http://localhost:8080", served.url)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("line", CURL)
def test_curl(demo, line):
    command = ["bash", "-c", to(demo, line)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert '"choices"' in done.stdout


@pytest.mark.parametrize("program", PYTHON)
def test_python(demo, program, capsys):
    exec(compile(to(demo, program), "docs/serving.md", "exec"), {})
    assert capsys.readouterr().out.strip()
