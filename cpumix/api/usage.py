"""Numbers and log-probabilities of an answer, as OpenAI and llama.cpp write them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cpumix.engine.events import Token
from cpumix.tokenizer import Tokenizer

from .choice import Choice

FINGERPRINT = f"cpumix-{version('cpumix')}"
FINISH_REASONS = {"eos": "stop", "stop": "stop", "length": "length", "context": "length"}


def usage(choices: Sequence[Choice], prompts: int = 1) -> dict[str, Any]:
    """Return the tokens of an answer; the first choice of each of `prompts` counts its prompt."""
    firsts = choices[:: max(len(choices) // prompts, 1)]
    prompt = sum(choice.stats.prompt_tokens for choice in firsts)
    written = sum(choice.stats.generated_tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {
            "cached_tokens": sum(choice.stats.cached_tokens for choice in firsts)
        },
    }


def timings(choice: Choice) -> dict[str, Any]:
    """Return the times of a text, under llama.cpp's names."""
    stats = choice.stats
    read = stats.prompt_tokens - stats.cached_tokens
    return {
        "cache_n": stats.cached_tokens,
        "prompt_n": read,
        "prompt_ms": 1000 * stats.prompt_seconds,
        "prompt_per_second": read / stats.prompt_seconds if stats.prompt_seconds else 0.0,
        "predicted_n": stats.generated_tokens,
        "predicted_ms": 1000 * stats.generate_seconds,
        "predicted_per_second": (
            stats.generated_tokens / stats.generate_seconds if stats.generate_seconds else 0.0
        ),
    }


def chat_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return log-probabilities in the shape of chats."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        printed = tokenizer.printed(token)
        text = printed.decode("utf-8", "replace")
        return {"token": text, "logprob": logprob, "bytes": [*printed]}

    content = []
    for token in tokens:
        if (found := token.log_probability) is not None:
            top = [one(*other) for other in found.top]
            content.append({**one(found.token, found.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def legacy_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """Return log-probabilities in the shape of completions; `offset` is where the text goes on."""
    entries = chat_logprobs(tokens, tokenizer)["content"]
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries
        ],
        "text_offset": offsets,
    }
