"""A vocabulary in `tokenizer.model`, read by the sentencepiece library."""

from __future__ import annotations

import re

from cpumix.errors import ConfigError

from .control_marks import any_of
from .settings import TokenizerSettings
from .stream import EACH_BYTE

# Protobuf messages merge when concatenated: this is normalizer_spec.add_dummy_prefix = false.
_NO_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceVocabulary:
    """sentencepiece's own ids, and the tokens that a fine-tune added after them."""

    byte_errors = EACH_BYTE
    adds_bos = True
    closing = ()

    def __init__(self, model: bytes, settings: TokenizerSettings) -> None:
        """Load a serialized model; raise ConfigError for bytes that are none."""
        from sentencepiece import SentencePieceProcessor

        try:
            if not model:
                raise RuntimeError("no bytes")  # sentencepiece takes them for an empty vocabulary
            self._model = SentencePieceProcessor(model_proto=model)
            self._unprefixed = SentencePieceProcessor(model_proto=model + _NO_PREFIX)
        except (RuntimeError, UnicodeDecodeError) as e:  # a sentence, or one that is not Unicode
            raise ConfigError(
                f"tokenizer.model: expected a sentencepiece model, found {len(model)} bytes that "
                "are not one. Copy the file from the checkpoint again."
            ) from e
        self._base: int = self._model.vocab_size()
        base = self._pieces()
        self._added = {
            number: token.text
            for number, token in settings.added.items()
            if number >= self._base or base[number] != token.text
        }
        self.size = max([self._base, *(token + 1 for token in self._added)])
        is_control, is_unknown = self._model.is_control, self._model.is_unknown
        self.control = {base[t]: t for t in range(self._base) if is_control(t) or is_unknown(t)}
        self._words: dict[str, int] = {}
        for number, text in self._added.items():
            control = settings.is_control(text, settings.added[number].special)
            (self.control if control else self._words)[text] = number
        self.strips = {
            text: (left, right)
            for text, _, left, right in settings.added.values()
            if text in self.control and (left or right)
        }
        self._word = re.compile(f"({any_of(self._words)})")
        self._spaces = settings.spaces
        self.hides_first_space: bool = self._model.encode("a") != self._unprefixed.encode("a")
        bos, eos = self._model.bos_id(), self._model.eos_id()  # -1: the model has none
        self.bos_id: int | None = bos if bos >= 0 else None
        self.eos_id: int | None = eos if eos >= 0 else None

    def _pieces(self) -> list[str]:
        """Return the text of each id. Raises ConfigError for one that is not UTF-8."""
        found: list[str] = []
        try:
            for token in range(self._base):
                found.append(self._model.id_to_piece(token))
        except UnicodeDecodeError as e:
            raise ConfigError(
                "tokenizer.model: expected pieces in UTF-8, found other bytes in that of token "
                f"{len(found)}. Copy the file from the checkpoint again."
            ) from e
        return found

    def id_of(self, token: str) -> int | None:
        """Return the id of a whole token, or None."""
        for tokens in (self.control, self._words):
            if token in tokens:
                return tokens[token]
        found: int = self._model.piece_to_id(token)  # unknown tokens give the id of "<unk>"
        return found if self._model.id_to_piece(found) == token else None

    def encode(self, text: str, after_control: bool = False) -> list[int]:
        """Encode plain text; `after_control` says that a control token stands before it."""
        ids: list[int] = []
        for part in self._word.split(text):
            if part in self._words:
                ids.append(self._words[part])
            elif part:
                first = not after_control and not ids
                spaced = first or self._spaces.before(part)
                ids += (self._model if spaced else self._unprefixed).encode(part)
        return ids

    def piece(self, token: int) -> str | bytes:
        """Return what an id prints; see `Vocabulary.piece`."""
        if token in self._added:
            text = self._added[token]
            return "" if text in self.control else text
        if not 0 <= token < self._base or self._model.is_control(token):
            return ""
        if self._model.is_unknown(token):
            return str(self._unprefixed.decode([token]))  # sentencepiece's sign for it, " ⁇ "
        text = str(self._model.id_to_piece(token))
        return bytes([int(text[3:5], 16)]) if self._model.is_byte(token) else text  # <0x0A>
