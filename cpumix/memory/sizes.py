"""What the parts of a running model take in memory, in bytes: the terms that `plan` adds up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

from cpumix.config import ModelConfig, Role
from cpumix.kernels.rows import stride
from cpumix.quant.precision import INT8_EXPERTS, Precision
from cpumix.store.gguf import align
from cpumix.store.layout import ALIGNMENT, dense_entry, expert_entry
from cpumix.units import MIB

PREFILL_TOKENS = 512  # tokens of a prompt that go through the model together
# Interpreter, NumPy, Numba with LLVM, loaded kernels: 157 MiB on Linux x86-64, Python 3.11,
# two threads (`cpumix fit --verify` measures it). The first run, which compiles, takes 90 MiB more.
PROGRAM_BYTES = 157 * MIB
TOKENIZER_LIBRARIES = 32 * MIB  # of the program: what the first tokenizer of a process loads
TOKEN_BYTES = 400  # of a tokenizer for each token: 11 MiB for Mixtral's 32,000


@dataclass(frozen=True)
class WeightSizes:
    """What the tensors of a model take in the file, page alignment included."""

    count: int  # of the weights
    dense: int
    embedding: int  # of the dense part; 0 where it serves as output too
    expert: tuple[int, ...]  # one of each layer


@lru_cache(maxsize=16)
def weight_sizes(config: ModelConfig, precision: Precision) -> WeightSizes:
    """Add up the tensors of a model file."""
    if precision.int8_layers:  # put together from two levels: the plans of all mixes take no time
        low = weight_sizes(config, Precision("", precision.experts, precision.dense))
        high = weight_sizes(config, Precision("", INT8_EXPERTS, precision.dense))
        sizes = list(low.expert)
        for layer in precision.int8_layers:
            sizes[layer] = high.expert[layer]
        return WeightSizes(low.count, low.dense, low.embedding, tuple(sizes))
    count = dense = embedding = 0
    for spec in config.dense_tensors():
        size = align(dense_entry(spec, precision).nbytes, ALIGNMENT)
        count += prod(spec.shape)
        dense += size
        if spec.role is Role.EMBEDDING and not config.tie_word_embeddings:
            embedding = size
    expert = expert_entry(config, precision, 0)
    layers = config.num_hidden_layers
    count += prod(expert.shape) * config.num_local_experts * layers
    return WeightSizes(count, dense, embedding, (align(expert.nbytes, ALIGNMENT),) * layers)


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
