"""A model that requests are made for, under the name and the template that it is asked by."""

from __future__ import annotations

from collections.abc import Sequence

from cpumix.engine.requests import Requests
from cpumix.engine.sequence import Request
from cpumix.model import Model
from cpumix.sampling import SamplingParams

from .errors import ApiError


class ServedModel:
    """Makes requests of the engine of what is asked for; for one thread at a time."""

    def __init__(
        self,
        model: Model,
        *,
        chat_template: str | None = None,
        defaults: SamplingParams | None = None,
    ) -> None:
        if chat_template is not None:
            model.tokenizer.check_template(chat_template)
        self.model, self.chat_template = model, chat_template
        self.name = model.file.path.stem
        self.defaults = defaults or model.sampling_defaults
        self._requests = Requests(model.tokenizer, model.config, model.context)

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be written."""
        return self.model.tokenizer.has_chat_template or self.chat_template is not None

    def check_length(self, ids: Sequence[int], most: int, param: str) -> None:
        """Raise ApiError (400) for a prompt of more than `most` tokens."""
        if len(ids) > most:
            raise ApiError(
                400,
                f"This model's maximum context length is {self.model.context} tokens, and the "
                f"prompt has {len(ids)}. Shorten it.",
                code="context_length_exceeded",
                param=param,
            )

    def request(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        max_tokens: int | None,
        *,
        salt: bytes = b"",
        continuing: bool = False,
        keep_stop: bool = False,
        param: str = "messages",
    ) -> Request:
        """Return a request of the engine; without `max_tokens` the text may fill the context.

        Raises ApiError (400) for what does not fit, ConfigError for what means nothing.
        """
        model = self.model
        model.check_writes()
        self.check_length(ids, model.context - 1, param)
        if not ids:
            raise ApiError(400, "prompt: expected at least one token, found none.", param=param)
        room = model.context - len(ids)
        tokens = room if max_tokens is None else min(max_tokens, room)
        size = model.config.vocab_size
        if highest := next((token for token in params.logit_bias if token >= size), None):
            raise ApiError(
                400,
                f"logit_bias: expected tokens below {size}, found {highest}.",
                param="logit_bias",
            )
        return self._requests.of_tokens(
            ids, params, tokens, continuing=continuing, salt=salt, keep_stop=keep_stop
        )
