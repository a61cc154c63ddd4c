"""What a classifier says of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cpumix.config import ModelConfig

from .job import Floats


@dataclass(frozen=True)
class Classification:
    """Logits and probabilities of a text's labels, in the order of the model's."""

    labels: tuple[str, ...]
    logits: Floats
    """(labels,)"""
    probabilities: Floats
    """(labels,): they sum up to one, unless several labels may hold at once. Of a model that was
    trained for regression they are the logits themselves."""
    prompt_tokens: int

    @property
    def label(self) -> str:
        """The likeliest one."""
        return self.labels[int(self.logits.argmax())]

    @property
    def probability(self) -> float:
        """That of the likeliest label."""
        return float(self.probabilities.max())

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it, the likeliest label first."""
        order = np.argsort(-self.logits, kind="stable").tolist()
        return {
            "label": self.label,
            "labels": [
                {
                    "label": self.labels[i],
                    "probability": float(self.probabilities[i]),
                    "logit": float(self.logits[i]),
                }
                for i in order
            ],
            "prompt_tokens": self.prompt_tokens,
        }


def classification(config: ModelConfig, logits: Floats, prompt_tokens: int) -> Classification:
    """Return what logits (labels,) mean for a classifier.

    As in transformers' pipeline: softmax, or the logistic function of each where there is one label
    or several may hold, or nothing for regression.
    """
    wide = logits.astype(np.float64)
    if config.problem_type == "regression":
        made = wide
    elif config.problem_type == "multi_label_classification" or len(config.labels) == 1:
        made = 1 / (1 + np.exp(-np.clip(wide, -700, 700)))
    else:
        made = np.exp(wide - wide.max())
        made /= made.sum()
    return Classification(config.labels, logits, made.astype(np.float32), prompt_tokens)
