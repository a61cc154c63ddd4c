"""One conversation with one model: asks, shows the answers, minds the context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cpumix.conversation import Conversation
from cpumix.errors import ConfigError
from cpumix.messages import Message
from cpumix.sampling import SamplingParams

from .endings import Ended
from .progress import PromptStatus

if TYPE_CHECKING:
    from cpumix.engine.generation import Generation
    from cpumix.model import Model

ON_FULL = ("stop", "slide")
CONTINUED_TOKENS = 128  # of a model that continues texts, and seldom ends by itself


class Screen(Protocol):
    """Where a chat is shown."""

    def begin(self) -> None:
        """Begin an answer."""

    def put(self, piece: str) -> None:
        """Show a piece of it."""

    def end(self) -> None:
        """End it."""

    def say(self, note: str) -> None:
        """Show what the program says, not the model."""


@dataclass
class ChatSettings:
    """What `/set` changes."""

    params: SamplingParams
    max_tokens: int | None = None
    on_full: str = "stop"


class ChatSession:
    """What the commands of a chat work on."""

    def __init__(
        self,
        model: Model,
        settings: ChatSettings,
        conversation: Conversation,
        screen: Screen,
        template: Mapping[str, Any],
        continues: bool,
        interactive: bool,
    ) -> None:
        """Begin; `continues` says that the model continues the text instead of answering.

        `template` are arguments of `Tokenizer.encode_chat`. In an `interactive` chat Ctrl-C stops
        the answer only.
        """
        self.model, self.settings, self.screen = model, settings, screen
        self.conversation, self.continues = conversation, continues
        self.last: Generation | None = None
        self.saved: set[Path] = set()  # files that this chat has written
        self._template, self._interactive = template, interactive
        self._again = 0  # answers to the same question before this one

    def ask(self, text: str) -> None:
        """Put a question and show the answer; without one the conversation stays as it was.

        Raises ConfigError for a question that cannot be answered.
        """
        asked = self.conversation.copy()
        asked.ask(text)
        self._answer(asked)

    def ask_instead(self, text: str) -> None:
        """Put another question in the place of the last one; see `ask`."""
        asked = self.conversation.copy()
        asked.undo()
        asked.ask(text)
        self._answer(asked)

    def ask_again(self) -> None:
        """Answer the last question anew, with the next seed; see `ask`."""
        asked = self.conversation.copy()
        asked.take_back_answer()
        self._answer(asked, self._again + 1)

    def tokens(self, written: str = "") -> int:
        """Return the tokens of what the model gets to see, with what is written of an answer."""
        if self.continues:
            return len(self.model.tokenizer.encode(self._text(written)))
        messages = self._messages(written)
        template = self._template_for(written)
        return len(self.model.tokenizer.encode_chat(messages, **template)) if messages else 0

    def _answer(self, asked: Conversation, again: int = 0) -> None:
        """Answer what is asked last, or go back to the conversation before."""
        before, self.conversation, self._again = self.conversation, asked, again
        try:
            self._make_room()
            self._write()
        finally:
            if not asked.is_answered:
                self.conversation = before

    def _write(self) -> None:
        """Show the answer, and note it in the conversation if there is any."""
        written, made, full, stopped = "", 0, False, False
        self.screen.begin()
        try:
            goes_on = True
            while goes_on:
                with PromptStatus() as status:
                    self.last = generation = self._generation(written, made, status)
                    try:
                        for piece in generation:
                            self.screen.put(piece)
                    finally:
                        written += generation.text
                        made += len(generation.token_ids)
                full = generation.stop_reason == "context"
                goes_on = full and self._goes_on(written)
        except Ended:
            raise
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            stopped = True
        finally:
            self.screen.end()
            if written:
                self.conversation.answer(written)
        if full and not stopped:
            self.screen.say(
                f"the context of {self.model.context} tokens is full: the answer ends here. /reset "
                "and /undo make room, and so do --context N and /set on_full slide"
            )
        if not written:
            self.screen.say("there is no answer: the conversation stays as it was")
            return
        if stopped:
            self.screen.say("stopped; what is there of the answer stays")
        elif generation.stop_reason == "length" and not self.continues:
            self.screen.say(f"the answer ends here: it has {self._most_tokens} tokens, see /set")
        if not generation.complete:
            self.screen.say("the answer is not complete: it needs more tokens, see /set")

    def _generation(self, written: str, made: int, status: PromptStatus) -> Generation:
        """Return the text that goes on after what is `written` of the answer, `made` tokens."""
        params = self.settings.params
        if params.seed is not None:
            params = replace(params, seed=params.seed + self._again)
        most, model = self._most_tokens, self.model
        most = None if most is None else most - made
        if self.continues:
            text = self._text(written)
            return model.generate(text, params, max_tokens=most, raw=True, progress=status)
        return model.chat(
            self._messages(written),
            params,
            max_tokens=most,
            template=self._template_for(written),
            progress=status,
        )

    @property
    def _most_tokens(self) -> int | None:
        most = self.settings.max_tokens
        return CONTINUED_TOKENS if most is None and self.continues else most

    def _messages(self, written: str) -> list[Message]:
        begun: list[Message] = [{"role": "assistant", "content": written}] if written else []
        return self.conversation.visible + begun

    def _template_for(self, written: str) -> Mapping[str, Any]:
        return {**self._template, "continue_final_message": True} if written else self._template

    def _text(self, written: str) -> str:
        """Return the text to be continued: each turn begins a line."""
        turns = self.conversation.turns[self.conversation.left_out :]
        texts = ["".join(message.get("content", "") for message in turn) for turn in turns]
        return self.conversation.system + "\n".join(texts) + written

    def _make_room(self) -> None:
        context, tokens = self.model.context, self.tokens()
        room = min(self._most_tokens or context, context // 4)
        if self.settings.on_full == "slide" and tokens > context - room:
            self._leave_out("")
            tokens = self.tokens()
        if tokens > context:
            raise ConfigError(
                f"chat: {tokens} tokens of conversation do not fit into a context of {context}. "
                "Begin anew with /reset, or with a larger --context or --on-full slide."
            )

    def _goes_on(self, written: str) -> bool:
        """Make room for more of an answer that has filled the context, if that is wanted."""
        slides = self.settings.on_full == "slide" and self._leave_out(written)
        return bool(slides) and self.tokens(written) < self.model.context

    def _leave_out(self, written: str) -> int:
        """Leave out the oldest turns until half of the context is free, and say so."""
        half = self.model.context // 2
        count = self.conversation.leave_out(lambda: self.tokens(written) <= half)
        if count:
            turns = "turn" if count == 1 else f"{count} turns"
            self.screen.say(
                f"the context of {self.model.context} tokens is full: the oldest {turns} left out"
            )
        return count
