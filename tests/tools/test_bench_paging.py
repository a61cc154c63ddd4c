"""The tools that measure paging: the big model, the control group, a run, what is printed."""

from __future__ import annotations

import sys
from argparse import Namespace

import bench_paging
import make_big_model
import numpy as np
import pytest
from control_group import memory_group
from paged_models import EXPERTS, LAYERS, small_config, write_paged

import cpumix
from cpumix.units import MIB

pytestmark = pytest.mark.slow


def test_big_model_loads_and_routes_evenly(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_big_model, "mixtral_8x7b", lambda layers: small_config(vocab=2000))
    path = tmp_path / "big.bin"
    assert make_big_model.main([str(path)]) == 0
    assert f"{path}: " in capsys.readouterr().out
    with cpumix.load(path, context=600, threads=1) as model:
        lease, counts = model._engine.pager.lease, np.zeros((LAYERS, EXPERTS))

        def count(layer, used, chosen):
            counts[layer] += np.bincount(chosen.ravel(), minlength=EXPERTS)
            return lease(layer, used, chosen)

        monkeypatch.setattr(model._engine.pager, "lease", count)
        model.logits(np.random.default_rng(1).integers(3, 2000, 512).tolist())
    assert counts.sum() == LAYERS * 2 * 512
    assert counts.min() > 0.4 * 128  # 128 of each when even
    assert counts.max() < 2 * 128


def test_control_group_limits_what_runs_in_it():
    code = "from cpumix.machine import machine_info; print(machine_info().cgroup_bytes)"
    try:
        with memory_group(512 * MIB) as group:
            process = group.start([sys.executable, "-c", code])
            output, _ = process.communicate(timeout=600)
            assert int(output) == 512 * MIB
            folder = group.folder
    except OSError:
        pytest.skip("this user may not make control groups")
    assert not folder.exists()


def test_run_and_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_paging, "DISK_BYTES", 1)
    monkeypatch.setattr(bench_paging, "WARM", 2)
    monkeypatch.setattr(bench_paging, "CONTEXT", 600)
    monkeypatch.setattr(bench_paging, "PIECE", 65536)
    path = write_paged(tmp_path / "model.bin", small_config(vocab=2000))
    options = Namespace(model=path, work=0, tokens=10, prompt=100, no_guesses=False)
    try:
        result = bench_paging.work(options)
    except (OSError, AttributeError):
        pytest.skip("no direct reads here")
    prompt, decode = result["prompt"], result["decode"]
    assert (prompt["tokens"], decode["tokens"]) == (100, 10)
    used = (LAYERS - 1) * EXPERTS + 2  # in the last layer, one token's
    assert prompt["hits"] + prompt["misses"] == used
    assert prompt["misses"] <= 2  # those, which may be others than the first prompt's
    assert decode["hits"] + decode["misses"] == 10 * LAYERS * 2
    assert prompt["disk_gb_s"] > 0
    bench_paging.show(result | {"ram": 1 << 30, "rss": 1 << 29, "group": 0}, 10**7, 1.0)
    text = capsys.readouterr().out
    assert "512.0 MiB resident at most, never above the ceiling" in text
    assert "prompt of 100" in text
    assert "decode of 10" in text
    assert "llama.cpp in the same group: 1.00 tok/s" in text
