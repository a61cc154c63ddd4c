"""Run Mixtral on a machine with no GPU: one mapped file, kernels at the speed of memory.

The public names are `load`, `convert` and `plan`. Each loads its module when it is first used, so
that `import cpumix` and `cpumix --help` stay instant.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpumix.convert import convert as convert
    from cpumix.generate import load as load
    from cpumix.plan import plan as plan

__version__ = "0.1.0"
__all__ = ["__version__", "convert", "load", "plan"]

_HOMES = {"convert": "cpumix.convert", "load": "cpumix.generate", "plan": "cpumix.plan"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cpumix' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keep `cpumix.convert` and `cpumix.plan` functions.

    They share their names with the modules they live in, and Python would put the module in the
    function's place as soon as anything imports it.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return  # the module stays in sys.modules; the name goes on meaning the function
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
