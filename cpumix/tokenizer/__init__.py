"""Text to token ids and back, with the tokenizer files that came with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpumix.lazy import names_in

if TYPE_CHECKING:
    from .prepare import prepare_files as prepare_files
    from .stream import TextStream as TextStream
    from .tokenizer import Tokenizer as Tokenizer

__all__ = ["TextStream", "Tokenizer", "prepare_files"]
__getattr__ = names_in(
    __name__, {"TextStream": "stream", "Tokenizer": "tokenizer", "prepare_files": "prepare"}
)
