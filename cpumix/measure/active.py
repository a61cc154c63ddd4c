"""Which weights a token goes through."""

from __future__ import annotations

import math
from typing import NamedTuple

from cpumix.config import Role
from cpumix.store import ModelFile


class ActiveWeights(NamedTuple):
    """What a pass multiplies by."""

    body: int
    """Weights for each token: attention, router and its experts; of the last layer, keys, values.
    """
    tail: int
    """Weights for the last token of a batch: the rest of the last layer, and the head."""
    nbytes: int
    """Bytes of both for one token. Of the embedding it reads a row, which is not counted."""


def active_weights(file: ModelFile) -> ActiveWeights:
    """Count the weights and bytes that one token needs."""
    config = file.config
    head = Role.EMBEDDING if config.tie_word_embeddings else Role.OUTPUT
    body = tail = size = 0
    for t in file.tensors.values():
        role, layer, expert = t.spec.role, t.spec.layer, t.spec.expert
        spare = role is Role.LOW_COPY or (
            expert is not None and expert >= config.num_experts_per_tok
        )
        if spare or (role is Role.EMBEDDING and role is not head):
            continue
        last = layer == config.num_hidden_layers - 1 and role not in (Role.WK, Role.WV)
        weights = math.prod(t.shape)
        if role is head or last:
            tail += weights
        else:
            body += weights
        size += t.nbytes
    return ActiveWeights(body, tail, size)
