"""Record what transformers makes of RoPE parameters, for tests/transformer/test_rope_goldens.py.

    python tools/record_rope.py          write tests/data/rope.json

It needs torch and transformers (`pip install cpumix[oracle]`). Each record has the fields of a
config.json, the length of the text, and transformers' frequencies and factor of cos and sin.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

TARGET = Path(__file__).parents[1] / "tests" / "data" / "rope.json"
SHAPE: dict[str, Any] = {"hidden_size": 256, "num_attention_heads": 4, "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# RoPE's parameters, other fields of config.json, tokens.
CASES: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({"rope_type": "default"}, {"head_dim": 128, "rope_theta": 1e6}, 4096),
    (LLAMA3, {"rope_theta": 5e5, "head_dim": 128}, 4096),
    ({"type": "linear", "factor": 4.0}, {}, 4096),
    ({"rope_type": "linear", "factor": 2.5}, {"rope_theta": 1e6, "head_dim": 80}, 100),
    ({"type": "dynamic", "factor": 2.0}, {"max_position_embeddings": 4096}, 4096),
    ({"type": "dynamic", "factor": 2.0}, {"max_position_embeddings": 4096}, 4097),
    ({"type": "dynamic", "factor": 2.0}, {"max_position_embeddings": 4096}, 8192),
    ({"type": "dynamic", "factor": 8.0}, {"max_position_embeddings": 2048, "head_dim": 128}, 9000),
    (YARN, {"max_position_embeddings": 65536}, 4096),
    (YARN, {"max_position_embeddings": 65536, "head_dim": 128, "rope_theta": 1e6}, 60000),
    (YARN | {"beta_fast": 16, "beta_slow": 2, "truncate": False}, {}, 4096),
    (YARN | {"attention_factor": 0.75}, {}, 4096),
    (YARN | {"mscale": 0.707, "mscale_all_dim": 1.2}, {}, 4096),
    (YARN | {"mscale": 0.707}, {}, 4096),
    (YARN | {"factor": None}, {"max_position_embeddings": 32768}, 4096),
    (YARN | {"original_max_position_embeddings": 64, "factor": 2.0}, {"head_dim": 16}, 4096),
    (
        {"type": "yarn", "factor": 4.0, "finetuned": True},
        {"max_position_embeddings": 8192, "original_max_position_embeddings": 2048},
        4096,
    ),
    ({"type": "yarn", "factor": 4.0}, {"max_position_embeddings": 32768}, 4096),
]


@click.command()
def main() -> None:
    """Write tests/data/rope.json."""
    records = []
    for scaling, fields, tokens in CASES:
        given = SHAPE | fields
        config = transformers.LlamaConfig(**given, rope_scaling=dict(scaling))
        rope = LlamaRotaryEmbedding(config)
        rope(torch.zeros(1), torch.arange(tokens)[None])
        records.append(
            {
                "config": given | {"rope_scaling": scaling},
                "tokens": tokens,
                "turns": rope.inv_freq.tolist(),
                "factor": float(rope.attention_scaling),
            }
        )
    made_by = f"transformers {transformers.__version__}, torch {torch.__version__}"
    lines = ",\n".join(json.dumps(record) for record in records)
    TARGET.write_text(f'{{"made_by": "{made_by}", "cases": [\n{lines}\n]}}\n')
    click.echo(f"{len(records)} cases: {TARGET}")


if __name__ == "__main__":
    main()
