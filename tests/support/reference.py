"""The whole forward pass in float64 NumPy: slow, obvious, and what everything fast must equal.

It shares no code with the package but ModelConfig. Weights come by their canonical names. Letters:
n tokens, H heads, K kv_heads, D head_dim. Angles of RoPE are float32 products of float32, as in
transformers: at position 3000 the rounding of the angle is part of the model's definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[np.floating]]


def forward(config: ModelConfig, weights: Weights, ids: Sequence[int]) -> Array:
    """Return the logits (n, vocab) of every position of a prompt."""
    w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    cos, sin = cos_sin(config, len(ids))
    seen = visible(len(ids), config.sliding_window)
    x = w["token_embd.weight"][list(ids)]  # (n, hidden)
    for layer in range(config.num_hidden_layers):
        block = f"blk.{layer}."
        part = {k.removeprefix(block): v for k, v in w.items() if k.startswith(block)}
        h = rms_norm(x, part["attn_norm.weight"], config.rms_norm_eps)
        x = x + attention(config, part, h, cos, sin, seen)
        h = rms_norm(x, part["ffn_norm.weight"], config.rms_norm_eps)
        x = x + feed_forward(config, part, h)
    h = rms_norm(x, w["output_norm.weight"], config.rms_norm_eps)
    head = "token_embd.weight" if config.tie_word_embeddings else "output.weight"
    return h @ w[head].T


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Divide each row by its root mean square, and scale each column."""
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def softmax(x: Array) -> Array:
    """Turn the last axis into probabilities."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def frequencies(config: ModelConfig) -> NDArray[np.float32]:
    """Return the turn per position of each pair, in radians (D/2,), with Llama 3's scaling."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    base = np.power(np.float64(config.rope_theta), exponent).astype(np.float32)
    freqs = np.float32(1) / base
    scaling = config.rope_scaling
    if scaling is None:
        return freqs
    scaled = freqs.copy()
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    for i, freq in enumerate(freqs):
        turns = scaling.original_max_position_embeddings * float(freq) / (2 * np.pi)
        if turns < low:  # slow pairs: stretched to the longer context
            scaled[i] = freq / np.float32(scaling.factor)
        elif turns <= high:  # between: a mix of both
            mix = (turns - low) / (high - low)
            scaled[i] = (1 - mix) * freq / scaling.factor + mix * freq
    return scaled


def cos_sin(config: ModelConfig, n: int) -> tuple[Array, Array]:
    """Return cosine and sine (n, D/2) of every angle."""
    angles = np.arange(n, dtype=np.float32)[:, None] * frequencies(config)
    return np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64))


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Turn the pairs (i, i + D/2) of one head's rows (n, D) by the angle of their position."""
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def visible(n: int, window: int | None) -> NDArray[np.bool_]:
    """Return which token (row) sees which (column): i - window < j <= i."""
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    return (j <= i) & (j > i - (window or n))


def attention(
    config: ModelConfig, part: Weights, h: Array, cos: Array, sin: Array, seen: NDArray[np.bool_]
) -> Array:
    """Attend to what each token sees; consecutive heads share a kv_head."""
    size = config.head_dim
    q = h @ part["attn_q.weight"].T  # (n, H*D)
    k = h @ part["attn_k.weight"].T  # (n, K*D)
    v = h @ part["attn_v.weight"].T  # (n, K*D)
    shared = config.num_attention_heads // config.num_key_value_heads
    heads = []
    for head in range(config.num_attention_heads):
        mine = slice(head * size, (head + 1) * size)
        theirs = slice(head // shared * size, (head // shared + 1) * size)
        scores = rotate(q[:, mine], cos, sin) @ rotate(k[:, theirs], cos, sin).T / np.sqrt(size)
        heads.append(softmax(np.where(seen, scores, -np.inf)) @ v[:, theirs])  # (n, D)
    return np.concatenate(heads, axis=-1) @ part["attn_output.weight"].T


def feed_forward(config: ModelConfig, part: Weights, h: Array) -> Array:
    """Send each token to its experts and add their answers by the router's weights."""
    if "router.weight" not in part:
        return expert(part, 0, h)
    out = np.zeros_like(h)
    for token, logits in enumerate(h @ part["router.weight"].T):
        topk_ids = np.argsort(-logits, kind="stable")[: config.num_experts_per_tok]
        for e, share in zip(topk_ids, softmax(logits[topk_ids]), strict=True):
            out[token] += share * expert(part, e, h[token])
    return out


def expert(part: Weights, e: int, h: Array) -> Array:
    """Return w2(silu(w1 h) * w3 h)."""
    gate = h @ part[f"expert.{e}.w1"].T
    return (gate / (1 + np.exp(-gate)) * (h @ part[f"expert.{e}.w3"].T)) @ part[f"expert.{e}.w2"].T
