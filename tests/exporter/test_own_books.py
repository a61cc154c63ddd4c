"""Tensors with a code book of their own are exported with the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import MIXTRAL
from gguf_files import TOKENIZERS, metadata_of, sentencepiece_metadata, tensors_of, write_gguf
from model_files import CONFIG, write
from tiny_checkpoint import make_weights

import cpumix
from cpumix.checkpoint import open_checkpoint
from cpumix.checkpoint.encodings.ggml import GGML_TYPES, dequantize
from cpumix.errors import ConvertError
from cpumix.exporter.weights import find_type
from cpumix.quant import exact, q4
from cpumix.store import build_entries

Q4_0 = tuple(range(-8, 8))
MXFP4 = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12, 12)
KINDS = {kind.name: kind for kind in GGML_TYPES.values()}


@pytest.mark.parametrize(
    ("book", "columns", "name"),
    [(Q4_0, 64, "Q4_0"), (MXFP4, 64, "Q8_0"), (None, 64, "IQ4_NL"), (MXFP4, 40, "F32")],
)
def test_type_of_a_book(book: tuple[int, ...] | None, columns: int, name: str) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    values = q4.CODE_BOOK if book is None else np.array(book, np.int8)
    codes = rng.choice(values, (20, 64)).astype(np.int8)
    scales = rng.normal(size=(20, 2)).astype(np.float16)
    tiles = exact.to_tiles("q4", codes, scales, values)
    assert tiles is not None
    expected = q4.dequantize(tiles, 20, columns, values)
    kind = find_type("q4", columns, book)
    assert (kind.name, kind.code) == (
        name,
        next(c for c, k in GGML_TYPES.items() if k.name == name),
    )
    rows = kind.rows(tiles, 20, columns)
    assert np.array_equal(dequantize(rows, KINDS[name]), expected)


def test_numbers_of_q4_0_come_back(tmp_path: Path) -> None:
    config = MIXTRAL | {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 96}
    tensors = tensors_of(config, make_weights(config, seed=0))
    rng = np.random.Generator(np.random.PCG64(0))
    for name, tensor in tensors.items():
        if len(tensor.shape) > 1 and "gate_inp" not in name:
            blocks = rng.integers(0, 256, (int(np.prod(tensor.shape)) // 32, 18)).astype(np.uint8)
            scales = rng.uniform(-0.1, 0.1, len(blocks)).astype(np.float16)
            blocks[:, :2] = scales.view(np.uint8).reshape(-1, 2)
            tensors[name] = tensor._replace(kind="Q4_0", data=blocks.tobytes())
    tokenizer = sentencepiece_metadata((TOKENIZERS / "small.model").read_bytes())
    source = write_gguf(tmp_path / "a.gguf", metadata_of(config) | tokenizer, tensors)
    assert cpumix.convert(source, tmp_path / "m.bin", "as-is").precision == "int4"
    report = cpumix.export(tmp_path / "m.bin", tmp_path / "b.gguf")
    assert report.types.keys() == {"Q4_0", "Q8_0", "F32"}
    before, after = (open_checkpoint(tmp_path / name).tensors for name in ("a.gguf", "b.gguf"))
    for name, tensor in after.items():
        rows = tensor.shape[0]
        assert np.array_equal(tensor.read_rows(0, rows), before[name].read_rows(0, rows)), name


def test_several_books_in_a_layer(tmp_path: Path) -> None:
    entries = [
        replace(e, book=Q4_0 if e.name == "blk.1.expert.2" else None)
        for e in build_entries(CONFIG, "int4")
    ]
    model = write(tmp_path / "m.bin", entries=entries)
    with pytest.raises(ConvertError, match="expected the same code book in all experts of a layer"):
        cpumix.export(model, tmp_path / "m.gguf")
