"""The house rule on messages: a test looks for each that a user can cause. See `check_style`."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def phrases(text: str) -> set[str]:
    """Return the runs of three words in a text; shorter stretches count whole.

    A stretch ends where a message has a value, or a test's pattern something other than words.
    """
    found = set()
    for stretch in re.split(r"\0|\\[dswDSW][*+]?|\.[*+]\??|\.\{\d+\}|[|\[\]^$]", text):
        words = re.findall(r"[A-Za-z0-9_]+", stretch.replace("\\", ""))
        found |= {" ".join(words[i : i + 3]) for i in range(max(len(words) - 2, 1))}
    return found - {""}


def error_messages(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, message) of each error that the package makes; values are written as NUL."""
    tree = parse(root / "cpumix/errors.py")
    errors = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for path in sorted((root / "cpumix").rglob("*.py")):
        tree = parse(path)
        constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in errors and node.args:
                place = f"{path.relative_to(root)}:{node.lineno}"
                yield place, render(node.args[0], constants)


def render(node: ast.expr, constants: dict[str, object]) -> str:
    """Return the text of a string expression as far as it can be read, NUL for the rest."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name):
        return str(constants.get(node.id, "\0"))
    if isinstance(node, ast.JoinedStr):
        return "".join(render(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return render(node.value, constants)
    if isinstance(node, ast.BinOp):
        return render(node.left, constants) + render(node.right, constants)
    return "\0"


def check_messages(root: Path) -> Iterator[str]:
    """Complain about messages no test looks for.

    A test looks for a message if one of its strings shares three words in a row with it that no
    other message has.
    """
    tested: set[str] = set()
    for path in (root / "tests").rglob("test_*.py"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                tested |= phrases(node.value)
    messages = [(place, phrases(message)) for place, message in error_messages(root)]
    uses = Counter(phrase for _, found in messages for phrase in found)
    for place, found in messages:
        own = {phrase for phrase in found if uses[phrase] == 1} or found
        if not found:
            yield f"{place}: the error's message cannot be read here; write it where it is raised"
        elif not own & tested:
            yield f"{place}: no test matches this error's message"
