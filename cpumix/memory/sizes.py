"""What the parts of a running model take in memory, in bytes: the terms that `plan` adds up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from cpumix.config import ModelConfig, Role, TensorSpec
from cpumix.kernels.rows import stride
from cpumix.quant import nbytes
from cpumix.quant.precision import Precision
from cpumix.store.gguf import align
from cpumix.store.layout import ALIGNMENT, expert_nbytes
from cpumix.units import MIB

PREFILL_TOKENS = 512  # tokens of a prompt that go through the model together
# Interpreter, NumPy, Numba with LLVM, loaded kernels, the command line: 164 MiB on Linux x86-64,
# Python 3.11, two threads (`cpumix run --stats` tells all that a run took). The first run, which
# compiles, takes 90 MiB more.
PROGRAM_BYTES = 166 * MIB
TOKENIZER_LIBRARIES = 32 * MIB  # of the program: what the first tokenizer of a process loads
TOKEN_BYTES = 400  # of a tokenizer for each token: 11 MiB for Mixtral's 32,000


@dataclass(frozen=True)
class WeightSizes:
    """What the tensors of a model take in the file, page alignment included."""

    dense: int
    embedding: int  # of the dense part; 0 where it serves as output too
    expert: tuple[int, ...]  # one of each layer
    low: int  # a low copy of one, 0 without them
    experts: int  # of a layer

    @property
    def total(self) -> int:
        """All of them."""
        return self.dense + (sum(self.expert) + len(self.expert) * self.low) * self.experts


@lru_cache(maxsize=64)
def weight_sizes(config: ModelConfig, precision: Precision) -> WeightSizes:
    """Add up the tensors of a model file."""
    dense = embedding = 0
    for spec in _dense_tensors(config):
        size = _aligned(precision.format(spec), spec.shape)
        dense += size
        if spec.role is Role.EMBEDDING and not config.tie_word_embeddings:
            embedding = size
    formats = (precision.layer(layer).expert for layer in range(config.num_hidden_layers))
    expert = tuple(expert_bytes(config, name) for name in formats)
    low = expert_bytes(config, precision.low) if precision.low else 0
    return WeightSizes(dense, embedding, expert, low, config.num_local_experts)


@lru_cache(maxsize=16)
def weight_count(config: ModelConfig) -> int:
    """Return how many weights a model has."""
    parts = config.expert_tensors(0, 0)
    experts = config.num_local_experts * config.num_hidden_layers
    inner = sum(prod(part.shape) for part in parts) * experts
    return inner + sum(prod(spec.shape) for spec in _dense_tensors(config))


@lru_cache(maxsize=256)
def expert_bytes(config: ModelConfig, expert_format: str) -> int:
    """Return what one expert takes in the file, in this format of a whole expert."""
    return align(expert_nbytes(config, expert_format), ALIGNMENT)


@lru_cache(maxsize=256)
def dense_bytes(config: ModelConfig, format_name: str, roles: tuple[Role, ...]) -> int:
    """Return what matrices of the dense part take together; where layers have them, one layer's."""
    return sum(
        _aligned(format_name, spec.shape)
        for spec in _dense_tensors(config)
        if spec.role in roles and not spec.layer
    )


@lru_cache(maxsize=4)
def _dense_tensors(config: ModelConfig) -> tuple[TensorSpec, ...]:
    return tuple(config.dense_tensors())


@lru_cache(maxsize=1024)
def _aligned(format_name: str, shape: tuple[int, ...]) -> int:
    return align(nbytes(format_name, shape), ALIGNMENT)


def buffer_bytes(config: ModelConfig, context: int) -> int:
    """Return what a prefill batch touches of the model's buffers (see `model.Buffers`).

    Rows of activations are float32, and those that quantized weights read are 8-bit codes too, with
    a header of 16 bytes for each 32 of them. Routers are copied, widened to 16 experts, and so is
    the head of a classifier.
    """
    hidden, inner = stride(config.hidden_size), stride(config.intermediate_size)
    q, kv, active = stride(config.q_size), stride(config.kv_size), config.num_experts_per_tok
    values = 3 * hidden + 2 * q + 2 * kv + active * (2 * hidden + inner)
    codes = hidden + q + active * (hidden + inner)
    rows = min(PREFILL_TOKENS, context) * int(4 * values + 1.5 * codes)
    routers = 0
    if config.is_moe:
        columns = align(config.num_local_experts, 16)
        routers = config.num_hidden_layers * config.hidden_size * columns * 4
    head = len(config.labels) * config.hidden_size if config.is_classifier else config.vocab_size
    return rows + routers + 4 * head
