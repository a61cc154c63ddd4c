"""A vocabulary in `tokenizer.json`, read by the optional tokenizers library."""

from __future__ import annotations

import json
import re
from typing import Any

from cpumix.errors import ConfigError, escaped
from cpumix.extras import from_extra

from .byte_level import BYTES
from .settings import TokenizerSettings
from .stream import EACH_BYTE, SPACE

# A word of our own, put before a text that does not stand at the start: the library's rules for
# the space before a text depend on where it stands. Noncharacters, so that no text contains it.
_EARLIER = "\ufdd0earlier\ufdd1"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class JsonVocabulary:
    """The tokenizers library, for byte-level BPE (Llama 3) and converted sentencepiece models."""

    def __init__(self, source: bytes, settings: TokenizerSettings) -> None:
        """Load a serialized tokenizer.

        Raises ConfigError when the library is missing, when the bytes are not a tokenizer, and for
        kinds of tokenizers that no supported architecture uses.
        """
        with from_extra("tokenizers", "tokenizer.json", " to read it"):
            from tokenizers import AddedToken, Tokenizer
        try:
            self._model: Any = Tokenizer.from_buffer(source)
        except Exception as e:  # the library raises nothing more precise
            raise ConfigError(
                f"tokenizer.json: expected a serialized tokenizer, found {len(source)} bytes that "
                "are not one. Copy the file from the checkpoint again."
            ) from e
        decoder = self._model.decoder
        kinds = _decoder_kinds(json.loads(decoder.__getstate__()) if decoder else {})
        self._byte_level = "ByteLevel" in kinds
        if not self._byte_level and "ByteFallback" not in kinds:
            raise ConfigError(
                "tokenizer.json: expected a decoder ByteLevel or ByteFallback, "
                f"found {' '.join(kinds) or 'none'}. No supported model has such a tokenizer."
            )
        self.byte_errors = "replace" if self._byte_level else EACH_BYTE
        self.hides_first_space = "Strip" in kinds

        self._model.no_truncation()  # settings of the training that may still be inside
        self._model.no_padding()
        first, self.closing = self._around()
        self.bos_id: int | None = first[0] if first else None
        self.eos_id: int | None = None  # only the configuration knows it
        named = settings.names.get("bos_token")
        self.adds_bos = bool(first) and named in (None, self._model.id_to_token(first[0]))

        added = self._model.get_added_tokens_decoder()
        self.size: int = max([self._model.get_vocab_size(), *(number + 1 for number in added)])
        self.control: dict[str, int] = {
            token.content: number
            for number, token in added.items()
            if settings.is_control(token.content, token.special)
        }
        self.strips = {
            token.content: (token.lstrip, token.rstrip)
            for token in added.values()
            if token.content in self.control and (token.lstrip or token.rstrip)
        }
        special = [AddedToken(text, special=True, normalized=False) for text in self.control]
        self._model.add_special_tokens(special)
        self._model.add_tokens([AddedToken(_EARLIER, special=False, normalized=False)])
        self._model.encode_special_tokens = True  # as the text that they are written with

    def id_of(self, token: str) -> int | None:
        """Return the id of a whole token, or None."""
        found: int | None = self._model.token_to_id(token)
        return found

    def encode(self, text: str, after_control: bool = False) -> list[int]:
        """Encode plain text; `after_control` says that a control token stands before it."""
        text = text.replace(_EARLIER, "\ufffd")
        if not after_control:
            return self._encode(text)
        return self._encode(_EARLIER + text)[1:]

    def _around(self) -> tuple[list[int], tuple[int, ...]]:
        """Return what the post-processor puts before and after a text."""
        plain, whole = self._encode("a"), self._encode("a", add_special_tokens=True)
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], tuple(whole[start + len(plain) :])
        return [], ()

    def _encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        try:
            ids: list[int] = self._model.encode(text, add_special_tokens=add_special_tokens).ids
        except BaseException as e:  # the library raises nothing more precise, or panics
            if not isinstance(e, Exception) and type(e).__name__ != "PanicException":
                raise
            raise ConfigError(
                f"tokenizer.json: expected a tokenizer that works, found {escaped(e)}. "
                "Copy the file from the checkpoint again."
            ) from e
        return ids

    def piece(self, token: int) -> str | bytes:
        """Return what an id prints; see `Vocabulary.piece`."""
        text = self._model.id_to_token(token) if 0 <= token < self.size else None
        if text is None or text in self.control:
            return b""  # unlike in sentencepiece, a character may go on after a control token
        if self._byte_level:
            try:
                return bytes(map(BYTES.__getitem__, text))
            except KeyError:
                return str(text).encode()  # an added token with characters of its own
        byte = _BYTE_TOKEN.fullmatch(text)
        if byte is None:
            return str(text)
        return bytes.fromhex(byte[1]) if byte[1] != "20" else SPACE  # Strip takes that one too


def _decoder_kinds(decoder: dict[str, Any]) -> list[str]:
    """Return the types of a serialized decoder and of the decoders in it."""
    inner = [kind for part in decoder.get("decoders", []) for kind in _decoder_kinds(part)]
    return inner or ([decoder["type"]] if decoder else [])
