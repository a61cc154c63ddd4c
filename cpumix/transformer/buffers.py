"""Every buffer of the forward pass, allocated once.

T tokens of a batch, D hidden size, Q query columns, K key columns, I intermediate size, E experts,
A experts per token.
"""

from __future__ import annotations

import numpy as np

from cpumix.config import ModelConfig
from cpumix.kernels.rows import Rows


class Buffers:
    """Room for a batch of up to `tokens`; pages are touched only as far as rows are used.

    `experts` are those of a layer that tokens can be routed to, low copies among them.
    """

    def __init__(self, config: ModelConfig, tokens: int, experts: int) -> None:
        active = config.num_experts_per_tok
        self.x = Rows(tokens, config.hidden_size)  # the residual stream [T, D]
        self.h = Rows(tokens, config.hidden_size)  # normed [T, D]
        self.q = Rows(tokens, config.q_size)  # [T, Q]
        self.k = Rows(tokens, config.kv_size)  # [T, K]
        self.v = Rows(tokens, config.kv_size)  # [T, K]
        self.attn_out = Rows(tokens, config.q_size)  # [T, Q]
        self.attn_proj = Rows(tokens, config.hidden_size)  # [T, D]
        self.topk_ids = np.zeros((tokens, active), np.int32)
        self.topk_weights = np.ones((tokens, active), np.float32)
        # The T * A pairs of token and expert, sorted by expert: see `Backend.sort_by_expert`.
        self.expert_offsets = np.zeros(experts + 1, np.int64)
        self.sorted_tokens = np.zeros(tokens * active, np.int64)
        self.inverse_order = np.zeros((tokens, active), np.int64)
        self.expert_in = Rows(tokens * active, config.hidden_size)  # [T * A, D]
        self.expert_hidden = Rows(tokens * active, config.intermediate_size)  # [T * A, I]
        self.expert_out = Rows(tokens * active, config.hidden_size)  # [T * A, D]
