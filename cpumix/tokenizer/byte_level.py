"""The characters that stand for bytes in a byte-level vocabulary, such as "Ġ" for a space."""

from __future__ import annotations


def _characters() -> list[str]:
    """Return the character of each byte.

    Source: GPT-2's encoder.py: printable Latin-1 stands for itself, the rest for 256 and up.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = (byte for byte in range(256) if byte not in printable)
    numbers = dict(zip(printable, printable, strict=True)) | {
        b: 256 + n for n, b in enumerate(hidden)
    }
    return [chr(numbers[byte]) for byte in range(256)]


CHARACTERS = _characters()
BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}
