"""Read and write sizes and times: bytes are int inside the program, times are float seconds.

Memory is sold in powers of two, so here 1G = 1GB = 1GiB = 1024 MiB. Whoever writes `--ram 64GB`
means the 64 GiB that the machine's label says.
"""

from __future__ import annotations

import re

from cpumix.errors import ConfigError

KIB, MIB, GIB, TIB = (1024**power for power in (1, 2, 3, 4))

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:([KMGT])(?:I?B)?|B)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_RULE = "an amount such as 64G, 1.5GiB or 65536M (powers of two: 1G = 1GB = 1GiB = 1024 MiB)"


def parse_size(text: str) -> int:
    """Return the bytes that a size such as "64G", "1.5GiB", "65536M" or "1073741824" stands for.

    Raises ConfigError for anything else, for nothing, and for less than 1 MiB: "64" is a forgotten
    unit, not 64 bytes of memory.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f'size: expected {_RULE}, found "{text}".')
    number, letter = match.groups(default="")
    size = float(number) * _FACTORS[letter.upper()]
    if size > 2**60:
        raise ConfigError(f'size: "{text}" is more memory than any machine has. Write {_RULE}.')
    if size < MIB:
        raise ConfigError(f'size: "{text}" is less than 1 MiB. Write {_RULE}.')
    return int(size)


def format_size(size: int) -> str:
    """Write bytes with one decimal in the largest binary unit that fits: "24.0 GiB"."""
    for factor, unit in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= factor * 0.99995:  # so that rounding never gives "1024.0 MiB"
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def format_count(count: int) -> str:
    """Write how many there are of many things: "46.7 billion", "135 million", "1,234"."""
    for factor, unit in ((1e9, "billion"), (1e6, "million")):
        if count >= factor * 0.9995:
            return f"{count / factor:.3g} {unit}"
    return f"{count:,}"


def format_seconds(seconds: float) -> str:
    """Write a time the way one says it: "12 ms", "3.4 s", "2 min 05 s", "1 h 02 min"."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"
