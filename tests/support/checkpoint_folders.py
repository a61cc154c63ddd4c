"""A checkpoint of four thousand weights, and what tests do to such folders."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiny_checkpoint import Bits, huggingface_names, make_weights, write_checkpoint

CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 3,
    "tie_word_embeddings": False,
    "vocab_size": 20,
}
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def write(folder: Path, config: Mapping[str, Any] = CONFIG, **options: Any) -> dict[str, Bits]:
    """Write a complete checkpoint; return its weights by canonical name."""
    weights = make_weights(config, seed=1)
    write_checkpoint(folder, config, weights, tokenizer=b"a tokenizer", **options)
    return weights


def source_tensors(config: Mapping[str, Any] = CONFIG, fused: bool = False) -> dict[str, Bits]:
    """Return the weights that `write` writes, by their names in the checkpoint."""
    return huggingface_names(make_weights(config, seed=1), fused=fused)


def write_header(path: Path, header: bytes | Mapping[str, Any], data: bytes = b"") -> None:
    """Write a shard with any header over any data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a sound shard's header and data."""
    raw = path.read_bytes()
    end = 8 + struct.unpack_from("<Q", raw)[0]
    return json.loads(raw[8:end]), raw[end:]


def edit_json(path: Path, **changes: Any) -> None:
    """Change top-level fields of a JSON file; begin one if there is none."""
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **changes}))


def split(folder: Path, names: list[str], index: bool) -> dict[str, str]:
    """Deal the tensors of model.safetensors out to shards of these names; return who has what."""
    header, data = read_header(folder / SINGLE)
    metadata = header.pop("__metadata__")
    weight_map = {tensor: names[i % len(names)] for i, tensor in enumerate(header)}
    for shard in names:
        part: dict[str, Any] = {"__metadata__": metadata}
        chunks, end = [], 0
        for tensor, entry in header.items():
            if weight_map[tensor] == shard:
                begin, stop = entry["data_offsets"]
                chunks.append(data[begin:stop])
                start, end = end, end + stop - begin
                part[tensor] = {**entry, "data_offsets": [start, end]}
        write_header(folder / shard, part, b"".join(chunks))
    (folder / SINGLE).unlink()
    if index:
        edit_json(folder / INDEX, metadata={}, weight_map=weight_map)
    return weight_map
