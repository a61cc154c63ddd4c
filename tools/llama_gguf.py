"""GGUF files for comparisons: a checkpoint with its weights unchanged, and llama.cpp's types of it.

Names, metadata and the order of the rows of q and k follow llama.cpp's "llama" architecture: it
rotates neighbouring pairs of a head's columns, where the checkpoints rotate its halves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.checkpoint import Checkpoint, open_checkpoint
from cpumix.config import ModelConfig, Role
from cpumix.quant.bf16 import to_float32
from cpumix.store import gguf

TYPES = {"uint16": 30, "float16": 1, "float32": 0}  # of GGUF; uint16 are the bits of bfloat16
ALIGNMENT = 32
NORMAL, CONTROL, BYTE = 1, 3, 6  # kinds of tokens
EXPERT_PARTS = {Role.W1: "ffn_gate", Role.W3: "ffn_up", Role.W2: "ffn_down"}


class Part(NamedTuple):
    """A tensor of the GGUF file, and the tensors of the checkpoint that are stacked in it."""

    name: str
    shape: tuple[int, ...]
    sources: list[str]
    heads: int = 0  # of q and k, whose rows are reordered


def write(folder: Path, target: Path) -> None:
    """Write the checkpoint in `folder` to `target`, which may exist."""
    checkpoint = open_checkpoint(folder)
    parts = list(_parts(checkpoint.config))
    infos, offset = [], 0
    for part in parts:
        kind = _dtype(checkpoint, part)
        infos.append(gguf.TensorInfo(part.name, part.shape, TYPES[kind.name], offset))
        size = int(np.prod(part.shape)) * kind.itemsize
        offset = gguf.align(offset + size, ALIGNMENT)
    with open(target, "wb") as file:
        file.write(gguf.encode_header(_metadata(checkpoint), infos))
        file.write(bytes(-file.tell() % ALIGNMENT))
        for part in parts:
            for source in part.sources:
                file.write(_rows(checkpoint, part, source).tobytes())
            file.write(bytes(-file.tell() % ALIGNMENT))


def quantize(source: Path, target: Path, kind: str, threads: int = 0) -> None:
    """Let the package llama-cpp-python write a GGUF file in one of llama.cpp's types."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread, options.ftype = threads, getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    paths = str(source).encode(), str(target).encode()
    if llama_cpp.llama_model_quantize(*paths, ctypes.byref(options)):
        raise SystemExit(f"llama.cpp: expected it to quantize to {kind}, found that it failed.")


def _parts(config: ModelConfig) -> Iterator[Part]:
    heads = {Role.WQ: config.num_attention_heads, Role.WK: config.num_key_value_heads}
    for spec in config.dense_tensors():
        theirs = spec.name.replace("router", "ffn_gate_inp")
        yield Part(theirs, spec.shape, [spec.name], heads.get(spec.role, 0))
    for layer in range(config.num_hidden_layers):
        experts = [config.expert_tensors(layer, e) for e in range(config.num_local_experts)]
        for parts in zip(*experts, strict=True):  # the same matrix of each
            name, shape = f"blk.{layer}.{EXPERT_PARTS[parts[0].role]}", parts[0].shape
            sources = [part.name for part in parts]
            if config.is_moe:
                yield Part(f"{name}_exps.weight", (len(parts), *shape), sources)
            else:
                yield Part(f"{name}.weight", shape, sources)


def _is_small(part: Part) -> bool:
    """Whether llama.cpp wants it as float32: norms and routers."""
    return len(part.shape) == 1 or "ffn_gate_inp" in part.name


def _dtype(checkpoint: Checkpoint, part: Part) -> np.dtype[Any]:
    kept = checkpoint.tensors[part.sources[0]].read_rows(0, 0).dtype
    return np.dtype(np.float32) if _is_small(part) else kept


def _rows(checkpoint: Checkpoint, part: Part, source: str) -> NDArray[Any]:
    tensor = checkpoint.tensors[source]
    rows = tensor.read_rows(0, tensor.shape[0])
    if part.heads:
        halves = rows.reshape(part.heads, 2, -1, tensor.shape[1])
        rows = halves.swapaxes(1, 2).reshape(tensor.shape)
    if _is_small(part) and rows.dtype == np.uint16:
        rows = to_float32(rows)
    return rows.astype(_dtype(checkpoint, part), copy=False)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    c = checkpoint.config
    numbers: Mapping[str, int | float] = {
        "block_count": c.num_hidden_layers,
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "feed_forward_length": c.intermediate_size,
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.num_key_value_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": float(c.rms_norm_eps),
        "rope.freq_base": float(c.rope_theta),
        "rope.dimension_count": c.head_dim,
        "vocab_size": c.vocab_size,
    }
    if c.is_moe:
        experts = {"expert_count": c.num_local_experts, "expert_used_count": c.num_experts_per_tok}
        numbers = {**numbers, **experts}
    pieces, kinds = _vocabulary(c.vocab_size)
    return {
        "general.architecture": "llama",
        "general.alignment": ALIGNMENT,
        **{f"llama.{name}": value for name, value in numbers.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": -np.arange(len(pieces), dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _vocabulary(size: int) -> tuple[list[str], list[int]]:
    """Return stand-ins for the tokens and their kinds: speed does not depend on how they read."""
    pieces = [f"<0x{i - 3:02X}>" if 3 <= i < 259 else f"t{i}" for i in range(size)]
    kinds = [CONTROL if i < 3 else BYTE if i < 259 else NORMAL for i in range(size)]
    return pieces, kinds
