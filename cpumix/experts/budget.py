"""How much memory resident experts may take: the ceiling, less all that the process has besides.

What it has besides is measured before each pass: its resident memory less the experts in it. What
the pass is about to touch comes on top, from the plan.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from cpumix.units import MIB

ARRIVAL_MARGIN = 32 * MIB  # pieces that arrive before others have left, and the allocator's moods


@dataclass
class Budget:
    """The ceiling of the whole process, and what it will still take besides experts; bytes."""

    ceiling: int
    """Resident memory that the process must stay below."""
    least: int
    """The experts that one token uses in one layer: with less than that nothing runs."""
    kv_bytes: int = 0
    row_bytes: int = 0
    """Buffers of one token of a batch."""
    startup_bytes: int = 0
    """What the first pass will touch besides: kernels, scratch."""
    memory: Callable[[], int] = lambda: 0
    """Measures the resident memory of the process."""
    rows_seen: int = 0
    besides: int = 0

    def room(self, resident: int, tokens: int, full: float) -> int:
        """Return what experts may take during a pass of `tokens`.

        `resident`: the experts' bytes in memory now. `full`: the share of the KV cache in use.
        """
        # The most so far: when the system takes experts back unseen, there only seems to be less.
        self.besides = besides = max(self.memory() - resident, self.besides)
        if self.rows_seen == 0:
            besides = max(besides, self.startup_bytes)
        coming = int(self.kv_bytes * (1 - full)) + max(tokens - self.rows_seen, 0) * self.row_bytes
        self.rows_seen = max(self.rows_seen, tokens)
        return max(self.ceiling - besides - coming - ARRIVAL_MARGIN, self.least)


def faults_from_disk() -> int:
    """Count this thread's page faults that had to read; 0 where the system does not tell.

    They tell that the system takes back pages that we count as resident.
    """
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
