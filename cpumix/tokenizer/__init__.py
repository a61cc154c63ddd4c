"""Text to token ids and back, with the tokenizer files that came with the model."""

from .prepare import prepare_files
from .stream import TextStream
from .tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer", "prepare_files"]
