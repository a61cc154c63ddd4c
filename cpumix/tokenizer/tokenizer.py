"""Token ids of prompts and conversations, and the text of ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from cpumix.errors import ConfigError

from .chat_template import ChatTemplate
from .sentencepiece import SentencePieceVocabulary
from .settings import TokenizerSettings
from .stream import SPACE, TextStream
from .tokenizers_json import JsonVocabulary
from .vocabulary import Vocabulary


class Tokenizer:
    """A model's own tokenizer, built by `from_files`.

    Control tokens such as "</s>" come into a prompt only from here and from the chat template: in
    the text of a prompt or a message their spelling is text like any other. (transformers instead
    takes it for the token; on other text the ids are the same.)
    """

    def __init__(self, vocabulary: Vocabulary, settings: TokenizerSettings) -> None:
        self._vocabulary = vocabulary
        names = settings.names
        bos, eos = (vocabulary.id_of(names.get(key, "")) for key in ("bos_token", "eos_token"))
        self.vocab_size = vocabulary.size
        self.bos_id = vocabulary.bos_id if bos is None else bos
        self.adds_bos = vocabulary.adds_bos if settings.add_bos is None else settings.add_bos
        ends = [*settings.eos_ids, *([] if eos is None else [eos])]
        if not ends and vocabulary.eos_id is not None:
            ends = [vocabulary.eos_id]
        self.eos_ids = tuple(dict.fromkeys(ends))
        self._template: ChatTemplate | None = None
        if settings.template is not None:
            spelled = {token: text for text, token in vocabulary.control.items()}
            known = {"bos_token": self.bos_id, "eos_token": self.eos_ids[0] if ends else None}
            own = {key: spelled[token] for key, token in known.items() if token in spelled}
            self._template = ChatTemplate(settings.template, vocabulary.control, own | names)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        """Build the tokenizer from a checkpoint's files, by name.

        The vocabulary is `tokenizer.model` (sentencepiece) or else `tokenizer.json`. Also read,
        where present: tokenizer_config.json, generation_config.json, special_tokens_map.json,
        added_tokens.json and chat_template.jinja. Raises ConfigError when the vocabulary is
        missing or a file is damaged.
        """
        settings = TokenizerSettings.from_files(files)
        if "tokenizer.model" in files:
            return cls(SentencePieceVocabulary(files["tokenizer.model"], settings), settings)
        if "tokenizer.json" in files:
            return cls(JsonVocabulary(files["tokenizer.json"], settings), settings)
        raise ConfigError(
            "tokenizer: expected tokenizer.model or tokenizer.json, found neither. "
            "Copy one beside the weights and convert again."
        )

    @property
    def has_chat_template(self) -> bool:
        """Whether `encode_chat` knows how this model writes conversations."""
        return self._template is not None

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Return the ids of a text; with `bos`, after the BOS that this model's texts start with.

        Raises ConfigError for text that is not Unicode.
        """
        ids = self._encode(text)
        return self._with_bos(ids) if bos else ids

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> list[int]:
        """Return the ids of a conversation, with exactly one BOS if the model uses one.

        `messages` are {"role": "system" | "user" | "assistant", "content": text}. Raises
        ConfigError when there is no chat template, or it rejects the messages.
        """
        if self._template is None:
            raise ConfigError(
                "chat template: expected one among the tokenizer's files, found none. Use --raw."
            )
        ids: list[int] = []
        for text, control in self._template.render(messages, add_generation_prompt):
            if control:
                ids.append(self._vocabulary.control[text])
            else:
                ids += self._encode(text, after_control=bool(ids))
        return ids if ids[:1] == [self.bos_id] else self._with_bos(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; control tokens and unknown ids print nothing."""
        stream = self.stream()
        return "".join([*map(stream.put, ids), stream.finish()])

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """What each id prints inside a text, in UTF-8; control tokens print nothing."""
        pieces = map(self._vocabulary.piece, range(self.vocab_size))
        return tuple(p if isinstance(p, bytes) else p.replace(SPACE, " ").encode() for p in pieces)

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
