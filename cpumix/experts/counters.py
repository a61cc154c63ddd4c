"""What the pager counts; sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cpumix.units import format_size


@dataclass
class Counters:
    """Hits and misses are uses of an expert by a layer and batch (one token, or a prompt's 512)."""

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    """Bytes of missed experts that were in no memory when their reading began."""
    read_seconds: float = 0.0
    """Time in which something was being read."""
    wait_seconds: float = 0.0
    """Time in which computing waited for it; the rest of `read_seconds` is hidden."""
    evictions: int = 0
    predicted: int = 0
    """Experts read before the router asked for them."""
    predicted_used: int = 0
    budget_bytes: int = 0
    """What resident experts may take together, at present."""
    peak_resident_bytes: int = 0
    """The most that they took."""

    @property
    def hit_rate(self) -> float:
        """Share of the uses that found their expert in memory."""
        return self.hits / max(self.hits + self.misses, 1)

    def since(self, before: Counters) -> Counters:
        """Return what came on top of earlier counts; budget and peak stay as they are."""
        now, then = asdict(self), asdict(before)
        kept = ("budget_bytes", "peak_resident_bytes")
        return Counters(**{k: now[k] - (0 if k in kept else then[k]) for k in now})

    def to_dict(self) -> dict[str, int | float]:
        """Return the numbers by name."""
        return asdict(self)

    def summary(self) -> str:
        """Return the lines that `--stats` prints."""
        rate, budget = 100 * self.hit_rate, format_size(self.budget_bytes)
        hidden = max(self.read_seconds - self.wait_seconds, 0.0)
        speed = self.bytes_read / self.read_seconds / 1e9 if self.read_seconds else 0.0
        lines = [
            f"experts     {self.hits} hits, {self.misses} misses ({rate:.0f} % hits)",
            f"resident    {format_size(self.peak_resident_bytes)} of experts at most, of a budget "
            f"of {budget}; {self.evictions} given back",
        ]
        if self.misses:
            lines.append(
                f"disk        {format_size(self.bytes_read)} read in {self.read_seconds:.2f} s"
                f" ({speed:.2f} GB/s): {hidden:.2f} s hidden behind computing,"
                f" {self.wait_seconds:.2f} s waited for"
            )
        if self.predicted:
            lines.append(f"prediction  {self.predicted_used} of {self.predicted} guesses used")
        return "\n".join(lines)
