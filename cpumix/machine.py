"""What this machine has: memory, cores, and the limits of the control group we run in.

The only module that uses psutil. A container sees the whole machine's memory in the usual places;
what the kernel will really give it stands in its control group, or in one further up the tree.
Page cache never counts as used memory: the kernel gives it back when asked.
"""

from __future__ import annotations

import math
import mmap
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil


@dataclass(frozen=True)
class MachineInfo:
    """Memory in bytes and cores, as far as this process may use them."""

    ram_bytes: int  # of the whole machine
    available_bytes: int  # that can be taken now without swapping, within the limits
    cgroup_bytes: int | None  # the tightest memory limit of our control groups; None without one
    physical_cores: int  # within the CPU affinity and the control groups' CPU quota
    page_size: int

    @property
    def limit_bytes(self) -> int:
        """The memory that a plan may count on: RAM, or the control group's limit if smaller."""
        return min(self.ram_bytes, self.cgroup_bytes or self.ram_bytes)


def machine_info(root: Path = Path("/")) -> MachineInfo:
    """Look at this machine; `root` stands in for / in tests."""
    memory = psutil.virtual_memory()
    groups = list(_memory_limits(root))
    return MachineInfo(
        ram_bytes=memory.total,
        available_bytes=min([memory.available, *(max(limit - used, 0) for limit, used in groups)]),
        cgroup_bytes=min((limit for limit, _ in groups), default=None),
        physical_cores=_physical_cores(root),
        page_size=mmap.PAGESIZE,
    )


def peak_rss_bytes() -> int:
    """Return the most memory that this process has had at once, mapped pages included."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):  # in KiB; getrusage would count the parent's peak at the fork
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def rss_bytes() -> int:
    """Return the memory that this process has now, mapped pages included; takes 20 microseconds."""
    return int(psutil.Process().memory_info().rss)


def mapped_rss_bytes(path: Path) -> int | None:
    """Return how much of a file this process has in its memory; None if the system keeps quiet."""
    try:
        maps = psutil.Process().memory_maps(grouped=True)
    except (AttributeError, psutil.Error):  # macOS has no such list
        return None
    return int(sum(m.rss for m in maps if m.path == str(path.resolve())))


def processor_name(root: Path = Path("/")) -> str:
    """Return what the processor calls itself, as for a bug report."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _physical_cores(root: Path) -> int:
    cpus = _allowed_cpus()
    siblings = {
        _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu
        for cpu in cpus
    }
    cores = min(len(siblings), psutil.cpu_count(logical=False) or len(siblings))
    quotas = [math.ceil(quota) for quota in _cpu_quotas(root)]
    return max(min([cores, *quotas]), 1)


def _allowed_cpus() -> list[int]:
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows do not bind processes this way
        return list(range(psutil.cpu_count() or 1))


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, used) in bytes of each of our memory control groups that has a limit."""
    for folder, is_v2 in _cgroup_folders(root, "memory"):
        limit = _number(folder / ("memory.max" if is_v2 else "memory.limit_in_bytes"))
        used = _number(folder / ("memory.current" if is_v2 else "memory.usage_in_bytes")) or 0
        if limit is None or limit >= 2**60:  # v1 writes "no limit" as a number near 2**63
            continue
        yield limit, max(used - _page_cache(folder, "" if is_v2 else "total_"), 0)


def _page_cache(folder: Path, prefix: str) -> int:
    """Return the bytes of files that the group has in memory; counted as used, but free to take."""
    rows = (line.split() for line in _read(folder / "memory.stat").splitlines())
    wanted = (f"{prefix}active_file", f"{prefix}inactive_file")
    return sum(int(row[1]) for row in rows if len(row) == 2 and row[0] in wanted)


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield each CPU limit of our control groups, in CPUs."""
    for folder, is_v2 in _cgroup_folders(root, "cpu"):
        if is_v2:
            words = _read(folder / "cpu.max").split()  # "150000 100000", or "max 100000"
            quota, period = words if len(words) == 2 else ("max", "")
        else:
            quota = _read(folder / "cpu.cfs_quota_us")  # -1: no limit
            period = _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            yield int(quota) / int(period)


def _cgroup_folders(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of each control group that we are in, innermost first, and if it is v2.

    /proc/self/cgroup has lines "4:memory:/a/b" for version 1 and one "0::/a/b" for version 2. In
    a container the path may be the host's and not exist here; then its ancestors do not either,
    except the mount point itself, which is the container's own group.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_v2 = number == "0" and not controllers
        if is_v2:
            mount = mounts / "unified" if (mounts / "unified").is_dir() else mounts
        elif controller in controllers.split(","):
            mount = mounts / controller
        else:
            continue
        inner = PurePosixPath(*(name for name in path.split("/") if name not in ("", "..")))
        for relative in (inner, *inner.parents):
            folder = mount / relative
            if folder.is_dir():
                yield folder, is_v2


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
