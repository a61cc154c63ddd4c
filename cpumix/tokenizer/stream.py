"""Turn ids into text one by one, holding back characters that are not complete yet."""

from __future__ import annotations

import codecs

from .vocabulary import Vocabulary

SPACE = "▁"  # how sentencepiece writes a space inside a piece
EACH_BYTE = "cpumix-each-byte"


def _replace_one_byte(error: UnicodeError) -> tuple[str, int]:
    # sentencepiece prints one U+FFFD per byte; Python's "replace" prints one per broken character.
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd", error.start + 1


codecs.register_error(EACH_BYTE, _replace_one_byte)


class TextStream:
    """Text of a growing sequence of ids; the pieces joined are the decoded sequence.

    `continuing` says that the ids go on where a text ended: the space before the first word is
    kept. Without it the first word loses the space that the tokenizer itself puts before a text.
    """

    def __init__(self, vocabulary: Vocabulary, *, continuing: bool = False) -> None:
        self._vocabulary = vocabulary
        self._bytes = codecs.getincrementaldecoder("utf-8")(vocabulary.byte_errors)
        self._hide_space = vocabulary.hides_first_space and not continuing

    def put(self, token: int) -> str:
        """Add one id; return the text that is complete now, often a word, sometimes nothing."""
        piece = self._vocabulary.piece(token)
        first = self._hide_space
        self._hide_space = first and not piece
        if isinstance(piece, bytes):
            return self._bytes.decode(piece)
        if first:
            piece = piece.removeprefix(SPACE)
        return self.finish() + piece.replace(SPACE, " ")  # only bytes can complete a character

    def finish(self) -> str:
        """Return what was held back, each byte as U+FFFD; the stream then goes on with put()."""
        return self._bytes.decode(b"", True)
