"""The model file: one mapped file that holds the weights, the tokenizer and the configuration.

`layout` says what is in it and where, `gguf` is its container, `writer` makes it (through
`partial`, the file that is not there yet), `reader` maps it and `residency` says how much of it is
in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpumix.lazy import names_in

if TYPE_CHECKING:
    from .layout import TensorEntry as TensorEntry
    from .layout import build_entries as build_entries
    from .layout import build_metadata as build_metadata
    from .reader import MappedTensor as MappedTensor
    from .reader import ModelFile as ModelFile
    from .writer import ModelWriter as ModelWriter

__all__ = [
    "MappedTensor",
    "ModelFile",
    "ModelWriter",
    "TensorEntry",
    "build_entries",
    "build_metadata",
]
__getattr__ = names_in(
    __name__,
    {
        "MappedTensor": "reader",
        "ModelFile": "reader",
        "ModelWriter": "writer",
        "TensorEntry": "layout",
        "build_entries": "layout",
        "build_metadata": "layout",
    },
)
