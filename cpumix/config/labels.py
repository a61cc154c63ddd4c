"""The labels of a classifier, as config.json names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpumix.errors import ConfigError

from .values import shown, whole

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
_USUAL = 2  # labels where config.json does not say how many
_MOST = 1 << 20  # listing them must end


def read_labels(config: Mapping[str, Any], where: str) -> list[str]:
    """Return the names in `id2label`, by number; LABEL_0 and so on where there are none.

    Raises ConfigError for an `id2label` that is no table of names by numbers from 0 on.
    """
    table = config.get("id2label")
    if table is None:
        named = config.get("num_labels")
        count = _USUAL if named is None else whole(named, "num_labels", where, _MOST)
        return [f"LABEL_{i}" for i in range(count)]
    numbers = [str(i) for i in range(len(table))] if isinstance(table, dict) else []
    if not numbers or table.keys() != set(numbers):
        raise ConfigError(
            f'{where}: id2label: expected a name for each number from "0" on, found '
            f"{shown(table)}. Correct it in that file."
        )
    return [table[number] for number in numbers]


def check_labels(labels: Any, where: str) -> tuple[str, ...]:
    """Return the labels of a model, none of one that writes; ConfigError if they are no texts."""
    if not isinstance(labels, list | tuple) or not all(isinstance(one, str) for one in labels):
        raise ConfigError(
            f"{where}: labels: expected a text for each, found {shown(labels)}. "
            "Correct id2label in config.json."
        )
    return tuple(labels)
