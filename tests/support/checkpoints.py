"""Tiny checkpoints in every form that cpumix reads, and shards with any header.

The weights are those of tiny_checkpoint.py: fixed by config and seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configs import config_json
from make_checkpoint import synthetic_tokenizer
from numpy.typing import NDArray
from tiny_checkpoint import Bits, huggingface_names, make_weights, to_f32

MIXTRAL, MISTRAL, LLAMA = (config_json(kind) for kind in ("mixtral", "mistral", "llama"))

DTYPES = {
    **{"uint16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"},
    **{"int8": "I8", "uint8": "U8", "int32": "I32", "uint32": "U32", "int64": "I64"},
}
Array = NDArray[Any]
Split = Callable[[list[str], int], list[list[str]]]
"""Takes the names of all tensors and a number of shards, returns the names in each."""
SMALLEST_VOCABULARY = 300  # that a made-up tokenizer is sure to fit into


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any] = MIXTRAL,
    *,
    seed: int = 0,
    weights: dict[str, Bits] | None = None,
    fused: bool = False,
    dtype: str = "BF16",
    shards: int = 1,
    index: bool = True,
    split: Split | None = None,
    tokenizer: bytes | None = None,
    change: Mapping[str, Array | None] | None = None,
    **overrides: Any,
) -> dict[str, Bits]:
    """Write a checkpoint and return its weights as bfloat16 bits by canonical name.

    `overrides` are fields of config.json. Weights are random ones of `seed` if not given. `change`
    replaces tensors by their name in the checkpoint, or leaves them out (None). Several shards have
    an index if `index`; tensors go to them in turn, or as `split` says. The tokenizer is a made-up
    one that works, or one that only looks so by its name where the vocabulary is too small for
    that.
    """
    config = {**config, **overrides}
    weights = make_weights(config, seed) if weights is None else weights
    names = huggingface_names(weights, fused, is_mixtral=config.get("model_type") == "mixtral")
    tensors: dict[str, Array | None] = {n: stored_as(bits, dtype) for n, bits in names.items()}
    tensors.update(change or {})
    kept = {name: array for name, array in tensors.items() if array is not None}
    if tokenizer is None:
        size = config["vocab_size"]
        tokenizer = synthetic_tokenizer(size) if size >= SMALLEST_VOCABULARY else b"\n\x05"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.model").write_bytes(tokenizer)
    weight_map = {}
    parts = (split or in_turn)(list(kept), shards)
    for number, part in enumerate(parts, start=1):
        name = f"model-{number:05}-of-{shards:05}.safetensors"
        weight_map |= dict.fromkeys(part, name)
        tensors_of_shard = {tensor: kept[tensor] for tensor in part}
        write_shard(folder / (name if shards > 1 else "model.safetensors"), tensors_of_shard)
    if shards > 1 and index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weights


def in_turn(names: list[str], shards: int) -> list[list[str]]:
    """Deal tensors out to shards, one to each."""
    return [names[first::shards] for first in range(shards)]


def in_runs(names: list[str], shards: int) -> list[list[str]]:
    """Fill one shard after the other, as in real checkpoints."""
    return [names[len(names) * i // shards : len(names) * (i + 1) // shards] for i in range(shards)]


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
