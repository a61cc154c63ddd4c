"""The worked examples of CONTRIBUTING.md: each is one file and one row, and then it works."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from checkpoints import MIXTRAL, write_checkpoint
from tiny_checkpoint import huggingface_names, make_weights, to_f32

from cpumix.checkpoint import open_checkpoint
from cpumix.checkpoint.encodings import ENCODINGS
from cpumix.errors import ConvertError
from cpumix.sampling import filters
from cpumix.sampling.candidates import Candidates
from cpumix.sampling.filters import Acts, Row, create_filters
from cpumix.sampling.params import SamplingParams
from cpumix.sampling.state import SequenceState

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def example(word: str) -> tuple[ModuleType, str]:
    """Return the example that has a word, as a module, and the row that follows it."""
    (at,) = (i for i, text in enumerate(CODE) if word in text and text.startswith('"""'))
    module = ModuleType(f"example_{word}")
    exec(compile(CODE[at], f"CONTRIBUTING.md, {word}", "exec"), vars(module))
    return module, CODE[at + 1]


@pytest.fixture
def row_scaled(monkeypatch):
    module, row = example("RowScaled")
    table = dict(ENCODINGS)
    exec(row, {"ENCODINGS": table, "row_scaled": module})
    (name,) = table.keys() - ENCODINGS.keys()
    monkeypatch.setitem(ENCODINGS, name, table[name])
    return name


def encoded(name: str, scales: int | None = None) -> dict:
    """Return the parts of a checkpoint in which one matrix is encoded, by their names."""
    codes = np.random.default_rng(0).integers(-127, 128, (16, 16), np.int8)
    scale = np.linspace(0.01, 0.02, scales or 16, dtype=np.float32)
    return {f"{name}.weight": None, f"{name}.codes": codes, f"{name}.row_scale": scale}


MODULE = "model.layers.1.self_attn.q_proj"


def test_an_encoding_is_one_file_and_one_row(row_scaled, tmp_path):
    parts = encoded(MODULE)
    method = {"quant_method": row_scaled}
    write_checkpoint(tmp_path, change=parts, quantization_config=method)
    tensors = open_checkpoint(tmp_path).tensors
    read = tensors["blk.1.attn_q.weight"].read_rows(3, 12)
    wanted = parts[f"{MODULE}.codes"] * parts[f"{MODULE}.row_scale"][:, None]
    assert (read == wanted[3:12]).all()
    plain = huggingface_names(make_weights(MIXTRAL, seed=0), fused=False)
    other = tensors["blk.0.attn_q.weight"].read_rows(0, 16)
    assert (to_f32(other) == to_f32(plain["model.layers.0.self_attn.q_proj.weight"])).all()


def test_parts_that_do_not_fit_are_refused(row_scaled, tmp_path):
    method = {"quant_method": row_scaled}
    write_checkpoint(tmp_path, change=encoded(MODULE, scales=15), quantization_config=method)
    with pytest.raises(ConvertError, match=r"expected codes \(n, k\) of I8 and a scale for each"):
        open_checkpoint(tmp_path)


@dataclass(frozen=True, kw_only=True)
class Params(SamplingParams):
    """The parameters, with the field that the filter would add."""

    top_a: float = 0.0


@pytest.mark.parametrize(("top_a", "count"), [(0.0, 3), (0.5, 2), (1.0, 1)])
def test_a_filter_is_one_file_and_one_row(monkeypatch, top_a, count):
    module, row = example("top_a")
    table = dict(filters.FILTERS)
    exec(row, {"FILTERS": table, "Row": Row, "Acts": Acts, "top_a": module})
    monkeypatch.setattr(filters, "FILTERS", table)
    chances = np.array([0.1, 0.6, 0.3], np.float32)  # 0.5 x 0.36 = 0.18, 1.0 x 0.36 = 0.36
    params = Params(temperature=1, top_k=0, top_p=1, min_p=0, top_a=top_a)
    candidates = Candidates(np.log(chances))
    for narrow in create_filters(params, SequenceState(params, [])):
        narrow(candidates)
    assert candidates.ids.tolist() == [1, 2, 0][:count]


def test_all_examples_of_the_page_are_tested():
    assert len(CODE) == 4
