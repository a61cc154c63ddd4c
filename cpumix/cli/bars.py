"""Bars of memory against two marks: the picture that `cpumix fit` draws."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import click


@dataclass(frozen=True)
class Glyphs:
    """What the cells of a bar are drawn with."""

    parts: str  # nothing of a cell, equal parts of it, all of it
    second: str  # the second part of a bar
    edge: str  # in the last cell of a bar that is longer than the picture
    mark: str
    is_colored: bool


TERMINAL = Glyphs(" ▏▎▍▌▋▊▉█", "▒", "▶", "│", True)
PLAIN = Glyphs(" #", "=", ">", "|", False)


class Bars:
    """Draws bars over `width` cells, which stand for `whole` bytes, with marks at two shares."""

    def __init__(
        self, whole: int, marks: tuple[float, float], width: int, glyphs: Glyphs = PLAIN
    ) -> None:
        self._cell_bytes, self._width, self.glyphs = whole / width, width, glyphs
        self._labels = [f"{100 * share:.0f} %" for share in marks]
        self._marks = [int(share * width) for share in marks]

    def ruler(self, end: str) -> str:
        """Return the line above the bars; `end` names the right edge, if there is room."""
        mark, (left, right) = self.glyphs.mark, self._marks
        line = f"{self._labels[0]:>{left}}{mark}".ljust(right) + mark + self._labels[1]
        return f"{line}{end:>{self._width - len(line)}}" if len(line + end) < self._width else line

    def draw(self, first: int, second: int, color: str) -> str:
        """Return a bar of two parts, in bytes, `width` cells wide."""
        cells = [self._cell(index, first, second) for index in range(self._width)]
        if first + second > self._width * self._cell_bytes:
            cells[-1] = self.glyphs.edge
        runs = groupby(range(self._width), lambda i: (i in self._marks and i, cells[i]))
        return "".join(
            self._paint(cell * len([*run]), color) if mark is False else self._mark(cell, color)
            for (mark, cell), run in runs
        )

    def _cell(self, index: int, first: int, second: int) -> str:
        """Return one cell; the last one of a bar may be full in part."""
        parts, start = self.glyphs.parts, index * self._cell_bytes

        def share(end: float) -> float:
            return min(max((end - start) / self._cell_bytes, 0.0), 1.0)

        filled = share(first + second)
        if share(first) >= filled / 2:
            return parts[round(filled * (len(parts) - 1))]
        return self.glyphs.second if filled >= 0.5 else parts[0]

    def _mark(self, cell: str, color: str) -> str:
        mark = self.glyphs.mark
        if not self.glyphs.is_colored or cell != self.glyphs.parts[-1]:
            return mark
        return click.style(mark, fg="black", bg=color)

    def _paint(self, cells: str, color: str) -> str:
        return click.style(cells, fg=color) if self.glyphs.is_colored else cells
