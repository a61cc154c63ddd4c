"""What a model's tokenizer and side files take in memory, by their sizes.

The factors are bounds, measured on files that are made to take much: tokenizers of up to 500,000
tokens, and 8 to 30 MiB of lists, objects, tokens, names and templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cpumix.checkpoint.late_files import LateFiles, solid_bytes
from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.tokenizer import prepare_files
from cpumix.units import MIB

from .sizes import PROGRAM_BYTES, TOKEN_BYTES, TOKENIZER_LIBRARIES

SMALL_FILES = 2 * MIB  # of all files but the vocabulary: the program's own bytes cover these
READING_FACTOR = 52  # bytes that a byte of JSON takes while it is read: of lists in lists, 50
KEPT_FACTOR = 2  # and afterwards, mostly as memory that is free but not given back
MODEL_FACTOR = 20  # of a tokenizer.model
JSON_FACTOR = 18  # of a tokenizer.json that is the vocabulary, blanks and line ends not counted


class SideBytes(NamedTuple):
    """Bytes that come to what a plan has for any model."""

    kept: int = 0
    """As long as the model is loaded."""
    reading: int = 0
    """While the files are read, before anything else of the model is in memory."""

    @property
    def startup(self) -> int:
        """What the process takes while it reads them; 0 if that is nothing to speak of."""
        return PROGRAM_BYTES + self.reading if self.reading else 0

    def at_least(self, grown: int, vocab_size: int) -> SideBytes:
        """Return these, or more if a tokenizer has made the process grow by more."""
        planned = TOKEN_BYTES * vocab_size + TOKENIZER_LIBRARIES
        return self._replace(kept=max(self.kept, grown - planned))


NO_SIDE_FILES = SideBytes()


def program_bytes(config: ModelConfig, side: SideBytes) -> int:
    """Return what Python, the libraries, the kernels and the tokenizer take."""
    return PROGRAM_BYTES + TOKEN_BYTES * config.vocab_size + side.kept


def count_side_bytes(files: Mapping[str, bytes], vocab_size: int) -> SideBytes:
    """Return what the side files of a model file take."""
    if "tokenizer.model" in files:
        name, vocabulary = "tokenizer.model", MODEL_FACTOR * len(files["tokenizer.model"])
    else:
        name = "tokenizer.json"
        vocabulary = JSON_FACTOR * _solid_bytes(files, name) - TOKENIZER_LIBRARIES
    others = sum(len(files[other]) for other in files if other != name) - SMALL_FILES
    kept = max(vocabulary - TOKEN_BYTES * vocab_size, 0) + KEPT_FACTOR * max(others, 0)
    return SideBytes(kept, READING_FACTOR * (others + SMALL_FILES) if others > 0 else 0)


def _solid_bytes(files: Mapping[str, bytes], name: str) -> int:
    """Count a file's bytes but blanks and line ends, if it is there."""
    if isinstance(files, LateFiles) and name in files:
        return files.solid_bytes(name)
    return solid_bytes(files.get(name, b""))


def foresee_side_bytes(files: Mapping[str, bytes], vocab_size: int) -> SideBytes:
    """Return what the side files of a checkpoint will take, once they are in a model file."""
    try:
        return count_side_bytes(prepare_files(files), vocab_size)
    except ConfigError:  # a tokenizer that `convert` refuses
        return NO_SIDE_FILES
