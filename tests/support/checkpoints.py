"""Tiny checkpoints in every form that cpumix reads, and shards with any header.

The weights are those of tiny_checkpoint.py: fixed by config and seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tiny_checkpoint import Bits, huggingface_names, make_weights, to_f32

MIXTRAL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}
DENSE = {name: value for name, value in MIXTRAL.items() if "expert" not in name}
MISTRAL = DENSE | {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
LLAMA = DENSE | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}

DTYPES = {
    **{"uint16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"},
    **{"int8": "I8", "uint8": "U8", "int32": "I32", "uint32": "U32", "int64": "I64"},
}
Array = NDArray[Any]


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any] = MIXTRAL,
    *,
    fused: bool = False,
    dtype: str = "BF16",
    shards: int = 1,
    index: bool = True,
    tokenizer: Path | None = None,
    change: Mapping[str, Array | None] | None = None,
    **overrides: Any,
) -> dict[str, Bits]:
    """Write a checkpoint and return its weights as bfloat16 bits by canonical name.

    `overrides` are fields of config.json. `change` replaces tensors by their name in the
    checkpoint, or leaves them out (None). Several shards have an index if `index`. Without
    `tokenizer` a file that only looks like one by name is written.
    """
    config = {**config, **overrides}
    weights = make_weights(config, seed=0)
    tensors: dict[str, Array | None] = {
        name: stored_as(bits, dtype) for name, bits in huggingface_names(weights, fused).items()
    }
    tensors.update(change or {})
    kept = {name: array for name, array in tensors.items() if array is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(tokenizer.read_bytes() if tokenizer else b"\n\x05")
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(kept.items())[number::shards])
        weight_map |= dict.fromkeys(part, name)
        write_shard(folder / (name if shards > 1 else "model.safetensors"), part)
    if shards > 1 and index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weights


def stored_as(bits: Bits, dtype: str) -> Array:
    """Return bfloat16 bits as an array whose bytes are those of BF16, F16 or F32."""
    return bits if dtype == "BF16" else to_f32(bits).astype({"F16": "f2", "F32": "f4"}[dtype])


def write_shard(
    path: Path, tensors: Mapping[str, Array], dtypes: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file; uint16 stands for BF16, `dtypes` may say another type of a name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        dtype = (dtypes or {}).get(name) or DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    write_header(path, header, b"".join(array.tobytes() for array in tensors.values()))


def write_header(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    """Write a safetensors file with any header: bytes, or what JSON can say."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
