"""Text to token ids and back, with the tokenizer files that came with the model."""

from .stream import TextStream
from .tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer"]
