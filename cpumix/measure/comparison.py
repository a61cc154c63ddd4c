"""How far a model's predictions of a text are from a reference's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Over the scored tokens; an `_error` is one standard error, as if these were independent."""

    perplexity: float  # the reference's
    perplexity_error: float
    ratio: float  # of the model's perplexity to the reference's
    ratio_error: float
    kl_divergence: float  # mean over tokens of KL(reference || model), in nats
    kl_divergence_error: float
    kl_divergence_median: float
    kl_divergence_99: float  # what 99 % of the tokens stay below
    kl_divergence_maximum: float
    same_top: float  # share of tokens before which both find the same one likeliest
    same_top_error: float
    probability_rms: float  # RMS of p_model(token) - p_reference(token)
    probability_rms_error: float
    other_experts: float | None  # share of the tokens' choices, mean over layers; None: no router
    other_experts_error: float | None
    other_experts_by_layer: tuple[float, ...] | None
    """Share of tokens that go through another set of experts than in the reference."""


def compare(
    loss: Doubles, reference: Doubles, divergence: Doubles, same: Doubles, others: Doubles
) -> Comparison:
    """Summarize T tokens: losses of both, KL divergences, whether both have the same top token.

    All are [T]; `others` [layers, T] is 1 where a token took other experts, with no layers if none
    were noted.
    """
    perplexity, perplexity_error = exp_mean(reference)
    ratio, ratio_error = exp_mean(loss - reference)
    median, most, maximum = np.quantile(divergence, (0.5, 0.99, 1.0)).tolist()
    squares = (np.exp(-loss) - np.exp(-reference)) ** 2
    rms = float(np.sqrt(squares.mean()))
    choices = others.mean(axis=0) if len(others) else None
    return Comparison(
        perplexity=perplexity,
        perplexity_error=perplexity_error,
        ratio=ratio,
        ratio_error=ratio_error,
        kl_divergence=float(divergence.mean()),
        kl_divergence_error=standard_error(divergence),
        kl_divergence_median=median,
        kl_divergence_99=most,
        kl_divergence_maximum=maximum,
        same_top=float(same.mean()),
        same_top_error=standard_error(same),
        probability_rms=rms,
        probability_rms_error=standard_error(squares) / (2 * rms) if rms else 0.0,
        other_experts=None if choices is None else float(choices.mean()),
        other_experts_error=None if choices is None else standard_error(choices),
        other_experts_by_layer=None if choices is None else tuple(others.mean(axis=1).tolist()),
    )


def exp_mean(x: Doubles) -> tuple[float, float]:
    """Return exp of the mean, and its standard error."""
    value = float(np.exp(x.mean()))
    return value, value * standard_error(x)


def standard_error(x: Doubles) -> float:
    """Return the standard error of the mean of x."""
    return float(x.std(ddof=1) / np.sqrt(len(x)))
