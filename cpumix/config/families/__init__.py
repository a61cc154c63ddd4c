"""The families of models that cpumix runs: a file and a row in `FAMILIES` each.

The defaults are those of transformers 5.23 (models/*/configuration_*.py): a checkpoint means what
they say it means.
"""

from .family import Family, TensorNames
from .llama import LLAMA
from .mistral import MISTRAL
from .mixtral import MIXTRAL
from .olmoe import OLMOE
from .qwen2 import QWEN2
from .qwen3 import QWEN3, QWEN3_MOE

_ALL = (MIXTRAL, MISTRAL, LLAMA, QWEN2, QWEN3, QWEN3_MOE, OLMOE)
FAMILIES = {family.architecture: family for family in _ALL}

__all__ = ["FAMILIES", "Family", "TensorNames"]
