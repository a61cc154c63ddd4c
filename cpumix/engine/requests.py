"""Turns what a user asks for into what the engine is asked for, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cpumix.arguments import check_token_ids, text, whole_number
from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.sampling import Sampler, SamplingParams
from cpumix.sampling.tools import call_schema, read_tools
from cpumix.tokenizer import Tokenizer

from .sequence import Request


class Requests:
    """Makes requests for one model, with the room that its context has."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig, context: int) -> None:
        self._tokenizer, self._config, self._context = tokenizer, config, context
        self._ends = frozenset({*config.eos_token_ids, *tokenizer.eos_ids})

    def of_prompt(
        self,
        prompt: str,
        raw: bool,
        params: SamplingParams,
        max_tokens: int | None,
        draft: bool,
        special: bool = False,
    ) -> Request:
        """Return the request to answer a prompt, or to continue it; see `Model.generate`."""
        text("prompt", prompt, " Give a conversation to `chat`.")
        if not prompt.strip():
            raise ConfigError("prompt: expected some text, found none.", "Give it with -p.")
        if self._tokenizer.has_chat_template and not (raw or special):
            return self.of_chat(
                [{"role": "user", "content": prompt}], {}, params, max_tokens, draft
            )
        ids = self._tokenizer.encode(prompt, control=special)
        return self._make(ids, True, params, max_tokens, draft)

    def of_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        template: Mapping[str, Any],
        params: SamplingParams,
        max_tokens: int | None,
        draft: bool,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] = "auto",
    ) -> Request:
        """Return the request for the next message; `template` goes to `Tokenizer.encode_chat`."""
        if isinstance(messages, str) or not all(isinstance(m, Mapping) for m in messages):
            raise ConfigError(
                'messages: expected a list such as [{"role": "user", "content": "..."}], found '
                "something else. Give a text to `generate`."
            )
        asked = read_tools(tools, tool_choice)
        if asked.forced:
            ids, arguments = self._tokenizer.encode_call(messages, tools, **template)
            functions = [asked.functions[name] for name in asked.forced]
            params = replace(params, json_schema=call_schema(functions, arguments))
        else:
            used = tools if asked.functions else template.get("tools")
            ids = self._tokenizer.encode_chat(messages, **{**template, "tools": used})
        continuing = bool(template.get("continue_final_message")) or bool(asked.forced)
        request = self._make(ids, continuing, params, max_tokens, draft)
        return replace(request, tools=[*asked.functions])

    def of_ids(
        self, ids: Sequence[int], params: SamplingParams, max_tokens: int, stop: Sequence[int]
    ) -> Request:
        """Return the request for tokens after `ids`, up to one of `stop`, without a text."""
        self.check(ids, max_tokens)
        return Request(list(ids), max_tokens, Sampler(params), frozenset(stop))

    def of_text(self, given: str | Sequence[int], *, classified: bool = False) -> list[int]:
        """Return the tokens of a text that is read as a whole, which may be given by them.

        A classifier passes over padding at the end. Raises ConfigError.
        """
        if not isinstance(given, str):
            check_token_ids(given)
        ids = self._tokenizer.encode_whole(given) if isinstance(given, str) else list(given)
        while classified and len(ids) > 1 and ids[-1] == self._config.pad_token_id:
            ids.pop()
        self.check_ids(ids)
        return ids

    def of_tokens(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        max_tokens: int,
        *,
        continuing: bool,
        **others: Any,
    ) -> Request:
        """Return the request to write up to `max_tokens` tokens after `ids`, which are not checked.

        `continuing` says whether the text goes on where another ended; `others` are more fields.
        """
        # A grammar is led to its end where the context has no more room.
        most = min(max_tokens, self._room(ids))
        ends = self._ends
        sampler = Sampler(params, ids, tokenizer=self._tokenizer, ends=ends, max_tokens=most)
        stream = self._tokenizer.stream(continuing=continuing)
        stop = ends | {*params.stop_token_ids}
        return Request(list(ids), max_tokens, sampler, stop, stream, **others)

    def _room(self, ids: Sequence[int]) -> int:
        """Return how many tokens may follow: the last one need not be computed."""
        return self._context - len(ids) + 1

    def _make(
        self,
        ids: list[int],
        continuing: bool,
        params: SamplingParams,
        max_tokens: int | None,
        draft: bool,
    ) -> Request:
        self.check(ids, 0 if max_tokens is None else max_tokens)
        # Without a limit the context is: one token more than it has room for is never drawn.
        most = self._room(ids) + 1 if max_tokens is None else max_tokens
        return self.of_tokens(ids, params, most, continuing=continuing, draft=draft)

    def check_writes(self) -> None:
        """Raise ConfigError for a model without a language head."""
        if self._config.writes:
            return
        found = f"{self._config.described}, which makes embeddings only"
        if labels := len(self._config.labels):
            found = f"a classifier with a score head of {labels} labels"
        raise ConfigError(
            f"model: expected a language head, which writes texts, found {found}.",
            "Use cpumix classify." if labels else "Use cpumix serve, or embed from Python.",
        )

    def check_classifies(self) -> None:
        """Raise ConfigError for a model without a score head."""
        if not self._config.is_classifier:
            raise ConfigError(
                f"model: expected a classifier, with a score head, found {self._config.described} "
                f"with {'a language head' if self._config.writes else 'none'}.",
                "Use cpumix run." if self._config.writes else "Use cpumix serve.",
            )

    def check(self, ids: Sequence[int], max_tokens: int = 0) -> None:
        """Raise ConfigError for a prompt that cannot be gone on with, or not so far."""
        self.check_writes()
        self.check_ids(ids)
        whole_number("max_tokens", max_tokens, 0)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise ConfigError for a prompt that is empty, too long or of another model."""
        check_token_ids(ids)
        if not len(ids):  # an array has no truth value
            raise ConfigError("prompt: expected at least one token, found none.")
        if len(ids) > self._context:
            most = self._config.context_limit
            fits = len(ids) <= most
            raise ConfigError(
                f"prompt: {len(ids)} tokens do not fit into a context of {self._context}."
                + ("" if fits else f" Shorten it to {most} tokens."),
                f"Use --context {len(ids)} or more." if fits else "",
            )
        if not 0 <= min(ids) <= max(ids) < self._config.vocab_size:
            raise ConfigError(
                f"prompt: expected token ids from 0 to {self._config.vocab_size - 1}, found "
                f"{min(ids)} to {max(ids)}. The tokenizer is another model's: convert again."
            )
