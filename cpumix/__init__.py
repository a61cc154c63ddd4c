"""Run Mixtral on a machine with no GPU: one mapped file, kernels at the speed of memory.

The public names are `load`, `convert`, `export`, `plan` and `SamplingParams`. Each loads its module
when it is first used, so that `import cpumix` and `cpumix --help` stay instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpumix.converter import convert as convert
    from cpumix.exporter import export as export
    from cpumix.fit.planning import plan as plan
    from cpumix.loading import load as load
    from cpumix.sampling.params import SamplingParams as SamplingParams

__version__ = "0.3.0"
__all__ = ["SamplingParams", "__version__", "convert", "export", "load", "plan"]

_HOMES = {
    "SamplingParams": "cpumix.sampling.params",
    "convert": "cpumix.converter",
    "export": "cpumix.exporter",
    "load": "cpumix.loading",
    "plan": "cpumix.fit.planning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cpumix' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
