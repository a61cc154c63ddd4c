"""The numbers that a generation leaves behind: what `--stats` prints and `--stats-json` writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cpumix.experts import Counters
from cpumix.units import format_size

_ENDS = {
    "eos": "the model ended the text",
    "stop": "a stop text came",
    "length": "as many tokens as asked for (-n)",
    "context": "the context is full (--context)",
    "cancelled": "interrupted",
}


@dataclass
class Stats:
    """What a generation took; times in seconds, sizes in bytes."""

    queue_seconds: float = 0.0
    """Until the first step, where other texts have had no room for this one."""
    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    generate_seconds: float = 0.0
    time_to_first_token_seconds: float = 0.0
    cached_tokens: int = 0
    """Of the prompt: they were in the KV cache already."""
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    """Of the drafted ones: they came without a pass of their own."""
    stop_reason: str = ""
    """That of `Generation`; empty while the text is being written."""
    peak_rss_bytes: int = 0
    mapped_bytes: int = 0
    resident_bytes: int | None = None
    threads: int = 0
    isa: str = ""
    experts: Counters = field(default_factory=Counters)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, as `--stats-json` writes them; `experts` is a dict, too."""
        return asdict(self)

    def summary(self) -> str:
        """Return the lines that `--stats` prints."""

        def rate(tokens: int, seconds: float) -> str:
            counted = f"{tokens} token{'s' * (tokens != 1)} in {seconds:.2f} s"
            return f"{counted}, {tokens / seconds:.1f} tok/s" if tokens > 1 and seconds else counted

        end = _ENDS.get(self.stop_reason, "not reached")
        resident = "unknown" if self.resident_bytes is None else format_size(self.resident_bytes)
        return "\n".join(
            (
                f"prompt      {rate(self.prompt_tokens, self.prompt_seconds)}",
                f"generation  {rate(self.generated_tokens, self.generate_seconds)}",
                f"end         {end}",
                f"first token after {self.time_to_first_token_seconds:.2f} s",
                f"memory      {format_size(self.peak_rss_bytes)} at most; of the file's "
                f"{format_size(self.mapped_bytes)} are {resident} resident",
                self.experts.summary(),
                f"processor   {self.threads} thread{'s' * (self.threads != 1)}, {self.isa}",
            )
        )
