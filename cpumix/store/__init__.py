"""The model file: one mapped file that holds the weights, the tokenizer and the configuration.

`layout` says what is in it and where, `gguf` is its container, `writer` makes it (through
`partial`, the file that is not there yet), `reader` maps it and `residency` says how much of it is
in memory.
"""

from .layout import TensorEntry, build_entries, build_metadata
from .reader import MappedTensor, ModelFile
from .writer import ModelWriter

__all__ = [
    "MappedTensor",
    "ModelFile",
    "ModelWriter",
    "TensorEntry",
    "build_entries",
    "build_metadata",
]
