"""Checkpoints as people have them: Hugging Face folders, read tensor by tensor under our names.

`files` reads from the disk, `safetensors` understands one shard's header and `shards` a folder of
them, `naming` is the table of names, and `huggingface` puts all of it together.
"""

from .huggingface import Checkpoint, open_checkpoint
from .tensor import SourceTensor

__all__ = ["Checkpoint", "SourceTensor", "open_checkpoint"]
