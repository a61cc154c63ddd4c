"""Run Mixtral on a machine with no GPU: one mapped file, kernels at the speed of memory.

The public names are `load`, `convert`, `export`, `plan` and `SamplingParams`. Each loads its module
when it is first used, so that `import cpumix` and `cpumix --help` stay instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import names_in

if TYPE_CHECKING:
    from cpumix.converter import convert as convert
    from cpumix.exporter import export as export
    from cpumix.fit.planning import plan as plan
    from cpumix.loading import load as load
    from cpumix.sampling.params import SamplingParams as SamplingParams

__version__ = "0.3.0"
__all__ = ["SamplingParams", "__version__", "convert", "export", "load", "plan"]

__getattr__ = names_in(
    __name__,
    {
        "SamplingParams": "sampling.params",
        "convert": "converter",
        "export": "exporter",
        "load": "loading",
        "plan": "fit.planning",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
