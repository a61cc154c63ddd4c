"""The filters in the order that they work in, which is llama.cpp's.

To add one, write a module with a `create` and give it a row. `create` looks at the parameters and
returns what changes or narrows the candidates, or None when the parameters switch it off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from . import (
    dry,
    dynamic_temperature,
    logit_bias,
    min_p,
    mirostat,
    penalties,
    temperature,
    top_k,
    top_n_sigma,
    top_p,
    typical_p,
    xtc,
)
from .candidates import Filter
from .params import SamplingParams
from .state import SequenceState


class Acts(Enum):
    """What a filter does to the candidates."""

    CHANGES = "changes logits, and leaves all of them"
    CUTS_TAIL = "cuts the unlikely ones, never the likeliest"
    CUTS_ANY = "may cut the likeliest"


class Row(NamedTuple):
    """A filter and its kind."""

    create: Callable[[SamplingParams, SequenceState], Filter | None]
    acts: Acts
    beside_mirostat: bool = False  # mirostat replaces the others


FILTERS: Mapping[str, Row] = MappingProxyType(
    {
        "logit_bias": Row(logit_bias.create, Acts.CHANGES, beside_mirostat=True),
        "penalties": Row(penalties.create, Acts.CHANGES),
        "dry": Row(dry.create, Acts.CHANGES),
        "top_n_sigma": Row(top_n_sigma.create, Acts.CUTS_TAIL),
        "top_k": Row(top_k.create, Acts.CUTS_TAIL),
        "typical_p": Row(typical_p.create, Acts.CUTS_ANY),
        "top_p": Row(top_p.create, Acts.CUTS_TAIL),
        "min_p": Row(min_p.create, Acts.CUTS_TAIL),
        "xtc": Row(xtc.create, Acts.CUTS_ANY),
        "dynamic_temperature": Row(dynamic_temperature.create, Acts.CHANGES),
        "temperature": Row(temperature.create, Acts.CHANGES, beside_mirostat=True),
        "mirostat": Row(mirostat.create, Acts.CUTS_TAIL, beside_mirostat=True),
    }
)


def create_filters(params: SamplingParams, state: SequenceState) -> list[Filter]:
    """Return the filters that the parameters ask for, without those that change nothing."""
    made = [
        (row.acts, narrow)
        for row in FILTERS.values()
        if row.beside_mirostat or not params.mirostat
        if (narrow := row.create(params, state))
    ]
    if params.greedy and all(acts != Acts.CUTS_ANY for acts, _ in made):
        made = [(acts, narrow) for acts, narrow in made if acts != Acts.CUTS_TAIL]
    return [narrow for _, narrow in made]
