"""The whole forward pass in float64 NumPy: slow, obvious, and what everything fast must equal.

It shares no code with the package but ModelConfig. Weights come by their canonical names. Letters:
n tokens, H heads, K kv_heads, D head_dim. Angles of RoPE are float32 products of float32, as in
transformers: at position 3000 the rounding of the angle is part of the model's definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cpumix.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    YarnScaling,
)

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


def frequencies(config: ModelConfig, context: int) -> NDArray[np.float32]:
    """Return the turn per position of each pair, in radians (D/2,), stretched as the model's are.

    Llama 3 and YaRN blend slow pairs, stretched to the longer context, with fast ones, left alone.
    """
    size, base, scaling = config.head_dim, np.float64(config.rope_theta), config.rope_scaling
    if isinstance(scaling, DynamicScaling):  # NTK-aware: the base grows with the context
        longer = scaling.factor * context / config.max_position_embeddings - (scaling.factor - 1)
        base *= max(longer, 1.0) ** (size / (size - 2))
    exponent = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    freqs = np.float32(1) / np.power(base, exponent).astype(np.float32)
    if isinstance(scaling, LinearScaling):
        return freqs / np.float32(scaling.factor)
    if isinstance(scaling, Llama3Scaling):
        turns = scaling.original_max_position_embeddings * freqs.astype(np.float64) / (2 * np.pi)
        span = scaling.high_freq_factor - scaling.low_freq_factor
        kept = np.clip((turns - scaling.low_freq_factor) / span, 0, 1)
    elif isinstance(scaling, YarnScaling):
        bounds = [  # the pairs that turn beta_fast and beta_slow times in the trained context
            size
            / 2
            * np.log(scaling.original_max_position_embeddings / (beta * 2 * np.pi))
            / np.log(config.rope_theta)
            for beta in (scaling.beta_fast, scaling.beta_slow)
        ]
        if scaling.truncate:
            bounds = [np.floor(bounds[0]), np.ceil(bounds[1])]
        low, high = max(bounds[0], 0), min(bounds[1], size - 1)
        kept = 1 - np.clip((np.arange(size // 2) - low) / (high - low), 0, 1)
    else:
        return freqs
    return (freqs * kept + freqs / scaling.factor * (1 - kept)).astype(np.float32)


def cos_sin(config: ModelConfig, n: int) -> tuple[Array, Array]:
    """Return cosine and sine (n, D/2) of every angle, times YaRN's factor."""
    angles = np.arange(n, dtype=np.float32)[:, None] * frequencies(config, n)
    factor = getattr(config.rope_scaling, "attention_factor", 1.0)
    return np.cos(angles.astype(np.float64)) * factor, np.sin(angles.astype(np.float64)) * factor


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
    q, k, v = (project(part, f"attn_{name}", h) for name in "qkv")  # (n, H*D), twice (n, K*D)
    q, k = (norm_heads(config, part, name, x) for name, x in (("q", q), ("k", k)))
    shared = config.num_attention_heads // config.num_key_value_heads
    heads = []
    for head in range(config.num_attention_heads):
        mine = slice(head * size, (head + 1) * size)
        theirs = slice(head // shared * size, (head // shared + 1) * size)
        scores = rotate(q[:, mine], cos, sin) @ rotate(k[:, theirs], cos, sin).T / np.sqrt(size)
        heads.append(softmax(np.where(seen, scores, -np.inf)) @ v[:, theirs])  # (n, D)
    return project(part, "attn_output", np.concatenate(heads, axis=-1))


def project(part: Weights, name: str, x: Array) -> Array:
    """Multiply rows by a matrix, and add its bias if it has one."""
    return x @ part[f"{name}.weight"].T + part.get(f"{name}.bias", 0.0)


def norm_heads(config: ModelConfig, part: Weights, name: str, x: Array) -> Array:
    """Norm queries or keys, each head's or whole rows, in a model that does."""
    if config.qk_norm is None:
        return x
    weight = part[f"attn_{name}_norm.weight"]
    stretches = x.reshape(len(x), -1, len(weight))
    return rms_norm(stretches, weight, config.rms_norm_eps).reshape(x.shape)


def feed_forward(config: ModelConfig, part: Weights, h: Array) -> Array:
    """Send each token to its experts and add their answers by the router's weights."""
    if "router.weight" not in part:
        return expert(part, 0, h)
    out = np.zeros_like(h)
    for token, logits in enumerate(h @ part["router.weight"].T):
        topk_ids = np.argsort(-logits, kind="stable")[: config.num_experts_per_tok]
        of_all, of_those = softmax(logits)[topk_ids], softmax(logits[topk_ids])
        shares = of_those if config.norm_topk_prob else of_all
        for e, share in zip(topk_ids, shares, strict=True):
            out[token] += share * expert(part, e, h[token])
    return out


def expert(part: Weights, e: int, h: Array) -> Array:
    """Return w2(silu(w1 h) * w3 h)."""
    gate = h @ part[f"expert.{e}.w1"].T
    return (gate / (1 + np.exp(-gate)) * (h @ part[f"expert.{e}.w3"].T)) @ part[f"expert.{e}.w2"].T
