"""How `cpumix run --logprobs` tells how likely each token was, and which others were."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help is quick without NumPy
    from cpumix.sampling import LogProbability
    from cpumix.tokenizer import Tokenizer


def to_dicts(tokens: Iterable[LogProbability], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return an object for each token, with the names that llama.cpp's server gives them."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        printed = tokenizer.printed(token)
        text = printed.decode("utf-8", "replace")
        return {"id": token, "token": text, "bytes": [*printed], "logprob": logprob}

    return [
        {**one(found.token, found.logprob), "top_logprobs": [one(*other) for other in found.top]}
        for found in tokens
    ]


def to_lines(tokens: Iterable[LogProbability], tokenizer: Tokenizer) -> Iterator[str]:
    """Yield a line for each token: its log-probability, and those of the likeliest ones."""
    for entry in to_dicts(tokens, tokenizer):
        others = "  ".join(map(_written, entry["top_logprobs"]))
        yield f"{_written(entry):24}  {others}".rstrip()


def _written(entry: dict[str, Any]) -> str:
    """Return a token as a JSON string, which cannot write to the terminal, or else its id."""
    text = json.dumps(entry["token"], ensure_ascii=False) if entry["bytes"] else f"#{entry['id']}"
    return f"{entry['logprob']:8.3f} {text if text.isprintable() else ascii(entry['token'])}"
