"""Write a conversation the way the model was trained on: its own Jinja chat template."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cpumix.errors import ConfigError, escaped
from cpumix.messages import (
    Message,
    check_messages,
    check_objects,
    is_in,
    plain_json,
    texts_that_count,
    variants,
    with_other_text,
)

from .control_marks import ControlMarks, Segment, unmark

if TYPE_CHECKING:
    from .jinja import JinjaTemplate

_SHOWN = 200  # characters of a template's own words
_END = "CPUMIX_END_OF_THE_FINAL_MESSAGE "  # with a blank, to see whether the template strips it


class ChatTemplate:
    """One chat template and the control tokens it can write.

    `names` are the variables such as "bos_token" that templates use besides the messages.
    """

    def __init__(self, source: str, controls: Collection[str], names: Mapping[str, str]) -> None:
        self._source = source
        self._marks = ControlMarks(controls)
        self._names = dict(names)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[Segment]:
        """Return the conversation as text and control tokens; see `Tokenizer.encode_chat`.

        A system text that the template rejects or leaves out is put before the next user message,
        with a blank line between. Raises ConfigError with the template's own words when it rejects
        the messages, and when it leaves out what the user or the system says.
        """
        given = {
            "tools": check_objects(tools, "tools"),
            "documents": check_objects(documents, "documents"),
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
            **plain_json(variables or {}, "template variables"),
        }
        context = {**self._names, **self._marks.mark(given)}
        checked = check_messages(messages)
        if continue_final_message and not isinstance(checked[-1].get("content"), str):
            raise ConfigError(
                "chat: expected a last message with a text to go on with, found none. "
                "Give it one, or do not continue it."
            )
        rejected: ConfigError | None = None
        for variant in variants([self._marks.mark(message) for message in checked]):
            try:
                text = self._run(variant, context, continue_final_message)
            except ConfigError as e:
                rejected = rejected or e
                continue
            missing = self._missing(variant, context, text)
            if missing is None:
                return self._marks.split(text)
            rejected = rejected or ConfigError(
                f"chat template: expected it to write the {missing} message, found it left out. "
                "Use another template.",
                "Or use --raw.",
            )
        assert rejected is not None
        raise rejected

    def check(self) -> None:
        """Raise ConfigError if the template does not compile."""
        _ = self._template

    def _run(self, messages: list[Message], context: Mapping[str, Any], goes_on: bool) -> str:
        from .jinja import TemplateError

        if goes_on:
            last = {**messages[-1], "content": messages[-1]["content"] + _END}
            messages = [*messages[:-1], last]
        try:
            text = self._template.render({"messages": messages, **context})
        except TemplateError as e:
            raise ConfigError(
                f"chat template: it rejects these messages: {_words(e)}. Change the messages.",
                "Or use --raw.",
            ) from e
        return _up_to_end(text) if goes_on else text

    def _missing(
        self, messages: list[Message], context: Mapping[str, Any], text: str
    ) -> str | None:
        """Return whose message a rendered text does not depend on, None if there is none."""
        for place in texts_that_count(messages):
            if is_in(messages[place], text):
                continue
            try:
                other = self._run(with_other_text(messages, place), context, goes_on=False)
            except ConfigError:
                continue
            if other == self._run(messages, context, goes_on=False):
                return str(messages[place]["role"])
        return None

    @cached_property
    def _template(self) -> JinjaTemplate:
        from .jinja import JinjaTemplate, TemplateError

        try:
            return JinjaTemplate(self._source)
        except TemplateError as e:
            raise ConfigError(
                f"chat template: it does not compile: {_words(e)}. Correct it.", "Or use --raw."
            ) from e


def _words(e: Exception) -> str:
    return escaped(unmark(str(e)).strip().removesuffix("."), _SHOWN)


def _up_to_end(text: str) -> str:
    """Return a text up to the end of the final message."""
    end = text.rfind(_END.rstrip())
    if end < 0:
        raise ConfigError(
            "chat template: expected it to write the last message at its end, found it left out. "
            "Do not continue the message."
        )
    return text[:end] if text[end:].startswith(_END) else text[:end].rstrip()
