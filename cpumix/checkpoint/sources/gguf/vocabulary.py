"""The tokens of a GGUF file's metadata, checked: what every kind of tokenizer has there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConvertError, quoted

PREFIX = "tokenizer.ggml."
# Types of tokens, in sentencepiece the same.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
IDS = (
    *("bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id"),
    *("unknown_token_id", "padding_token_id"),
)
_FLAGS = ("add_bos_token", "add_space_prefix", "remove_extra_whitespaces")


@dataclass(frozen=True)
class GgufVocabulary:
    """The tokens of a GGUF file, checked; a type and a score belong to each."""

    tokens: list[str]
    types: NDArray[np.int32]
    scores: NDArray[np.float32] | None
    ids: Mapping[str, int]
    """The special ids that are given, by key: "bos_token_id" and so on."""
    flags: Mapping[str, bool]
    """What is said of BOS and spaces, by key: "add_space_prefix" and so on."""


def read_vocabulary(metadata: Mapping[str, Any], where: str) -> GgufVocabulary:
    """Return a file's tokens; `where` names it in errors. Raises ConvertError for damaged ones."""

    def refuse(key: str, expected: str, found: object) -> ConvertError:
        return ConvertError(
            f'"{where}": {PREFIX}{key}: the tokenizer needs {expected}, found {found}. '
            "Download the file again."
        )

    def numbers(key: str, n: int, kinds: str) -> NDArray[Any] | None:
        found = metadata.get(PREFIX + key)
        if found is None:
            return None
        if not isinstance(found, np.ndarray) or len(found) < n or found.dtype.kind not in kinds:
            raise refuse(key, f"a number for each of {n} tokens", quoted(type(found).__name__))
        return found[:n]

    tokens = metadata.get(PREFIX + "tokens")
    if not isinstance(tokens, list) or not tokens:
        raise refuse("tokens", "a list of tokens", "none")
    if "" in tokens:
        tokens = [text or f"[EMPTY_{token}]" for token, text in enumerate(tokens)]
    if len(set(tokens)) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise refuse("tokens", "each token once", f"{quoted(twice)} twice")
    types, scores = numbers("token_type", len(tokens), "iu"), numbers("scores", len(tokens), "iuf")
    flags = {key: metadata[PREFIX + key] for key in _FLAGS if PREFIX + key in metadata}
    for key, found in flags.items():
        if not isinstance(found, bool):
            raise refuse(key, "true or false", quoted(found))
    ids: dict[str, int] = {}
    for key in IDS:
        found = metadata.get(PREFIX + key)
        if type(found) is int and 0 <= found < len(tokens):  # llama.cpp ignores others too
            ids[key] = found
    return GgufVocabulary(
        tokens,
        np.ones(len(tokens), np.int32) if types is None else types.astype(np.int32),
        None if scores is None else scores.astype(np.float32),
        ids,
        flags,
    )
