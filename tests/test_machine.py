"""machine.py against made-up control groups under a temporary root."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from cpumix import machine
from cpumix.machine import machine_info, peak_rss_bytes, processor_name

GIB = 2**30


@pytest.fixture
def big_machine(monkeypatch):
    """64 GiB with 60 free, 8 logical CPUs on 4 cores."""
    memory = SimpleNamespace(total=64 * GIB, available=60 * GIB)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: list(range(8)))


def lay_out(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_this_machine():
    info = machine_info()
    assert 0 < info.available_bytes <= info.limit_bytes <= info.ram_bytes
    assert info.physical_cores >= 1
    assert info.page_size in (4096, 16384, 65536)


def test_without_cgroups(big_machine, tmp_path):
    info = machine_info(tmp_path)
    assert info.cgroup_bytes is None
    assert info.limit_bytes == 64 * GIB
    assert info.available_bytes == 60 * GIB
    assert info.physical_cores == 4


def test_v2_nested_limit_of_a_parent_is_honoured(big_machine, tmp_path):
    base = "sys/fs/cgroup/work.slice"
    lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "0::/work.slice/job/step",
            f"{base}/job/step/memory.max": "max",
            f"{base}/job/memory.max": 8 * GIB,
            f"{base}/job/memory.current": 5 * GIB,
            f"{base}/job/memory.stat": f"anon {3 * GIB}\nactive_file {GIB}\ninactive_file {GIB}",
            f"{base}/memory.max": 16 * GIB,
            f"{base}/memory.current": 2 * GIB,
        },
    )
    info = machine_info(tmp_path)
    assert info.cgroup_bytes == 8 * GIB
    assert info.limit_bytes == 8 * GIB
    assert info.available_bytes == 5 * GIB  # 5 GiB in use, of which 2 are page cache


def test_v1_limit_counts_the_whole_subtree(big_machine, tmp_path):
    base = "sys/fs/cgroup/memory/box"
    lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box/inner\n1:cpu,cpuacct:/\n0::/",
            f"{base}/inner/memory.limit_in_bytes": 9223372036854771712,
            f"{base}/memory.limit_in_bytes": 4 * GIB,
            f"{base}/memory.usage_in_bytes": 3 * GIB,
            f"{base}/memory.stat": f"active_file 0\ntotal_active_file {GIB}\ntotal_inactive_file 0",
        },
    )
    info = machine_info(tmp_path)
    assert info.cgroup_bytes == 4 * GIB
    assert info.available_bytes == 2 * GIB


@pytest.mark.parametrize("path", ["/docker/0123abcd", "/../../other", "/"])
def test_container_that_only_sees_its_own_group(big_machine, tmp_path, path):
    lay_out(tmp_path, {"proc/self/cgroup": f"0::{path}", "sys/fs/cgroup/memory.max": 2 * GIB})
    assert machine_info(tmp_path).limit_bytes == 2 * GIB


def test_limit_above_the_ram_changes_nothing(big_machine, tmp_path):
    lay_out(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": 900 * GIB})
    assert machine_info(tmp_path).limit_bytes == 64 * GIB


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys/fs/cgroup/a/cpu.max": "200000 100000"}, 2),
        ({"sys/fs/cgroup/a/cpu.max": "150000 100000"}, 2),  # two threads use all of 1.5 CPUs
        ({"sys/fs/cgroup/a/cpu.max": "10000 100000"}, 1),
        ({"sys/fs/cgroup/a/cpu.max": "max 100000"}, 4),
        ({"sys/fs/cgroup/cpu.max": "300000 100000", "sys/fs/cgroup/a/cpu.max": "max 100000"}, 3),
        ({"sys/fs/cgroup/a/cpu.max": "1600000 100000"}, 4),
    ],
)
def test_cpu_quota_v2(big_machine, tmp_path, files, cores):
    lay_out(tmp_path, {"proc/self/cgroup": "0::/a", **files})
    assert machine_info(tmp_path).physical_cores == cores


@pytest.mark.parametrize(("quota", "cores"), [("100000", 2), ("25000", 1), ("-1", 4)])
def test_cpu_quota_v1_beside_an_empty_unified_mount(big_machine, tmp_path, quota, cores):
    lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/a\n0::/",
            "sys/fs/cgroup/unified/cgroup.procs": "1",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": quota,
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": 50000,
        },
    )
    assert machine_info(tmp_path).physical_cores == cores


@pytest.mark.parametrize(
    ("allowed", "cores"),
    [([0, 1, 2, 3], 4), ([0, 4], 1), ([0, 1, 4], 2), ([5], 1), (list(range(8)), 4)],
)
def test_two_threads_of_one_core_count_once(big_machine, monkeypatch, tmp_path, allowed, cores):
    lay_out(
        tmp_path,
        {
            f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": pair
            for core, pair in enumerate(["0,4", "1,5", "2,6", "3,7"])
            for cpu in (core, core + 4)
        },
    )
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: allowed)
    assert machine_info(tmp_path).physical_cores == cores


def test_cores_within_affinity_where_the_topology_is_hidden(big_machine, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_allowed_cpus", lambda: [0, 1])
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda logical=True: None)
    assert machine_info(tmp_path).physical_cores == 2


def test_peak_memory_outlives_what_took_it():
    touched = b"x" * (64 << 20)
    now = machine.psutil.Process().memory_info().rss
    del touched
    assert peak_rss_bytes() >= 0.98 * now  # the kernel counts in batches


def test_peak_memory_without_proc(monkeypatch):
    known = peak_rss_bytes()
    monkeypatch.setattr(machine, "_read", lambda path: "")
    assert peak_rss_bytes() >= 0.98 * known


def test_processor_has_a_name(tmp_path):
    assert processor_name()
    assert processor_name(tmp_path)  # at least its architecture
    lay_out(tmp_path, {"proc/cpuinfo": "processor: 0\nmodel name\t: Acme 9000"})
    assert processor_name(tmp_path) == "Acme 9000"
