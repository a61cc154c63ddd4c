"""What a tokenizer library must tell: how text splits into ids, and what each id prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Vocabulary(Protocol):
    """One tokenizer library behind the few questions that `Tokenizer` and `TextStream` ask."""

    @property
    def size(self) -> int:
        """Number of ids, added tokens included."""

    @property
    def control(self) -> Mapping[str, int]:
        """Control strings, which a chat template may write and plain text never contains."""

    @property
    def strips(self) -> Mapping[str, tuple[bool, bool]]:
        """Control strings that take the white space before or after them along."""

    @property
    def bos_id(self) -> int | None:
        """The id that the library itself puts before a text."""

    @property
    def eos_id(self) -> int | None:
        """The end of text that the library itself knows."""

    @property
    def closing(self) -> tuple[int, ...]:
        """The ids that the library itself puts after a text that is whole."""

    @property
    def adds_bos(self) -> bool:
        """Whether a text starts with `bos_id` unless the configuration says otherwise."""

    @property
    def hides_first_space(self) -> bool:
        """Whether the space before the first word is the tokenizer's own and not printed."""

    @property
    def byte_errors(self) -> str:
        """Error handler of `codecs` that replaces invalid UTF-8 as the library does."""

    def id_of(self, token: str) -> int | None:
        """Find the id of a whole token, or None."""

    def encode(self, text: str, after_control: bool = False) -> list[int]:
        """Encode plain text; `after_control` says that a control token stands before it."""

    def piece(self, token: int) -> str | bytes:
        """Give what an id prints: bytes may be part of a character; "▁" in a str is a space.

        Control tokens and ids outside the vocabulary print nothing.
        """
