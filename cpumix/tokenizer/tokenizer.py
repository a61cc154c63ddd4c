"""Token ids of prompts and conversations, and the text of ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

from cpumix.errors import ConfigError, escaped, quoted

from . import mistral
from .chat_template import ChatTemplate
from .control_marks import Segment, any_of
from .sentencepiece import SentencePieceVocabulary
from .settings import TokenizerSettings, own_format
from .stream import SPACE, TextStream
from .tokenizers_json import JsonVocabulary
from .tool_calls import PROBE_MESSAGE, find_start
from .vocabulary import Vocabulary

GIVEN_TEMPLATES = 4  # that stay compiled; to compile one takes longer than a long conversation


class Tokenizer:
    """A model's own tokenizer, built by `from_files`.

    Control tokens such as "</s>" come into a prompt only from here and from the chat template: in
    the text of a prompt or a message their spelling is text like any other, unless `encode` is
    asked for them. (transformers instead takes it for the token; on other text the ids are the
    same.) `notes` are sentences on side files that could not be read.
    """

    def __init__(self, vocabulary: Vocabulary, settings: TokenizerSettings) -> None:
        self._vocabulary = vocabulary
        names = settings.names
        bos, eos = (vocabulary.id_of(names.get(key, "")) for key in ("bos_token", "eos_token"))
        self.vocab_size = vocabulary.size
        self.bos_id = vocabulary.bos_id if bos is None else bos
        self.adds_bos = vocabulary.adds_bos if settings.add_bos is None else settings.add_bos
        last = vocabulary.eos_id if eos is None else eos
        self._closing = vocabulary.closing
        if settings.add_eos is not None:
            self._closing = (last,) if settings.add_eos and last is not None else ()
        ends = [*settings.eos_ids, *([] if eos is None else [eos])]
        if not ends and vocabulary.eos_id is not None:
            ends = [vocabulary.eos_id]
        self.eos_ids = tuple(dict.fromkeys(ends))
        self.notes = settings.notes + tuple(
            f"tokenizer_config.json: {key} {quoted(names[key])} is no token of the vocabulary."
            for key, found in (("bos_token", bos), ("eos_token", eos))
            if key in names and found is None
        )
        self._control = re.compile(f"({any_of(vocabulary.control)})")
        spelled = {token: text for text, token in vocabulary.control.items()}
        known = {"bos_token": self.bos_id, "eos_token": self.eos_ids[0] if ends else None}
        own = {key: spelled[token] for key, token in known.items() if token in spelled}
        template = partial(ChatTemplate, controls=vocabulary.control, names=own | names)
        self._templates = {name: template(source) for name, source in settings.templates.items()}
        self._given_template = lru_cache(GIVEN_TEMPLATES)(template)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        """Build the tokenizer from a checkpoint's files, by name.

        The vocabulary is `tokenizer.model` (sentencepiece; Mistral also names it
        `tokenizer.model.v3` and the like), or else `tokenizer.json`, or else `tekken.json`. Also
        read, where present: tokenizer_config.json, generation_config.json, special_tokens_map.json,
        added_tokens.json, chat_template.jinja, chat_template.json, and the added tokens of a
        tokenizer.json beside a tokenizer.model. Raises ConfigError when the vocabulary is missing
        or damaged; what is wrong with the other files is said in `notes`.
        """
        settings = TokenizerSettings.from_files(files)
        own = own_format(files)
        if own == mistral.TEKKEN:
            return cls(JsonVocabulary(mistral.tekken_to_json(files[own]), settings), settings)
        model = own or "tokenizer.model"
        if model in files:
            return cls(SentencePieceVocabulary(files[model], settings), settings)
        if "tokenizer.json" in files:
            return cls(JsonVocabulary(files["tokenizer.json"], settings), settings)
        raise ConfigError(
            "tokenizer: expected tokenizer.model, tokenizer.json or tekken.json, found none. "
            "Copy one beside the weights and convert again."
        )

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` knows how this model writes conversations."""
        return bool(self._templates)

    def encode(self, text: str, bos: bool = True, *, control: bool = False) -> list[int]:
        """Return the ids of a text; with `bos`, after the BOS that this model's texts start with.

        With `control`, control tokens that are written out are read as such, and a text that begins
        with a BOS gets no second one. Raises ConfigError for text that is not Unicode.
        """
        if control:
            parts = enumerate(self._control.split(text))
            ids = self._ids([Segment(part, bool(i % 2)) for i, part in parts if part])
        else:
            ids = self._encode(text)
        return self._with_bos(ids) if bos and (not control or ids[:1] != [self.bos_id]) else ids

    def encode_whole(self, text: str) -> list[int]:
        """Return the ids of a text that nothing follows: with the EOS that such texts end with.

        Most models have none there. Raises ConfigError for text that is not Unicode.
        """
        return [*self.encode(text), *self._closing]

    def find_control(self, text: str) -> str | None:
        """Return the first control token that is written out in a text, None if there is none."""
        found = self._control.search(text)
        return found[0] if found else None

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the ids of a conversation, with exactly one BOS if the model uses one.

        Parameters
        ----------
        messages
            {"role": "system" | "user" | "assistant" | "tool", "content": text}, and what else the
            template reads, such as "tool_calls".
        add_generation_prompt
            Whether the template begins an answer.
        tools, documents
            JSON objects as transformers takes them: tools as {"type": "function", "function": ...}.
        continue_final_message
            Leave the last message open, so that the model goes on with it.
        chat_template
            The name of one of the model's templates or of Mistral's ("mistral-v1" for Mixtral
            8x7B, "mistral-v3" and so on), or a template.
        variables
            What else the template reads, such as {"enable_thinking": False}.

        Raises ConfigError when there is no chat template, it rejects the messages, or it leaves
        the user's or the system's text out.
        """
        segments = self._template(chat_template, with_tools=bool(tools)).render(
            messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )
        ids = self._ids(segments)
        return ids if ids[:1] == [self.bos_id] else self._with_bos(ids)

    def encode_call(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        name: str | None = None,
        chat_template: str | None = None,
        **others: Any,
    ) -> tuple[list[int], str]:
        """Return the ids up to the JSON object of a call, and how that names its arguments.

        What the model's template writes before a call is part of the ids; see `encode_chat`. With
        the `name` of a tool, so is what it writes before the arguments.
        """
        template = self._template(chat_template, with_tools=True)
        opened = template.render(messages, tools=tools, **others)
        try:
            probe = [*messages, PROBE_MESSAGE]
            called = template.render(probe, tools=tools, add_generation_prompt=False, **others)
        except ConfigError:  # it writes no calls
            called = opened
        start = find_start(opened, called, name)
        ids = self._ids(start.segments)
        return ids if ids[:1] == [self.bos_id] else self._with_bos(ids), start.arguments

    def writes_tools(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        **others: Any,
    ) -> bool:
        """Whether the template tells of tools in a conversation; raises as `encode_chat` does."""
        plain = self._template(chat_template, with_tools=False).render(messages, **others)
        template = self._template(chat_template, with_tools=True)
        try:
            return template.render(messages, tools=tools, **others) != plain
        except ConfigError:  # it refuses tools
            return False

    def check_template(self, name: str) -> None:
        """Raise ConfigError if `encode_chat` knows no such template, or it does not compile."""
        try:
            self._template(name, with_tools=False).check()
        except ConfigError as error:  # who asks for a template does not want to do without
            raise error.without_option() from error

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; control tokens and unknown ids print nothing."""
        stream = self.stream()
        return "".join([*map(stream.put, ids), stream.finish()])

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """What each id prints inside a text, in UTF-8; control tokens print nothing."""
        pieces = map(self._vocabulary.piece, range(self.vocab_size))
        return tuple(p if isinstance(p, bytes) else p.replace(SPACE, " ").encode() for p in pieces)

    def printed(self, token: int) -> bytes:
        """Return what an id that a model drew prints; those beyond the vocabulary print nothing."""
        return self.token_bytes[token] if token < self.vocab_size else b""

    def encode_inside(self, text: bytes) -> list[int]:
        """Return ids that print exactly `text`, which goes on where another text ended.

        `text` is UTF-8, but may begin or end in the middle of a character.
        """
        try:
            tries = [self._vocabulary.encode(text.decode(), after_control=True)]
            ids = self._vocabulary.encode("\n" + text.decode())
            first = next((i for i, t in enumerate(ids) if self.token_bytes[t][-1:] == b"\n"), 0)
            tries.append(ids[first + 1 :])
        except UnicodeDecodeError:
            tries = []
        for ids in tries:
            if b"".join(self.token_bytes[token] for token in ids) == text:
                return ids
        return self._longest_tokens(text)

    def _longest_tokens(self, text: bytes) -> list[int]:
        ids: list[int] = []
        longest = max(map(len, self._ids_by_bytes))
        while text:
            lengths = range(min(longest, len(text)), 0, -1)
            length = next((n for n in lengths if text[:n] in self._ids_by_bytes), 0)
            if not length:
                raise ConfigError(
                    f"tokenizer: expected tokens for every byte, found none for 0x{text[0]:02X}. "
                    "Ask for other text."
                )
            ids.append(self._ids_by_bytes[text[:length]])
            text = text[length:]
        return ids

    @cached_property
    def _ids_by_bytes(self) -> dict[bytes, int]:
        return {printed: token for token, printed in enumerate(self.token_bytes) if printed}

    def stream(self, *, continuing: bool = False) -> TextStream:
        """Return a decoder for ids that come one by one; see `TextStream`."""
        return TextStream(self._vocabulary, continuing=continuing)

    def _template(self, named: str | None, with_tools: bool) -> ChatTemplate:
        """Return the template of a name, a template that is given itself, or the one to take."""
        found = self._templates
        known = {} if named is None else mistral.chat_templates()
        given = named if named is None or "{" in named else known.get(named)
        if given is not None and named not in found:
            return self._given_template(given)
        if not found and named is None:
            raise ConfigError(
                "chat template: expected one among the tokenizer's files, found none.",
                "Use --raw, or name one with --chat-template.",
            )
        if named is None:
            usual = ["tool_use"] * with_tools + ["default", *list(found) * (len(found) == 1)]
            named = next((name for name in usual if name in found), "default")
        if named not in found:
            names = ", ".join(map(quoted, [*found, *known]))
            raise ConfigError(
                f"chat template: expected one named {quoted(named)}, found {escaped(names, 200)}. "
                "Choose one of these.",
                "Or use --raw.",
            )
        return found[named]

    def _ids(self, segments: Sequence[Segment]) -> list[int]:
        """Return the ids of text and control tokens, one after the other."""
        ids: list[int] = []
        strips = self._vocabulary.strips
        nothing = Segment("", False)
        around = zip([nothing, *segments], segments, [*segments[1:], nothing], strict=False)
        for before, (text, control), after in around:
            if control:
                ids.append(self._vocabulary.control[text])
                continue
            if before.control and strips.get(before.text, (False, False))[1]:
                text = text.lstrip()
            if after.control and strips.get(after.text, (False, False))[0]:
                text = text.rstrip()
            if text:
                ids += self._encode(text, after_control=bool(ids))
        return ids

    def _encode(self, text: str, after_control: bool = False) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise ConfigError(
                f"prompt: expected Unicode text, found the half character "
                f"U+{ord(text[e.start]):04X} in place {e.start + 1}. Pass it as UTF-8."
            ) from None
        return self._vocabulary.encode(text, after_control)

    def _with_bos(self, ids: list[int]) -> list[int]:
        return [self.bos_id, *ids] if self.adds_bos and self.bos_id is not None else ids
