"""What every test session says and shares."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

import cpumix


def pytest_report_header() -> str:
    from cpumix.kernels.isa import active  # not above: tests that need no kernel start faster

    return f"numba {version('numba')}, llvmlite {version('llvmlite')}, CPU level {active().name}"


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The model file that ships in the package."""
    return next((Path(cpumix.__file__).parent / "demo").glob("*.bin"))
