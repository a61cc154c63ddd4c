"""Texts of a request that may be given as text or as tokens, alone or several."""

from __future__ import annotations

from typing import Any

from .errors import ApiError
from .served_model import ServedModel

Inputs = str | list[str | int | list[int]]


def read_inputs(
    served: ServedModel, given: Inputs, name: str, most: int, *, whole: bool = False
) -> list[list[int]]:
    """Return the tokens of each text; `name` is the field that has them, `whole`: nothing follows.

    Raises ApiError (400) for a mixture, for none or too many, and for tokens of another model.
    """
    tokens = isinstance(given, list) and given and all(isinstance(t, int) for t in given)
    texts: list[Any] = [given] if isinstance(given, str) or tokens else list(given)
    if any(isinstance(text, int) for text in texts):
        raise ApiError(
            400, f"{name}: expected texts or lists of tokens, found a mixture.", param=name
        )
    if not 1 <= len(texts) <= most:
        raise ApiError(
            400, f"{name}: expected 1 to {most} of them, found {len(texts)}.", param=name
        )
    tokenizer, size = served.model.tokenizer, served.model.config.vocab_size
    encode = tokenizer.encode_whole if whole else tokenizer.encode
    found = [encode(text) if isinstance(text, str) else text for text in texts]
    if not all(0 <= token < size for ids in found for token in ids):
        raise ApiError(400, f"{name}: expected token ids from 0 to {size - 1}.", param=name)
    return found
