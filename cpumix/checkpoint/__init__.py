"""Reads the checkpoints that people have; each tensor comes with its canonical name.

`open_checkpoint` checks everything that headers can show before it returns: a conversion that
starts does not fail later over a name, a shape or a missing file.
"""

from .huggingface import Checkpoint, open_checkpoint
from .tensor import SourceTensor

__all__ = ["Checkpoint", "SourceTensor", "open_checkpoint"]
