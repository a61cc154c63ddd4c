"""The families of models that cpumix runs: a file and a row in `FAMILIES` each.

The defaults are those of transformers 5.23 (models/*/configuration_*.py): a checkpoint means what
they say it means.
"""

from .family import Family, TensorNames
from .llama import LLAMA
from .mistral import MISTRAL
from .mixtral import MIXTRAL

FAMILIES = {family.architecture: family for family in (MIXTRAL, MISTRAL, LLAMA)}

__all__ = ["FAMILIES", "Family", "TensorNames"]
