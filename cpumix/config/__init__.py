"""What a model is, apart from its weights: the part of Hugging Face's config.json that cpumix runs.

`ModelConfig` is what the rest of cpumix sees, `tensors` says what a tensor is for, `families` has
what tells one kind of model from another; `huggingface` knows what is in a config.json, and refuses
by name what would change the result and what nobody here has heard of.
"""

from .families import FAMILIES, Family, TensorNames
from .huggingface import without_fields
from .model import ModelConfig
from .rope_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
)
from .tensors import (
    ATTENTION_MATRICES,
    BIASES,
    EXPERT_PARTS,
    NORMS,
    WHOLE_EXPERTS,
    Role,
    TensorSpec,
    tensor_name,
)

__all__ = [
    "ATTENTION_MATRICES",
    "BIASES",
    "EXPERT_PARTS",
    "FAMILIES",
    "NORMS",
    "WHOLE_EXPERTS",
    "DynamicScaling",
    "Family",
    "LinearScaling",
    "Llama3Scaling",
    "ModelConfig",
    "Role",
    "RopeScaling",
    "TensorNames",
    "TensorSpec",
    "YarnScaling",
    "tensor_name",
    "without_fields",
]
