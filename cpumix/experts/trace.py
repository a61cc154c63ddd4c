"""Writes a line for each layer and pass, which `tools/plot_paging.py` draws."""

from __future__ import annotations

from typing import IO

COLUMNS = ("position", "tokens", "layer", "experts", "found", "milliseconds", "resident_bytes")


class Trace:
    """Tab-separated lines under a heading.

    position: of the pass's first token in the conversation | tokens: of the pass, 1 unless it is a
    prompt's | experts: those used, "2,5" | found: "hit" or "miss" of each | milliseconds: of the
    layer's experts, waiting included | resident_bytes: of all experts, after it.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        stream.write("\t".join(COLUMNS) + "\n")

    def write(
        self,
        position: int,
        tokens: int,
        layer: int,
        found: dict[int, bool],
        seconds: float,
        resident_bytes: int,
    ) -> None:
        """Add a line; `found` says of each expert used whether it was in memory."""
        experts = sorted(found)
        fields = (
            str(position),
            str(tokens),
            str(layer),
            ",".join(map(str, experts)),
            ",".join("hit" if found[e] else "miss" for e in experts),
            f"{1000 * seconds:.3f}",
            str(resident_bytes),
        )
        self._stream.write("\t".join(fields) + "\n")
