"""Model files that earlier versions wrote open for ever, and write the same text.

`data/witnesses` has a small file of each precision, and some of unusual shapes, as version 0.1.0
wrote them at commit c2e3660, compressed; and what that version went on with at temperature 0, the
same at every instruction-set level.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

import cpumix
from cpumix.config import Llama3Scaling
from cpumix.store.reader import ModelFile

FOLDER = Path(__file__).parents[1] / "data" / "witnesses"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
PRECISIONS = {name: "mix-1" if name == "mix-1" else name.rpartition("-")[2] for name in EXPECTED}
DEMO_SHA256 = "fc598faddea11b461ba31d072ccdbe1bb294384c84a1760475eabbfd4d2070da"
DEMO_PROMPT = "And they returned to the city"
DEMO_TEXT = (
    ".  And they said unto him, We will not go up to the city, and we will go up to the city.  "
    "And he said, I will not go up to the city, and go to the city, and go to the city.  "
    "And he said, I will not"
)


@pytest.fixture(params=EXPECTED)
def witness(request, tmp_path):
    """Return a file's name and path."""
    data = gzip.decompress((FOLDER / f"{request.param}.bin.gz").read_bytes())
    assert hashlib.sha256(data).hexdigest() == EXPECTED[request.param]["sha256"]
    (path := tmp_path / "model.bin").write_bytes(data)
    return request.param, path


def test_it_opens_and_is_whole(witness):
    name, path = witness
    with ModelFile(path) as file:
        file.verify()
        assert file.precision == PRECISIONS[name]
        is_llama = name.startswith("llama3")
        assert file.config.is_moe != is_llama
        scaling = Llama3Scaling(8.0, 1.0, 4.0, 64) if is_llama else None
        assert file.config.rope_scaling == scaling
        assert file.config.sliding_window == (16 if name.startswith("window") else None)
        assert file.config.to_json() == file.metadata["cpumix.config"]


@pytest.mark.slow
def test_it_writes_the_same_text(witness):
    name, path = witness
    expected = EXPECTED[name]
    with cpumix.load(path) as model:
        ids = model.generate_ids(expected["prompt"], 40, temperature=0.0, stop=())
        assert list(ids) == expected["greedy"]


@pytest.mark.slow
def test_the_demo_model_stays(demo_model):
    assert hashlib.sha256(demo_model.read_bytes()).hexdigest() == DEMO_SHA256
    with cpumix.load(demo_model) as model:
        assert "".join(model.generate(DEMO_PROMPT, max_tokens=60, temperature=0.0)) == DEMO_TEXT
