"""Show Markdown in a terminal while it is written.

Marks become styles: headings and strong words bold, code in colour, bullets as dots. Each character
is shown as soon as it is certain what it means, and never changed afterwards, so that a slow model
can be read as it writes. A block that has to be complete first, such as a table, stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable

RESET = "\x1b[0m"
STYLES = {"bold": "\x1b[1m", "italic": "\x1b[3m", "code": "\x1b[36m", "dim": "\x1b[2m"}

# How a line may begin, and what is shown instead; the first that matches counts.
_STARTS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r" {0,3}#{1,6} +"), "", "bold"),
    (re.compile(r" {0,3}(?:-{3,}|\*{3,}|_{3,})[ \t]*(?=\n)"), "─" * 24, ""),
    (re.compile(r"([ \t]*)[-*+] +"), r"\1• ", ""),
    (re.compile(r" {0,3}> ?"), "│ ", "dim"),
)
_FENCE = re.compile(r"([ \t]*(?:```+|~~~+))([^\n`]*)\n")
# A line that may still become one of these.
_UNSURE = re.compile(
    r"[ \t]*(?:#{1,6}|-+|\*+|_+|\+|>|`{1,2}|~{1,2}|`{3,}[^\n`]*|~{3,}[^\n`]*)?[ \t]*"
)
_ESCAPED = "\\`*_#[]"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a model must not steer the terminal


class MarkdownStream:
    """Gives `write` the styled text of the pieces that `put` gets."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._held = ""
        self._fence = ""  # what ends the block of code that we are in
        self._line_starts = True
        self._styles: list[str] = []
        self._before = "\n"  # the character before those held

    def put(self, text: str) -> None:
        """Show a piece, but for what may still mean something else."""
        self._held += _CONTROL.sub("", text)
        self._show(last=False)

    def finish(self) -> None:
        """Show the rest, and go back to plain text."""
        self._show(last=True)
        self._restyle([])

    def _show(self, last: bool) -> None:
        while self._held:
            if self._line_starts:
                if not last and _UNSURE.fullmatch(self._held):
                    return
                self._begin_line()
                continue
            taken = self._take_code() if self._fence else self._take_text(last)
            if not taken:
                return
            self._before = self._held[taken - 1]
            self._held = self._held[taken:]

    def _begin_line(self) -> None:
        self._line_starts = False
        fence = _FENCE.match(self._held)
        if fence and (not self._fence or self._ends_code(fence)):
            self._restyle(["dim"])
            self._write(fence[0].rstrip("\n"))
            self._fence = "" if self._fence else fence[1].strip()
            self._end_line()
            self._held = self._held[fence.end() :]
        elif self._fence:
            self._restyle(["code"])
        else:
            for pattern, shown, style in _STARTS:
                if found := pattern.match(self._held):
                    self._restyle([style] if style else [])
                    self._write(found.expand(shown))
                    self._held = self._held[found.end() :]
                    self._before = " "
                    break

    def _ends_code(self, fence: re.Match[str]) -> bool:
        return fence[1].strip().startswith(self._fence) and not fence[2].strip()

    def _end_line(self) -> None:
        self._restyle([])
        self._write("\n")
        self._line_starts = True

    def _take_code(self) -> int:
        """Show code up to the end of the line; return the number of characters."""
        code, newline, _ = self._held.partition("\n")
        self._write(code)
        if newline:
            self._end_line()
        return len(code) + len(newline)

    def _take_text(self, last: bool) -> int:
        """Show text up to the next mark, or a mark; return the number of characters, 0 to wait."""
        plain = re.match(r"[^\n`*\\]+", self._held)
        if plain:
            self._write(plain[0])
            return plain.end()
        mark, after = self._held[0], self._held[1:2]
        if mark == "\n":
            self._end_line()
        elif mark == "`":
            self._toggle("code")
        elif not after and not last:
            return 0
        elif "code" in self._styles:
            self._write(mark)
        elif mark == "\\" and after and after in _ESCAPED:
            self._write(after)
            return 2
        elif mark == "*" and after == "*":
            self._toggle("bold")
            return 2
        elif mark == "*" and self._is_emphasis(after):
            self._toggle("italic")
        else:
            self._write(mark)
        return 1

    def _is_emphasis(self, after: str) -> bool:
        if "italic" in self._styles:
            return not self._before.isspace()
        return bool(after.strip()) and not self._before.isalnum()

    def _toggle(self, style: str) -> None:
        if style in self._styles:
            self._restyle([other for other in self._styles if other != style])
        else:
            self._restyle([*self._styles, style])

    def _restyle(self, styles: list[str]) -> None:
        if styles != self._styles:
            begun = RESET if self._styles else ""
            self._styles = styles
            self._write(begun + "".join(STYLES[style] for style in styles))
