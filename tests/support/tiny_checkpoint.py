"""Make small checkpoints whose every bit is fixed by a config and a seed, on any machine.

Weights are drawn as integers from PCG64's raw stream, which NumPy guarantees never to change, so
golden logits recorded once stay valid. Their scale gives a model that is random but lively: logits
spread over several units, attention that prefers some tokens, routers that use all experts.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint16]  # bfloat16 values as bits

# Standard deviation of a matrix times the square root of its columns: what a random input of unit
# RMS comes out with. Scores, routing and logits are sharper than in a fresh model on purpose.
GAINS = {"attn_q": 1.5, "attn_k": 1.5, "router": 3.0, "output": 4.0}
NORM_SPREAD = 0.25  # standard deviation of a norm's weights around one
BIAS_SPREAD = 0.5  # standard deviation of a bias's around zero

HF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "w1": "gate_proj",
    "w3": "up_proj",
    "w2": "down_proj",
}


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a Hugging Face config, by canonical name."""
    hidden, vocab, kind = config["hidden_size"], config["vocab_size"], config.get("model_type")
    inner = config.get("moe_intermediate_size", config["intermediate_size"])
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q_size = config["num_attention_heads"] * head_dim
    kv_size = config["num_key_value_heads"] * head_dim
    experts = config.get("num_local_experts", config.get("num_experts", 1))
    result: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        block = f"blk.{layer}."
        result[block + "attn_norm.weight"] = (hidden,)
        result[block + "attn_q.weight"] = (q_size, hidden)
        result[block + "attn_k.weight"] = (kv_size, hidden)
        result[block + "attn_v.weight"] = (kv_size, hidden)
        result[block + "attn_output.weight"] = (hidden, q_size)
        if kind == "qwen2" or config.get("attention_bias"):
            result[block + "attn_q.bias"] = (q_size,)
            result[block + "attn_k.bias"] = result[block + "attn_v.bias"] = (kv_size,)
        if config.get("attention_bias"):
            result[block + "attn_output.bias"] = (hidden,)
        if kind in ("qwen3", "qwen3_moe", "olmoe"):
            q, k = (q_size, kv_size) if kind == "olmoe" else (head_dim, head_dim)
            result[block + "attn_q_norm.weight"], result[block + "attn_k_norm.weight"] = (q,), (k,)
        result[block + "ffn_norm.weight"] = (hidden,)
        if "num_local_experts" in config or "num_experts" in config:
            result[block + "router.weight"] = (experts, hidden)
        for e in range(experts):
            result[block + f"expert.{e}.w1"] = (inner, hidden)
            result[block + f"expert.{e}.w3"] = (inner, hidden)
            result[block + f"expert.{e}.w2"] = (hidden, inner)
    result["output_norm.weight"] = (hidden,)
    if "id2label" in config:
        result["score.weight"] = (len(config["id2label"]), hidden)
    elif not config.get("tie_word_embeddings"):
        result["output.weight"] = (vocab, hidden)
    return result


def noise(key: str, count: int) -> NDArray[np.float64]:
    """Return `count` numbers of mean 0 and deviation 1: sums of four 16-bit uniform integers."""
    raw = np.random.PCG64(zlib.crc32(key.encode())).random_raw(count)
    quarters = raw[:, None] >> np.array([0, 16, 32, 48], dtype=np.uint64) & np.uint64(0xFFFF)
    return (quarters.sum(axis=1).astype(np.float64) - 131070) / 37837.2  # 2 * 65536 / sqrt(12)


def to_bf16(values: NDArray[np.floating]) -> Bits:
    """Round finite values to bfloat16 bits; ties go to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_f32(bits: Bits) -> NDArray[np.float32]:
    """Widen bfloat16 bits to float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def make_weights(config: Mapping[str, Any], seed: int) -> dict[str, Bits]:
    """Return every tensor of a config as bfloat16 bits, by canonical name."""
    weights = {}
    tied = config.get("tie_word_embeddings")
    for name, shape in shapes(config).items():
        values = noise(f"{seed} {name}", int(np.prod(shape))).reshape(shape)
        if tied and name == "output_norm.weight":
            pass  # around zero: with a tied head, around one would repeat the last token for ever
        elif name.endswith(".bias"):
            values = BIAS_SPREAD * values
        elif len(shape) == 1:
            values = 1 + NORM_SPREAD * values
        elif name == "token_embd.weight":
            values = values * (GAINS["output"] / np.sqrt(shape[1]) if tied else 1)
        else:
            kind = name.removesuffix(".weight").rsplit(".", 1)[-1]
            values = values * GAINS.get(kind, 1.0) / np.sqrt(shape[1])
        weights[name] = to_bf16(values)
    return weights


def huggingface_names(
    weights: Mapping[str, Bits], fused: bool, is_mixtral: bool = True
) -> dict[str, Bits]:
    """Rename canonical tensors as a checkpoint has them: v4 names, or v5 with fused experts."""
    result = {}
    is_moe = "blk.0.router.weight" in weights
    for name, value in weights.items():
        parts = name.split(".")
        prefix = f"model.layers.{parts[1]}."
        if parts[0] != "blk":
            top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
            top |= {"output": "lm_head"}
            result[top.get(parts[0], parts[0]) + ".weight"] = value
        elif parts[2] == "router":
            room = "mlp" if fused or not is_mixtral else "block_sparse_moe"
            result[f"{prefix}{room}.gate.weight"] = value
        elif parts[2] != "expert":
            result[f"{prefix}{HF_NAMES[parts[2]]}.{parts[3]}"] = value
        elif not is_moe:
            result[f"{prefix}mlp.{HF_NAMES[parts[4]]}.weight"] = value
        elif not is_mixtral and not fused:
            result[f"{prefix}mlp.experts.{parts[3]}.{HF_NAMES[parts[4]]}.weight"] = value
        elif not fused:
            result[f"{prefix}block_sparse_moe.experts.{parts[3]}.{parts[4]}.weight"] = value
        elif parts[3:] == ["0", "w1"]:  # the first of the layer's experts brings all of them
            stacks: dict[str, list[Bits]] = {w: [] for w in ("w1", "w3", "w2")}
            for w, stack in stacks.items():
                layer = f"blk.{parts[1]}.expert."
                count = sum(n.startswith(layer) and n.endswith(w) for n in weights)
                stack.extend(weights[f"{layer}{e}.{w}"] for e in range(count))
            gate_up = np.concatenate([np.stack(stacks["w1"]), np.stack(stacks["w3"])], axis=1)
            result[prefix + "mlp.experts.gate_up_proj"] = gate_up  # (experts, 2*inner, hidden)
            result[prefix + "mlp.experts.down_proj"] = np.stack(stacks["w2"])
    return result
