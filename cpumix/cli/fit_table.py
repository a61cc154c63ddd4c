"""What `cpumix fit` prints: the answer as a table with a picture, and what to type next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

import click

from cpumix.fit.advice import PLACEHOLDER
from cpumix.fit.answer import Answer, PlanRow
from cpumix.machine import MachineInfo
from cpumix.memory.planner import CEILING, TARGET
from cpumix.units import GIB, MIB, format_size

from .bars import PLAIN, TERMINAL, Bars

COLORS = {"fits": "green", "tight": "yellow", "pages": "magenta", "no": "red"}
VERBS = {"fits": "fits", "tight": "is tight", "pages": "pages", "no": "does not run"}
COLUMNS = {  # title: how its cells are aligned
    "precision": "<9",
    "bits": ">5",
    "file": ">6",
    "weights": ">8",
    "KV": ">5",
    "buffers": ">8",
    "total": ">7",
    "share": ">6",
    " verdict": "<8",
    "disk": ">6",
    "tok/s": ">10",
}
MARGIN = 2  # for the sign of the chosen row
TABLE_WIDTH = MARGIN + sum(int(form[1:]) for form in COLUMNS.values())
LEAST_BAR, MOST_BAR = 32, 64
LABEL_WIDTH = MARGIN + len("precision") + 1
NOTE_WIDTH = len("  272 %  tight")


class Page:
    """One answer on a terminal, or a pipe, of some width."""

    def __init__(self, answer: Answer, width: int, is_terminal: bool) -> None:
        self._answer, self._is_terminal = answer, is_terminal
        self._plan, self._text_width = answer.choice.plan, min(width, 100)
        room = width - TABLE_WIDTH - 2
        self._aside = room >= LEAST_BAR  # the bars have room beside the table
        if not self._aside:
            room = width - LABEL_WIDTH - NOTE_WIDTH
        room = min(max(room, LEAST_BAR), MOST_BAR)
        glyphs = TERMINAL if is_terminal else PLAIN
        self._bars = Bars(self._plan.ram_bytes, (TARGET, CEILING), room, glyphs)
        is_large = self._plan.total_bytes >= GIB
        self._unit, self._unit_name = (GIB, "GiB") if is_large else (MIB, "MiB")

    def lines(self, machine: MachineInfo | None) -> Iterator[str]:
        """Yield everything; `machine` is the one planned for, None if the user named an amount."""
        rows, ruler = self._answer.rows, self._bars.ruler(format_size(self._plan.ram_bytes))
        yield from self._head(machine)
        yield ""
        if not self._aside:
            yield " " * LABEL_WIDTH + ruler
            yield from map(self._picture, rows)
            yield ""
        titles = "  " + _align(list(COLUMNS))
        yield f"{titles}  {ruler}" if self._aside else titles
        for row in rows:
            line = self._marked(row, _align(self._cells(row)))
            yield f"{line}  {self._bar(row)}" if self._aside else line
        yield ""
        for paragraph in self._legend():
            yield from wrap(paragraph, self._text_width)
        yield ""
        for paragraph in self._conclusion():
            yield from (self._paint(line) for line in wrap(paragraph, self._text_width))
        if self._answer.commands:
            yield ""
            is_open = PLACEHOLDER in self._answer.commands[0].split()
            yield f"Next ({PLACEHOLDER}: its folder):" if is_open else "Next:"
            yield from (f"  {line}" for line in self._answer.commands)

    def _head(self, machine: MachineInfo | None) -> Iterator[str]:
        answer, plan = self._answer, self._plan
        count = f"{plan.weights / 1e9:.3g} billion weights"
        if answer.active_weights < plan.weights:
            count += f", {answer.active_weights / 1e9:.3g} billion for each token"
        texts = f" for each of {plan.parallel} texts" if plan.parallel > 1 else ""
        yield f"{answer.source.name}, context {plan.context}{texts}: {count}"
        whole = format_size(plan.ram_bytes)
        if machine is None:
            yield f"A machine with {whole} of memory"
            return
        free = f"{format_size(machine.available_bytes)} of them free now"
        if machine.limit_bytes < machine.ram_bytes:
            ram = format_size(machine.ram_bytes)
            yield f"This process may use {whole} of the machine's {ram} of memory, {free}"
        else:
            yield f"This machine has {whole} of memory, {free}"

    def _picture(self, row: PlanRow) -> str:
        plan = row.plan
        label = self._marked(row, plan.precision.ljust(LABEL_WIDTH - MARGIN))
        note = f"{_percent(plan.share):>7}  {plan.verdict}"
        return label + self._bar(row) + self._paint(note, plan.verdict)

    def _bar(self, row: PlanRow) -> str:
        plan = row.plan
        weights = plan.dense_bytes + plan.expert_bytes
        return self._bars.draw(weights, plan.total_bytes - weights, COLORS[plan.verdict])

    def _marked(self, row: PlanRow, text: str) -> str:
        if row is not self._answer.choice:
            return " " * MARGIN + text
        if not self._is_terminal:
            return "> " + text
        return click.style(f"▸ {text}", bold=True)

    def _paint(self, text: str, verdict: str | None = None) -> str:
        """Colour a text as its verdict, the chosen row's if none is given."""
        if not self._is_terminal:
            return text
        return click.style(text, fg=COLORS[verdict or self._plan.verdict])

    def _cells(self, row: PlanRow) -> list[str]:
        plan = row.plan
        weights = plan.dense_bytes + plan.expert_bytes
        sizes = (row.file_bytes, weights, plan.kv_bytes, plan.buffer_bytes, plan.total_bytes)
        read = plan.read_bytes_per_token
        return [
            plan.precision,
            f"{plan.bits_per_weight:.1f}",
            *(f"{size / self._unit:.1f}" for size in sizes),
            _percent(plan.share),
            f" {plan.verdict}",
            f"{read / self._unit:.1f}" if read and plan.verdict == "pages" else "-",
            "-".join(dict.fromkeys(map(_rate, row.tok_s))) if plan.verdict != "no" else "-",
        ]

    def _legend(self) -> Iterator[str]:
        whole = "1024 MiB, as memory is sold" if self._unit == GIB else "1024 KiB"
        glyphs = self._bars.glyphs
        yield f"Sizes in {self._unit_name} ({whole}); disk: read for each token."
        yield f"Bars: {glyphs.parts[-1]} weights, {glyphs.second} KV cache and buffers."
        yield "bits: of a weight in the file, scales included."
        yield "mix-B: what loses least with B bits for a weight, chosen matrix by matrix."
        yield "fits: up to 70 % of the memory; tight: up to 75 %; pages: reads as it runs."
        yield f"tok/s: from {self._answer.bandwidths.describe()}."

    def _conclusion(self) -> Iterator[str]:
        plan = self._plan
        yield f"{plan.precision} {VERBS[plan.verdict]}{plan.meaning().removeprefix(plan.verdict)}."
        yield from self._answer.advice


def _align(cells: Sequence[str]) -> str:
    """Put cells into their columns."""
    return "".join(f"{cell:{form}}" for cell, form in zip(cells, COLUMNS.values(), strict=True))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 9.995 else ">999 %"


def _rate(tokens: float) -> str:
    digits = 0 if tokens >= 9.95 else 1 if tokens >= 0.95 else 2
    return f"{tokens:.{digits}f}"
