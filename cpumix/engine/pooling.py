"""How the hidden states of a text's tokens become one vector."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from cpumix.errors import ConfigError, quoted
from cpumix.tokenizer.side_files import SideFiles

SETTINGS = "1_Pooling/config.json"  # where Sentence Transformers says it


class Pooling(Enum):
    """The ways that there are."""

    MEAN = "mean"
    LAST = "last"
    SCORE = "the last one's, by the score head"

    @property
    def reuses(self) -> bool:
        """Whether a text may begin in the KV cache: tokens there have no hidden states any more."""
        return self is not Pooling.MEAN


POOLINGS = (Pooling.MEAN.value, Pooling.LAST.value)  # of embeddings
_PREFIX = "pooling_mode_"
_MODES = {"mean": Pooling.MEAN, "mean_tokens": Pooling.MEAN, "lasttoken": Pooling.LAST}


def find_pooling(name: str | None, files: Mapping[str, bytes]) -> Pooling:
    """Return the pooling of embeddings with a name; without one, what a model was trained for.

    That is what its side files say, or else the mean. Raises ConfigError for a pooling that is
    none, or another one.
    """
    if name is None:
        settings = SideFiles(files).object(SETTINGS)
        chosen = [key for key, value in settings.items() if value is True]
        modes = [key.removeprefix(_PREFIX) for key in chosen if key.startswith(_PREFIX)]
        if isinstance(one := settings.get("pooling_mode"), str):
            modes = [one]
        modes = modes or ["mean"]
        if len(modes) == 1 and modes[0] in _MODES:
            return _MODES[modes[0]]
        name = " and ".join(modes)
    elif name in POOLINGS:
        return Pooling(name)
    raise ConfigError(
        f"pooling: expected one of {', '.join(POOLINGS)}, found {quoted(name)}. Name one."
    )
