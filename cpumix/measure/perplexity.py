"""How well a model predicts a text, and how far its predictions are from another's.

A text is cut into windows of `context` tokens that know nothing of each other; the first token of
each is replaced by BOS. Scored are the tokens of a window's second half, so that each has at least
half a context before it. llama.cpp does the same, and the numbers can be held side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.tokenizer import Tokenizer
from cpumix.tokenizer.windows import cut_windows

from .comparison import Comparison, Doubles, compare, exp_mean

Progress = Callable[[int, int], None]
SMALLEST_CONTEXT = 8
MOST_LOSS = 700.0  # the exponential of more is no float64
ROWS = 64  # logits that are widened to float64 together: 64 MiB of the largest vocabularies


class LanguageModel(Protocol):
    """What is asked of a model; `cpumix.load` returns one.

    Of models that also have `experts`, as `routing.RoutedModel` has, the choices of experts are
    compared too.
    """

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (len(ids), vocab_size) of a full causal pass."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text; an `_error` is one standard error."""

    perplexity: float
    perplexity_error: float
    tokens: int  # scored
    windows: int
    context: int
    against: Comparison | None


def evaluate(
    model: LanguageModel,
    text: str,
    *,
    against: LanguageModel | None = None,
    context: int = 512,
    windows: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score `text`, or its first `windows` windows of `context` tokens, and compare with `against`.

    Both models need room for `context` tokens. `progress` is called with the windows done and in
    all. Raises ConfigError for a text shorter than one window, and for models whose tokens differ.
    """
    if windows is not None and windows < 1:
        raise ConfigError(f"windows: expected 1 or more, found {windows}.")
    pieces = cut(model.tokenizer, text, context)[:windows]
    if against is not None:
        _check_same_tokens(model, against, text)
    scores: list[Doubles] = []
    for ids in pieces:
        if progress is not None:
            progress(len(scores), len(pieces))  # before the first too: it may compile kernels
        scores.append(_score(ids, model, against))
    if progress is not None:
        progress(len(pieces), len(pieces))
    loss, *others = np.concatenate(scores, axis=1)  # each [tokens]
    if not loss.mean() < MOST_LOSS:
        raise ConfigError(
            f"perplexity: expected a finite number, found a mean loss of {loss.mean():.3g}. "
            "The model's weights are damaged: convert the checkpoint again."
        )
    perplexity, error = exp_mean(loss)
    return Evaluation(
        perplexity=perplexity,
        perplexity_error=error,
        tokens=len(loss),
        windows=len(pieces),
        context=context,
        against=_compare(loss, others) if others else None,
    )


def cut(tokenizer: Tokenizer, text: str, context: int) -> list[list[int]]:
    """Cut a text into windows of `context` ids, each with BOS in first place if the model has one.

    What does not fill a window at the end is left out. Raises ConfigError where none is filled.
    """
    if context < SMALLEST_CONTEXT:
        raise ConfigError(
            f"context: expected at least {SMALLEST_CONTEXT} tokens to score half of, "
            f"found {context}."
        )
    ids = tokenizer.encode(text)
    if len(ids) < context:
        raise ConfigError(
            f"text: expected at least {context} tokens, one window, found {len(ids)}. "
            "Take a longer text or a smaller --context."
        )
    windows: list[list[int]] = cut_windows(tokenizer, ids, context).tolist()
    return windows


def _check_same_tokens(model: LanguageModel, against: LanguageModel, text: str) -> None:
    sizes = model.config.vocab_size, against.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"models: expected vocabularies of one size, found {sizes[0]} and {sizes[1]} tokens. "
            "Compare precisions of one model."
        )
    if model.tokenizer.encode(text) != against.tokenizer.encode(text):
        raise ConfigError(
            "models: expected the same tokens from both tokenizers, found others for this text. "
            "Compare precisions of one model."
        )


def _score(ids: Sequence[int], model: LanguageModel, against: LanguageModel | None) -> Doubles:
    """Score the second half of a window: its T tokens' losses [1, T].

    With a reference: losses, the reference's, KL divergences, 1 where the likeliest token is the
    same one, and for each layer 1 where the experts are not, [4 + layers, T].
    """
    first = len(ids) // 2
    models = [model] if against is None else [model, against]
    logits = [m.logits(ids)[first:-1] for m in models]  # what the next token is: each [T, V]
    experts = [getattr(m, "experts", None) for m in models]  # each [layers, len(ids), A]
    targets = np.array(ids[first + 1 :])
    scores = []
    for row in range(0, len(targets), ROWS):
        some, rows = targets[row : row + ROWS], slice(row, row + ROWS)
        p, *reference = [_log_softmax(part[rows]) for part in logits]
        scored = [-_pick(p, some)]
        for q in reference:
            divergence = (np.exp(q) * (q - p)).sum(-1)
            same = (p.argmax(-1) == q.argmax(-1)).astype(np.float64)
            scored += [-_pick(q, some), divergence, same]
        scores.append(np.stack(scored))
    found = np.concatenate(scores, axis=1)
    chosen = [np.sort(e[:, first:-1], axis=-1) for e in experts if e is not None]
    if len(chosen) < 2:
        return found
    return np.concatenate([found, (chosen[0] != chosen[1]).any(axis=-1)])


def _compare(loss: Doubles, others: Sequence[Doubles]) -> Comparison:
    reference, divergence, same, *experts = others
    return compare(loss, reference, divergence, same, np.array(experts))


def _log_softmax(logits: NDArray[np.float32]) -> Doubles:
    """Return log probabilities in float64: differences of a millionth shall not be rounding."""
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    x -= np.log(np.exp(x).sum(-1, keepdims=True))
    return x


def _pick(log_p: Doubles, targets: NDArray[np.int64]) -> Doubles:
    """Return what log_p [T, V] says of the targets [T]."""
    return log_p[np.arange(len(targets)), targets]
