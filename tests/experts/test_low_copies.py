"""Low copies: who is served by them, what it does to texts, and that budgets change nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tiny_models import CONFIGS, write_source

import cpumix
from cpumix.errors import ConfigError
from cpumix.experts import find_low_copies, take_low_copies
from cpumix.memory.planner import LOW_SHARE, make_plan
from cpumix.quant import nbytes
from cpumix.store import ModelFile

IDS = list(range(3, 40))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same checkpoint with low copies and without."""
    folder = tmp_path_factory.mktemp("low")
    source = write_source(folder / "hf", CONFIGS["moe"])
    for name, low in (("with", True), ("without", False)):
        cpumix.convert(source, folder / f"{name}.bin", "int8", low_copy=low)
    return {name: folder / f"{name}.bin" for name in ("with", "without")}


def test_second_experts_of_little_weight_are_served_by_their_copies():
    ids = np.array([[3, 5], [0, 7], [6, 1], [2, 4]], np.int32)
    weights = np.array([[0.8, 0.2], [0.75, 0.25], [0.5, 0.5], [0.7693, 0.2307]], np.float32)
    take_low_copies(ids, weights, 8)
    assert ids.tolist() == [[3, 13], [0, 7], [6, 1], [2, 12]]
    several = np.array([[3, 5, 1]], np.int32)
    take_low_copies(several, np.array([[0.6, 0.3, 0.1]], np.float32), 8)
    assert several.tolist() == [[3, 5, 9]]


def test_the_file_holds_each_expert_twice(files):
    with ModelFile(files["with"]) as low, ModelFile(files["without"]) as plain:
        assert low.formats.low == "q2s"
        assert plain.formats.low is None
        for name, tensor in plain.tensors.items():
            assert low.data(name).tobytes() == plain.data(name).tobytes(), name
            assert low.tensors[name].format == tensor.format
        copies = sorted(low.tensors.keys() - plain.tensors.keys())
        experts = low.config.num_local_experts
        assert copies == [f"blk.{n}.low.{e}" for n in (0, 1) for e in range(experts)]
        shapes = [part.shape for part in low.config.expert_tensors(0, 0)]
        assert low.tensors[copies[0]].nbytes == sum(nbytes("q2s", shape) for shape in shapes)
        assert low.expert_name(1, experts + 2) == "blk.1.low.2"


def test_off_is_the_model_without_them_and_on_is_another(files):
    logits = {}
    for name, low_copy in (("without", "auto"), ("with", "off"), ("with", "on"), ("with", "auto")):
        with cpumix.load(files[name], threads=1, low_copy=low_copy) as model:
            logits[name, low_copy] = model.logits(IDS)
    assert (logits["with", "off"] == logits["without", "auto"]).all()
    assert (logits["with", "on"] == logits["with", "auto"]).all()
    assert (logits["with", "on"] != logits["with", "off"]).any()


def test_a_row_is_the_same_alone_and_among_others(files):
    with cpumix.load(files["with"], threads=1) as model:
        together = model.logits(IDS)
        model.restart()
        alone = np.stack([model.advance([i]) for i in IDS])
    assert (together == alone).all()


@pytest.mark.slow
def test_budgets_do_not_change_the_text(files):
    with cpumix.load(files["with"], threads=1, context=64) as model:
        expected = model.logits(IDS)
        plan = make_plan(model.config, model.file.formats, 64, 1 << 40)
    # Room for the least that runs: every expert comes and goes.
    with cpumix.load(files["with"], threads=1, context=64, ram=plan.minimum_bytes) as paged:
        assert (paged.logits(IDS) == expected).all()


def test_plans_count_them(files):
    with ModelFile(files["with"]) as file:
        config, formats = file.config, file.formats
        whole = make_plan(config, formats, 64, 1 << 40)
        plain = make_plan(config, find_low_copies(file, "off"), 64, 1 << 40)
        copies = sum(
            -(-t.nbytes // 16384) * 16384 for t in file.tensors.values() if "low" in t.name
        )
        assert whole.expert_bytes - plain.expert_bytes == copies
        assert whole.token_bytes <= plain.token_bytes
        assert 0 < LOW_SHARE < 1


def test_on_without_copies_is_refused(files):
    message = re.escape(f'found none: "{files["without"]}". Convert the checkpoint again with')
    with pytest.raises(ConfigError, match=message):
        cpumix.load(files["without"], low_copy="on")


def test_what_is_none_of_the_three_is_refused(files):
    with pytest.raises(ConfigError, match='low copy: expected one of auto, on, off, found "yes"'):
        cpumix.load(files["with"], low_copy="yes")


def test_models_of_one_expert_have_none(tmp_path):
    source = write_source(tmp_path / "hf", CONFIGS["dense"])
    message = "expected a model whose tokens go through two experts or more, found 1"
    with pytest.raises(ConfigError, match=message):
        cpumix.convert(source, tmp_path / "m.bin", "int4", low_copy=True)
    assert not (tmp_path / "m.bin").exists()
