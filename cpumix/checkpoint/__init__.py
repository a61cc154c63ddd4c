"""Reads the checkpoints that people have; each tensor comes with its canonical name.

`open_checkpoint` checks everything that headers can show before it returns: a conversion that
starts does not fail later over a name, a shape or a missing file. Three axes, one file each point:

    containers/  bytes on disk to stored tensors       (`stored.StoredTensor`)
    encodings/   stored parts to matrices of weights   (`matrix.Matrix`)
    namings/     a source's names to canonical ones    (`namings.places.Place`)

`sources/` says what of them comes together in a folder or file, `open` finds the source; `lora/`
merges adapters into any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpumix.lazy import names_in

from .open import open_checkpoint, read_config, read_files
from .tensor import Checkpoint, SourceTensor

if TYPE_CHECKING:
    from .lora import merge_adapter as merge_adapter

__all__ = [
    "Checkpoint",
    "SourceTensor",
    "merge_adapter",
    "open_checkpoint",
    "read_config",
    "read_files",
]
__getattr__ = names_in(__name__, {"merge_adapter": "lora"})
