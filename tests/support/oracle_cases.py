"""The models on which cpumix is compared with transformers, and the golden files of the answers.

A case is a config and a seed: the weights follow from them (tiny_checkpoint.py), so a golden file
holds answers only. `data/oracle/NAME.npz` has what transformers computed in float32 from the
bfloat16 weights, written by tools/record_oracle.py:

    prompt     ids of the prompt (int32)
    rows       positions of the prompt whose logits are kept (all, or some of a long prompt)
    columns    ids of the vocabulary whose logits are kept (all, or some of a large one)
    logits     (rows, columns) float32
    greedy     the 100 ids that follow the prompt at temperature 0
    weights    CRC-32 of the weights, so that other weights are told from a wrong model
    made_by    versions of transformers and torch
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import write_checkpoint
from configs import config_json
from numpy.typing import NDArray
from tiny_checkpoint import Bits, make_weights

GOLDEN_FOLDER = Path(__file__).parents[1] / "data" / "oracle"
LOGITS_TOLERANCE = (
    1e-4  # relative RMS allowed between cpumix and transformers: what cpumix promises
)
GREEDY_TOKENS = 100
MAX_ROWS, MAX_COLUMNS = 64, 400  # what a golden file keeps of a long prompt, a large vocabulary
FIRST_TEXT_ID = 3  # after <unk>, <s>, </s>

SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXTRAL = config_json(**SIZES, num_local_experts=8, sliding_window=None)
MISTRAL = config_json("mistral", **SIZES, sliding_window=None)
LLAMA = config_json("llama", **SIZES)
QWEN2 = LLAMA | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": 64,
    "max_window_layers": 2,
}
QWEN3 = QWEN2 | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 24}
QWEN3_MOE = QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
OLMOE = LLAMA | {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "norm_topk_prob": False,
    "clip_qkv": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Case:
    """A model to compare: the seed of its weights and prompt, its config, and how it is stored."""

    name: str
    seed: int  # one whose model makes no narrow choice; tools/record_oracle.py refuses others
    config: Mapping[str, Any]
    prompt_tokens: int = 32
    fused: bool = False  # transformers v5 names
    dtype: str = "BF16"  # in the shard; the values are bfloat16's in any case
    greedy_tokens: int = GREEDY_TOKENS  # that are compared after the prompt's logits

    def weights(self) -> dict[str, Bits]:
        """Return the weights as bfloat16 bits, by canonical name."""
        return make_weights(self.config, self.seed)

    def prompt(self) -> NDArray[np.int32]:
        """Return the ids of the prompt: <s>, then anything but control tokens."""
        texts = self.config["vocab_size"] - FIRST_TEXT_ID
        raw = np.random.PCG64(zlib.crc32(f"{self.seed} prompt".encode()))
        ids = raw.random_raw(self.prompt_tokens) % np.uint64(texts) + np.uint64(FIRST_TEXT_ID)
        ids[0] = self.config["bos_token_id"]
        return ids.astype(np.int32)

    def write(self, folder: Path) -> Path:
        """Write the checkpoint, with a made-up tokenizer, and return its folder."""
        weights = self.weights()
        write_checkpoint(folder, self.config, weights=weights, fused=self.fused, dtype=self.dtype)
        return folder


CASES = [
    Case("top1-of-4", 1, MIXTRAL | {"num_local_experts": 4, "num_experts_per_tok": 1}),
    Case("top3-of-8", 4, MIXTRAL | {"num_experts_per_tok": 3, "num_key_value_heads": 4}),
    Case("head-dim", 2, MIXTRAL | {"head_dim": 24}),
    Case(
        "tied",
        1,
        MIXTRAL
        | {
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
            "num_local_experts": 5,
            "rms_norm_eps": 0.01,
            "rope_theta": 1e4,
        },
    ),
    Case("vocab-32002", 3, MIXTRAL | {"vocab_size": 32002}),
    Case(
        "odd-sizes",
        1,
        MIXTRAL
        | {
            "vocab_size": 389,
            "hidden_size": 68,
            "intermediate_size": 90,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
    ),
    Case("window-16", 6, MIXTRAL | {"sliding_window": 16}, prompt_tokens=100),
    Case("dense-mistral", 5, MISTRAL),
    Case("dense-mistral-window", 1, MISTRAL | {"sliding_window": 24}, prompt_tokens=64),
    Case(
        "dense-llama",
        4,
        LLAMA
        | {
            "intermediate_size": 160,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e4,
        },
        dtype="F32",
    ),
    Case(
        "dense-llama3-rope",
        3,
        LLAMA | {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
        prompt_tokens=200,
    ),
    Case(
        "dense-linear-rope",
        1,
        LLAMA | {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}},
        prompt_tokens=200,
    ),
    Case(
        "yarn-rope",
        1,
        MIXTRAL
        | {
            "head_dim": 16,  # transformers 5.24 stumbles over null here
            "rope_theta": 1e4,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
            },
        },
        prompt_tokens=200,
    ),
    Case(  # transformers lets the frequencies change with every token that follows, cpumix does not
        "dense-dynamic-rope",
        1,
        LLAMA
        | {
            "max_position_embeddings": 64,
            "rope_theta": 1e4,
            "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
        },
        prompt_tokens=150,
        greedy_tokens=0,
    ),
    Case(
        "prompt-3000",
        2,
        MIXTRAL
        | {
            "num_local_experts": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
        },
        prompt_tokens=3000,
    ),
    Case("llama-bias", 6, LLAMA | {"attention_bias": True}),
    Case("qwen2", 6, QWEN2),
    Case("qwen3", 1, QWEN3),
    Case("qwen3-moe", 1, QWEN3_MOE),
    Case("olmoe", 1, OLMOE),
    Case("olmoe-fused", 2, OLMOE, fused=True),
    Case(
        "fused-v5",
        2,
        {key: value for key, value in MIXTRAL.items() if key != "rope_theta"}
        | {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "head_dim": None},
        fused=True,
    ),
]


@dataclass(frozen=True)
class Golden:
    """What transformers answered for a case; the fields are those of the file."""

    prompt: NDArray[np.int32]
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    logits: NDArray[np.float32]
    greedy: NDArray[np.int32]
    weights: NDArray[np.uint32]
    made_by: NDArray[np.str_]

    @classmethod
    def load(cls, name: str) -> Golden:
        """Read the golden file of a case."""
        with np.load(GOLDEN_FOLDER / f"{name}.npz") as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def save(self, name: str) -> None:
        """Write the golden file of a case."""
        GOLDEN_FOLDER.mkdir(parents=True, exist_ok=True)
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(GOLDEN_FOLDER / f"{name}.npz", **arrays)

    def error(self, logits: NDArray[np.floating]) -> float:
        """Return the relative RMS difference of logits (prompt or longer, vocab) from these."""
        kept = logits[np.ix_(self.rows, self.columns)].astype(np.float64)
        return float(np.sqrt(np.mean((kept - self.logits) ** 2) / np.mean(self.logits**2.0)))


def kept(count: int, limit: int) -> NDArray[np.int32]:
    """Return all indices below `count`, or `limit` of them from the first to the last."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int32)


def weights_crc(weights: Mapping[str, Bits]) -> int:
    """Return the CRC-32 of all weights, in order."""
    crc = 0
    for bits in weights.values():
        crc = zlib.crc32(bits.tobytes(), crc)
    return crc


def shards_crc(folder: Path) -> int:
    """Return the CRC-32 of a checkpoint's safetensors files, in order."""
    crc = 0
    for shard in sorted(folder.glob("*.safetensors")):
        crc = zlib.crc32(shard.read_bytes(), crc)
    return crc


def ask_cpumix(
    folder: Path, prompt: NDArray[np.int32], greedy_tokens: int = GREEDY_TOKENS
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Convert a checkpoint to bf16 and return cpumix's logits of a prompt and the greedy ids."""
    import cpumix  # here, because recording needs no cpumix

    ids = prompt.tolist()
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.bin"
        cpumix.convert(folder, target, precision="bf16")
        with cpumix.load(target, context=len(ids) + greedy_tokens, kv="f32") as model:
            logits = model.logits(ids)
            greedy = list(model.generate_ids(ids, greedy_tokens, temperature=0.0, stop=()))
    return logits, np.array(greedy, dtype=np.int32)
