"""A tensor may bring the 16 values of its code book; the file keeps them, and products use them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_files import CONFIG, with_, write

from cpumix.errors import FormatError
from cpumix.experts.views import view
from cpumix.kernels.operands import TiledMatrix
from cpumix.quant import q4
from cpumix.quant.precision import CODED
from cpumix.store import ModelFile, build_entries
from cpumix.store.matrices import matrices_of

NF4_LIKE = (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127)


@pytest.fixture
def file(tmp_path: Path):
    """A model in which one expert has a code book of its own."""
    entries = [
        replace(e, book=NF4_LIKE if e.name == "blk.1.expert.2" else None)
        for e in build_entries(CONFIG, CODED)
    ]
    with ModelFile(write(tmp_path / "m", entries=entries)) as file:
        yield file


def test_book_comes_back_with_its_tensor(file):
    assert file.tensors["blk.1.expert.2"].book == NF4_LIKE
    assert [t.name for t in file.tensors.values() if t.book] == ["blk.1.expert.2"]


def test_versions_that_know_no_books_refuse_the_file(file):
    assert json.loads(file.metadata["cpumix.config"])["requires"] == "0.2.0"
    assert file.config == CONFIG


def test_file_without_books_has_no_key_for_them(tmp_path):
    with ModelFile(write(tmp_path / "m")) as file:
        assert "cpumix.tensor.code_books" not in file.metadata
        assert not any(t.book for t in file.tensors.values())


def test_weights_are_read_with_the_book(file):
    book = np.array(NF4_LIKE, np.int8)
    for matrix in matrices_of(file, file.tensors["blk.1.expert.2"]):
        shape = matrix.rows, matrix.columns
        with np.errstate(invalid="ignore"):  # random bytes are scales that are no numbers, too
            expected = q4.dequantize(matrix.tiles, *shape, book)
            usual = q4.dequantize(matrix.tiles, *shape)
            np.testing.assert_array_equal(matrix.read(0, matrix.rows), expected)
        assert (expected != usual).any()


def test_experts_matrices_know_their_book(file):
    assert all(m.book is not None and m.book.tolist() == list(NF4_LIKE) for m in view(file, (1, 2)))
    other = view(file, (1, 1)).w1
    assert isinstance(other, TiledMatrix)
    assert other.book is q4.CODE_BOOK


@pytest.mark.parametrize("values", [np.zeros(16, np.int8), np.full(16 * 23, -128, np.int8)])
def test_wrong_books_are_refused(tmp_path, values):
    path = write(tmp_path / "m", change=with_("cpumix.tensor.code_books", values))
    with pytest.raises(FormatError, match="expected 16 values of -127 to 127 for each of"):
        ModelFile(path)


def test_books_of_another_type_are_refused(tmp_path):
    path = write(tmp_path / "m", change=with_("cpumix.tensor.code_books", np.zeros(16, np.uint32)))
    with pytest.raises(FormatError, match="expected an array of int8, found uint32"):
        ModelFile(path)
