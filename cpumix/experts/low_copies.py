"""Low copies: each expert once more in 2 bits, for the tokens that hardly need it.

A token's second expert often counts little beside its first. If its weight is below `LOW_WEIGHT`
of the first's, its low copy serves, always, whatever is in memory: so fewer bytes are read, from
memory and from disk, and the text depends on the weights alone, never on the budget. To the pager
the copy of expert e is another expert, number e + experts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConfigError, quoted
from cpumix.quant.precision import Precision
from cpumix.store.reader import ModelFile

ASKED = ("auto", "on", "off")
LOW_WEIGHT = 0.3  # of the first expert's weight


def find_low_copies(file: ModelFile, asked: str) -> Precision:
    """Return the file's precision, with low copies if they shall be used: "auto", "on" or "off".

    "auto" uses them where the file has them. Raises ConfigError for "on" where it has none.
    """
    if asked not in ASKED:
        raise ConfigError(
            f"low copy: expected one of {', '.join(ASKED)}, found {quoted(str(asked))}."
        )
    if asked == "on" and file.formats.low is None:
        raise ConfigError(
            f'low copy: expected a file with low copies of its experts, found none: "{file.path}". '
            "Convert the checkpoint again with --low-copy."
        )
    return replace(file.formats, low=None) if asked == "off" else file.formats


def take_low_copies(
    topk_ids: NDArray[np.int32], topk_weights: NDArray[np.float32], experts: int
) -> None:
    """Send tokens to the low copies of what counts little for them; (T, A) both, ids in place."""
    few = topk_weights[:, 1:] < np.float32(LOW_WEIGHT) * topk_weights[:, :1]
    topk_ids[:, 1:] += few * np.int32(experts)
