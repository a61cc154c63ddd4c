"""What a model is, apart from its weights: the part of Hugging Face's config.json that cpumix runs.

`ModelConfig` is what the rest of cpumix sees; `huggingface` knows what is in a config.json, and
refuses by name what would change the result and what nobody here has heard of.
"""

from .model import ModelConfig, RopeScaling

__all__ = ["ModelConfig", "RopeScaling"]
