"""The shapes of well-known models, so that `cpumix fit` can answer before anything is downloaded.

Each family has its own (`Family.models`).
"""

from __future__ import annotations

from cpumix.config import FAMILIES, ModelConfig

DEFAULT = "mixtral-8x7b"
_CONFIGS = {
    name: {"architectures": [family.architecture], **fields}
    for family in FAMILIES.values()
    for name, fields in family.models.items()
}
MODEL_NAMES = tuple(_CONFIGS)


def known_model(name: str) -> ModelConfig:
    """Return the shape of a model in `MODEL_NAMES`."""
    return ModelConfig.from_huggingface(_CONFIGS[name], name)
