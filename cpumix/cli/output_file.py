"""Files that a command writes beside its answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import click


class OutputFile(click.File):
    """A text file that is opened with its first line: a run that is refused leaves it as it was."""

    def __init__(self) -> None:
        super().__init__("w", encoding="utf-8", lazy=True)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> IO[Any]:
        """Say now, not after the run, that nothing can be written there."""
        path = Path(value)
        place = path if path.exists() else path.parent
        if value != "-" and (path.is_dir() or not os.access(place, os.W_OK)):
            self.fail(f"{value!r}: expected a file that can be written.", param, ctx)
        return super().convert(value, param, ctx)
