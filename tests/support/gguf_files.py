"""GGUF files as other programs write them, of the weights in tiny_checkpoint.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
from numpy.typing import NDArray
from tiny_checkpoint import to_f32

from cpumix.checkpoint.encodings.ggml import GGML_TYPES
from cpumix.store import gguf

TOKENIZERS = Path(__file__).parents[1] / "data/tokenizer"
CODES = {kind.name: code for code, kind in GGML_TYPES.items()}
NAMES = {"w1": "gate", "w3": "up", "w2": "down"}


class Stored(NamedTuple):
    """A tensor's type, row-major shape and bytes."""

    kind: str
    shape: tuple[int, ...]
    data: bytes


def stored(bits: NDArray[Any], kind: str = "BF16") -> Stored:
    """Return bfloat16 bits as a tensor of BF16 or F32."""
    return Stored(kind, bits.shape, (bits if kind == "BF16" else to_f32(bits)).tobytes())


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Path:
    """Write a file whose tensors follow one another at multiples of 32 bytes."""
    places, offset = [], 0
    for name, t in tensors.items():
        places.append(gguf.TensorInfo(name, t.shape, CODES.get(t.kind, 2**32 - 1), offset))
        offset = gguf.align(offset + len(t.data), 32)
    header = gguf.encode_header(metadata, places)
    content = [header.ljust(gguf.align(len(header), 32), b"\0")]
    content += [t.data.ljust(gguf.align(len(t.data), 32), b"\0") for t in tensors.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(content))
    return path


def metadata_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what llama.cpp's converter writes for a config.json, without a tokenizer."""
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config.get("rms_norm_eps", 1e-5),
        "llama.rope.freq_base": config.get("rope_theta", 1e6),
        "llama.rope.dimension_count": head_dim(config),
        "llama.vocab_size": config["vocab_size"],
        "general.quantization_version": 2,
    }
    if "num_local_experts" in config:
        metadata["llama.expert_count"] = config["num_local_experts"]
        metadata["llama.expert_used_count"] = config["num_experts_per_tok"]
    return metadata


def head_dim(config: Mapping[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def tensors_of(
    config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], form: str = "merged"
) -> dict[str, Stored]:
    """Return weights under llama.cpp's names; `form` is "merged", "fused" or "per expert"."""
    found: dict[str, Stored] = {}
    experts: dict[str, list[NDArray[Any]]] = {}
    for name, bits in weights.items():
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            bits = to_pairs(bits, head_dim(config))
        if ".expert." in name:
            _, layer, _, expert, part = name.split(".")
            if "num_local_experts" not in config:
                found[f"blk.{layer}.ffn_{NAMES[part]}.weight"] = stored(bits)
            elif form == "per expert":
                found[f"blk.{layer}.ffn_{NAMES[part]}.{expert}.weight"] = stored(bits)
            else:
                experts.setdefault(f"blk.{layer}.ffn_{NAMES[part]}_exps.weight", []).append(bits)
        elif name.endswith("router.weight"):
            found[name.replace("router", "ffn_gate_inp")] = stored(bits, "F32")
        else:
            found[name] = stored(bits, "F32" if bits.ndim == 1 else "BF16")
    stacks = {name: np.stack(parts) for name, parts in experts.items()}
    if form == "fused":
        for name in [name for name in stacks if "ffn_gate_exps" in name]:
            both = stacks.pop(name), stacks.pop(name.replace("gate", "up"))
            stacks[name.replace("gate", "gate_up")] = np.concatenate(both, axis=1)
    return found | {name: stored(stack) for name, stack in stacks.items()}


def to_pairs(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """Reorder rows of q or k from RoPE's halves (i, i + size/2) to pairs (2i, 2i+1)."""
    heads = rows.reshape(-1, 2, size // 2, rows.shape[-1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def sentencepiece_metadata(model: bytes) -> dict[str, Any]:
    """Return a tokenizer.model as GGUF has it."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(processor.vocab_size())

    def kind(token: int) -> int:
        checks = (processor.is_unknown, processor.is_control, processor.is_unused)
        found = [code for code, check in zip((2, 3, 5), checks, strict=True) if check(token)]
        return found[0] if found else 6 if processor.is_byte(token) else 1

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [processor.id_to_piece(token) for token in ids],
        "tokenizer.ggml.scores": np.array([processor.get_score(t) for t in ids], np.float32),
        "tokenizer.ggml.token_type": np.array([kind(token) for token in ids], np.int32),
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
    }


def byte_level_metadata(pre: str = "llama-bpe") -> dict[str, Any]:
    """Return the byte-level tokenizer of the test data as GGUF has it."""
    whole = json.loads((TOKENIZERS / "byte-level.json").read_text(encoding="utf-8"))
    tokens = {token: text for text, token in whole["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, 1)
    for added in whole["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = 3 if added["special"] else 4
    ids = sorted(tokens)
    merges = whole["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [tokens[token] for token in ids],
        "tokenizer.ggml.token_type": np.array([types[token] for token in ids], np.int32),
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.bos_token_id": 600,
        "tokenizer.ggml.eos_token_id": 601,
    }
