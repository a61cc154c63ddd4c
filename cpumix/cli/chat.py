"""`cpumix chat`: hold a conversation in the terminal."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

import cpumix
from cpumix.conversation import Conversation
from cpumix.errors import ConfigError

from . import options, sampling
from .chat_commands import SLASH_COMMANDS, obey
from .chat_history import NO_HISTORY
from .chat_input import ChatInput, open_input
from .chat_session import ON_FULL, ChatSession, ChatSettings
from .conversions import model_file
from .endings import Ended
from .markdown import MarkdownStream
from .texts import note_first_run


@click.command(epilog="Example: cpumix chat mixtral.bin --system 'Be brief.'")
@options.optional_model
@options.convert
@options.system
@options.chat_template
@options.answer_tokens
@click.option(
    "--on-full",
    type=click.Choice(ON_FULL),
    default=ON_FULL[0],
    show_default=True,
    help="When the context is full: stop, or leave out the oldest turns (slide).",
)
@click.option(
    "--no-history",
    is_flag=True,
    envvar=NO_HISTORY,
    help="Keep no file of what you type for the next chat.",
)
@sampling.options
@options.context
@options.kv
@options.low_copy
@options.threads
@options.ram
def command(
    model: Path | None,
    convert: bool,
    system: str,
    template: str | None,
    max_tokens: int | None,
    on_full: str,
    no_history: bool,
    context: int | None,
    kv: str,
    low_copy: str,
    threads: int | None,
    ram: int | None,
    **params: Any,
) -> None:
    """Hold a conversation with a model.

    MODEL is a file that `cpumix convert` made; without it, the small demo model that comes with
    cpumix continues what you type. A line is a message, and /help lists the commands. Ctrl-C stops
    an answer, Ctrl-D ends the chat. From a pipe each line is a message, too, and the answers come
    as plain text.
    """
    model = model_file(model, convert, ram)
    named = {} if template is None else {"chat_template": template}
    note_first_run()
    from cpumix.measure.warmup import helped

    with cpumix.load(
        model, ram=ram, threads=threads, context=context, kv=kv, low_copy=low_copy
    ) as loaded:
        loaded.check_writes()
        if template is not None:
            loaded.tokenizer.check_template(template)
        screen = StyledScreen() if _is_styled() else PlainScreen()
        for note in loaded.notes:
            screen.say(note)
        drawn = replace(loaded.sampling_defaults, **sampling.given(params))
        settings = ChatSettings(drawn, max_tokens, on_full)
        continues = not named and not loaded.tokenizer.has_chat_template
        conversation = Conversation(system)
        source = open_input(SLASH_COMMANDS, keeps_history=not no_history)
        session = ChatSession(
            loaded, settings, conversation, screen, named, continues, source.interactive
        )
        _greet(session, source)
        with helped(loaded.kv):
            while _turn(session, source):
                pass


def _greet(session: ChatSession, source: ChatInput) -> None:
    if session.continues:
        session.screen.say(
            f"{session.model.file.path.name} has no chat template: it continues the text that you "
            "type. If it was trained to answer, name the template: --chat-template mistral-v1"
        )
    if source.interactive:
        session.screen.say("/help lists the commands, Ctrl-D leaves")


def _turn(session: ChatSession, source: ChatInput) -> bool:
    """Take one message; return whether there may be another one."""
    try:
        text = source.read()
        if text is None:
            return False
        if text.startswith("/") and not text.startswith("//"):
            obey(text, session, source)
        elif text:
            session.ask(text.removeprefix("/") if text.startswith("//") else text)
    except Ended:
        raise
    except KeyboardInterrupt:  # of a line that was begun
        if not source.interactive:
            raise
        session.screen.say("Ctrl-D leaves")
    except ConfigError as error:
        if not source.interactive:
            raise
        session.screen.say(str(error))
    return True


def _is_styled() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


class PlainScreen:
    """Answers on stdout as they are, the program's own words on stderr."""

    def begin(self) -> None:
        """Begin an answer."""

    def put(self, piece: str) -> None:
        """Show a piece of it."""
        click.echo(piece, nl=False)

    def end(self) -> None:
        """End it with its line."""
        click.echo()

    def say(self, note: str) -> None:
        """Show what the program says."""
        click.echo(note, err=True)


class StyledScreen:
    """The same in a terminal: Markdown is rendered, the program's own words are dim."""

    def __init__(self) -> None:
        self._markdown: MarkdownStream | None = None

    def begin(self) -> None:
        """Begin an answer."""
        self._markdown = MarkdownStream(lambda text: click.echo(text, nl=False))

    def put(self, piece: str) -> None:
        """Show a piece of it."""
        if self._markdown is not None:
            self._markdown.put(piece)

    def end(self) -> None:
        """End it with its line, and a blank one."""
        if self._markdown is not None:
            self._markdown.finish()
            click.echo("\n")
        self._markdown = None

    def say(self, note: str) -> None:
        """Show what the program says, in the middle of an answer in a line of its own."""
        between = "" if self._markdown is None else "\n"
        click.echo(between + click.style(note, dim=True), err=True)
