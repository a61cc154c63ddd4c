"""Packages that only some users need: an extra of cpumix brings each, `pip install "cpumix[X]"`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ConfigError


@contextmanager
def from_extra(extra: str, where: str, use: str = "") -> Iterator[None]:
    """Import what an extra brings in this block.

    Raises ConfigError where it is missing: `where` begins the sentence, and `use` says, if the
    beginning does not, what the package is for.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise ConfigError(
            f'{where}: expected the package "{package}"{use}, found none. '
            f'Run: pip install "cpumix[{extra}]"'
        ) from error
