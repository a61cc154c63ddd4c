"""The names that Mistral gives tensors in its own releases, and mlx-examples after it.

w1 is the gate, w3 the up and w2 the down projection. RoPE turns pairs of rows in q and k.
"""

from __future__ import annotations

from cpumix.config import Role

from .places import Concatenated, Naming, Pairs, Place

_LAYER = "layers.{layer}."
_ATTENTION: Naming = {
    Role.EMBEDDING: Place("tok_embeddings.weight"),
    Role.OUTPUT_NORM: Place("norm.weight"),
    Role.OUTPUT: Place("output.weight"),
    Role.ATTN_NORM: Place(_LAYER + "attention_norm.weight"),
    Role.WQ: Pairs(_LAYER + "attention.wq.weight"),
    Role.WK: Pairs(_LAYER + "attention.wk.weight"),
    Role.WV: Place(_LAYER + "attention.wv.weight"),
    Role.WO: Place(_LAYER + "attention.wo.weight"),
    Role.FFN_NORM: Place(_LAYER + "ffn_norm.weight"),
}
_FFN, _SPARSE = _LAYER + "feed_forward.", _LAYER + "block_sparse_moe."
DENSE: Naming = {
    **_ATTENTION,
    Role.W1: Place(_FFN + "w1.weight"),
    Role.W3: Place(_FFN + "w3.weight"),
    Role.W2: Place(_FFN + "w2.weight"),
}
PER_EXPERT: Naming = {
    **_ATTENTION,
    Role.ROUTER: Place(_FFN + "gate.weight"),
    Role.W1: Place(_FFN + "experts.{expert}.w1.weight"),
    Role.W3: Place(_FFN + "experts.{expert}.w3.weight"),
    Role.W2: Place(_FFN + "experts.{expert}.w2.weight"),
}
FIRST_RELEASE: Naming = {  # the eight consolidated.NN.pt of December 2023
    **_ATTENTION,
    Role.ROUTER: Place(_SPARSE + "gate.weight"),
    Role.W1: Concatenated(_SPARSE + "w1"),
    Role.W3: Concatenated(_SPARSE + "w3"),
    Role.W2: Concatenated(_SPARSE + "w2", transposed=True),
}
MIXTURE = (PER_EXPERT, FIRST_RELEASE)
