"""A budget holds for a whole process, whatever it does, and for two at once."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from paged_models import small_config, write_paged

import cpumix
from cpumix.machine import machine_info
from cpumix.memory.planner import make_plan
from cpumix.store import ModelFile
from cpumix.store.residency import resident_bytes
from cpumix.units import MIB

CONTEXT = 600
SAMPLE_SECONDS = 0.05
WRITES = """
    import sys
    import cpumix

    with cpumix.load(sys.argv[1], ram=int(sys.argv[2]), context=600, threads=1) as model:
        ids = [3 + 7 * i % 300 for i in range(550)]  # a batch of 512, and one of 38
        tokens = model.generate_ids(ids, 40)
        tokens += model.generate_ids(ids[:5], 40)
        print(tokens)
        print(model._engine.pager.counters.evictions, model._engine.pager.counters.budget_bytes)
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A model of 24 experts of 6.8 MiB."""
    return write_paged(
        tmp_path_factory.mktemp("processes") / "model.bin", small_config(1024, 4096, 2048)
    )


@pytest.fixture(scope="module")
def expected(path):
    """What it writes with everything in memory; compiles the kernels, too."""
    with cpumix.load(path, context=CONTEXT, threads=1) as model:
        ids = [3 + 7 * i % 300 for i in range(550)]
        return model.generate_ids(ids, 40) + model.generate_ids(ids[:5], 40)


def start(path: Path, ram: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITES), str(path), str(ram)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def watch(*processes: subprocess.Popen[str]) -> list[tuple[int, list[str]]]:
    """Wait for processes; return the most resident memory of each, and the lines it wrote."""
    most = [0] * len(processes)
    while any(process.poll() is None for process in processes):
        for i, process in enumerate(processes):
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            except OSError:
                continue
            sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")]
            most[i] = max([most[i], *sizes])
        time.sleep(SAMPLE_SECONDS)
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    return list(zip(most, outputs, strict=True))


def smallest(path: Path) -> tuple[int, int]:
    """Return the least memory that the model runs in, and what its experts take."""
    with ModelFile(path) as file:
        plan = make_plan(file.config, file.formats, CONTEXT, machine_info().ram_bytes)
    return plan.minimum_bytes, plan.expert_bytes


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_resident_memory_stays_below_the_ceiling(path, expected, share):
    least, experts = smallest(path)
    ram = -(-(least + int(share * experts)) // MIB) * MIB
    ((most, (tokens, numbers)),) = watch(start(path, ram))
    assert tokens == str(expected)
    evictions, budget = map(int, numbers.split())
    assert evictions > 0
    assert budget <= least + share * experts
    assert most <= ram


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_long_prompt_of_a_model_that_just_fits(tmp_path, demo_model, kv):
    """Nothing pages and nothing is left: what a plan has for the program is enough."""
    with ModelFile(demo_model) as file:
        plan = make_plan(file.config, file.formats, 2048, machine_info().ram_bytes, kv)
    text = (Path(__file__).parents[1] / "data" / "heldout.txt").read_text()[:5000]
    words = ["run", "--raw", "-f", tmp_path / "text", "-n", 5, "--context", 2048, "--kv", kv]
    (tmp_path / "text").write_text(text)
    words += ["--ram", plan.total_bytes, "--stats-json", tmp_path / "stats.json"]
    command = [sys.executable, "-m", "cpumix", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["prompt_tokens"] > 1700
    assert stats["experts"]["evictions"] == 0
    assert stats["peak_rss_bytes"] <= plan.total_bytes


@linux_only
@pytest.mark.slow
def test_two_processes_share_a_file(path, expected):
    least, experts = smallest(path)
    rams = [least + experts // 4, least + experts // 2]
    results = watch(*(start(path, ram) for ram in rams))
    for (most, (tokens, _)), ram in zip(results, rams, strict=True):
        assert tokens == str(expected)
        assert most <= ram


@linux_only
@pytest.mark.slow
def test_page_cache_holds_no_more_than_the_process_did(path, expected):
    from test_pager import drop_cache

    drop_cache(path)
    least, experts = smallest(path)
    ((_, (_, numbers)),) = watch(start(path, ram := least + experts // 4))
    budget = int(numbers.split()[1])
    with ModelFile(path) as file:
        if file.resident_bytes() == file.mapped_bytes:
            pytest.skip("this file system keeps its files in memory")
        experts = [t for t in file.tensors.values() if t.spec.expert is not None]
        found = sum(resident_bytes(file.address + t.offset, t.nbytes) for t in experts)
    assert 0 < found <= budget < ram
