"""Gives tensors of 4 bits the code book of their checkpoint, if that keeps its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cpumix.checkpoint import Checkpoint
from cpumix.quant.exact import find_book
from cpumix.store import TensorEntry


def with_code_books(entries: Sequence[TensorEntry], checkpoint: Checkpoint) -> list[TensorEntry]:
    """Return the entries, those of format q4 with the book that all of their weights are in.

    That is one for the whole model: checkpoints quantize experts alike. None if the weights have
    no common book, or the format's own.
    """
    parts = [part for entry in entries if entry.format == "q4" for part, _ in entry.parts]
    values = {checkpoint.tensors[part].code_values for part in parts}
    common = values.pop() if len(values) == 1 else None
    book = None if common is None else find_book(common)
    return [replace(e, book=book) if e.format == "q4" else e for e in entries]
