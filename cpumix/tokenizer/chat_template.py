"""Write a conversation the way the model was trained on: its own Jinja chat template.

A template is a program from the internet: it runs in Jinja's sandbox. What people write into a
message stays text: only the template itself can write control tokens. For that, control strings in
messages are marked before the template runs, and `render` separates the two afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from cpumix.errors import ConfigError

if TYPE_CHECKING:
    import jinja2

# Noncharacters, which Unicode keeps for use inside a program, stand around what is only text.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_UNMARK = str.maketrans({_OPEN: None, _CLOSE: None})
_TAME = str.maketrans({_OPEN: "\ufffd", _CLOSE: "\ufffd"})


class Segment(NamedTuple):
    """A stretch of a rendered conversation: plain text, or one control token."""

    text: str
    control: bool


class ChatTemplate:
    """One chat template and the control tokens it can write.

    `names` are the variables such as "bos_token" that templates use besides the messages.
    """

    def __init__(self, source: str, controls: Collection[str], names: Mapping[str, str]) -> None:
        self._source = source
        self._controls = sorted(controls, key=len, reverse=True)  # the longest match counts
        self._names = dict(names)
        either = "|".join(map(re.escape, self._controls)) or "(?!)"
        self._control = re.compile(either)
        self._part = re.compile(
            f"{_OPEN}(?P<text>{either}){_CLOSE}|[{_OPEN}{_CLOSE}]|(?P<control>{either})"
        )

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> list[Segment]:
        """Return the conversation as text and control tokens.

        A system text that the template rejects or leaves out is put before the first user message,
        with a blank line between. Raises ConfigError with the template's own words when it rejects
        the messages.
        """
        _check_messages(messages)
        marked = self._mark(messages)
        folded = _fold_system(marked)
        try:
            text = self._run(marked, add_generation_prompt)
        except ConfigError:
            if folded is None:
                raise
            text = self._run(folded, add_generation_prompt)
        else:
            if folded is not None and marked[0]["content"].strip() not in text:
                text = self._run(folded, add_generation_prompt)
        return self._split(text)

    def _mark(self, value: Any) -> Any:
        """Mark all control strings in a value of the messages, and what may become one."""
        if isinstance(value, Mapping):
            return {key: self._mark(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._mark(item) for item in value]
        if not isinstance(value, str):
            return value
        value = value.translate(_TAME)
        # An ending such as "</" is broken up, so that what the template writes next cannot turn
        # it into a control token.
        start = max(0, len(value) - max(map(len, self._controls), default=0))
        ending = "".join(
            letter
            + _CLOSE * any(c.startswith(value[i:]) and c != value[i:] for c in self._controls)
            for i, letter in enumerate(value[start:], start)
        )
        return self._control.sub(rf"{_OPEN}\g<0>{_CLOSE}", value[:start] + ending)

    def _run(self, messages: Any, add_generation_prompt: bool) -> str:
        template = self._template
        try:
            return template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._names
            )
        except Exception as e:  # whatever a program from the internet may come to
            raise ConfigError(
                f"chat template: it rejects these messages: {str(e).translate(_UNMARK)}. "
                "Change the messages, or use --raw."
            ) from e

    @cached_property
    def _template(self) -> jinja2.Template:
        import jinja2

        try:
            return _environment().from_string(self._source)
        except jinja2.TemplateSyntaxError as e:
            raise ConfigError(
                f"chat template: expected Jinja, found in line {e.lineno}: {e.message}. "
                "Correct the template, or use --raw."
            ) from e

    def _split(self, rendered: str) -> list[Segment]:
        """Separate the template's control tokens from text, and take the marks away."""
        segments, text, end = [], "", 0
        for part in self._part.finditer(rendered):
            text += rendered[end : part.start()] + (part["text"] or "")
            end = part.end()
            if part["control"]:
                segments += [Segment(text, False), Segment(part["control"], True)]
                text = ""
        segments.append(Segment(text + rendered[end:], False))
        return [segment for segment in segments if segment.text]


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    if not messages:
        raise ConfigError("chat: expected at least one message, found none. Give it a prompt.")
    for number, message in enumerate(messages, 1):
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ConfigError(
                f"chat message {number}: expected a text as role and as content, "
                f"found {json.dumps(message, default=repr)[:80]}. Correct the message."
            )


def _fold_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Return the messages without a system role, or None where there is nothing to fold."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return None
    system, user, *rest = messages
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _environment() -> jinja2.Environment:
    """Return what chat templates are written for: the environment of transformers."""
    import jinja2.ext
    import jinja2.parser
    import jinja2.sandbox

    class GenerationTag(jinja2.ext.Extension):
        """Read `{% generation %}`, with which templates show trainers the assistant's part."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)  # Jinja's own escapes HTML

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
