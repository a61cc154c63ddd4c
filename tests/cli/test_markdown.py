"""Markdown in a terminal: the same whatever pieces it comes in, and never a control sequence."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from cpumix.cli.markdown import RESET, STYLES, MarkdownStream

NAMES = {code: f"<{name}>" for name, code in STYLES.items()} | {RESET: "</>"}


def shown(*pieces: str) -> str:
    """Return what a terminal gets, styles by name."""
    found: list[str] = []
    stream = MarkdownStream(found.append)
    for piece in pieces:
        stream.put(piece)
    stream.finish()
    text = "".join(found)
    for code, name in NAMES.items():
        text = text.replace(code, name)
    return text


CASES = {
    "Plain text.\nAnd more.": "Plain text.\nAnd more.",
    "## A *word*\nText": "<bold>A </><bold><italic>word</><bold></>\nText",
    "- one\n  * two\n+ three": "• one\n  • two\n• three",
    "1. one\n2. two": "1. one\n2. two",
    "> quoted": "<dim>│ quoted</>",
    "a **strong** word": "a <bold>strong</> word",
    "**Strong** at once": "<bold>Strong</> at once",
    "an *open one\nnext": "an <italic>open one</>\nnext",
    "2 * 3 * 4 and 2*3*4": "2 * 3 * 4 and 2*3*4",
    "snake_case and `a * b`": "snake_case and <code>a * b</>",
    r"not \*strong\* and C:\dir": r"not *strong* and C:\dir",
    "before\n---\nafter": f"before\n{'─' * 24}\nafter",
    "-5 degrees": "-5 degrees",
    "#hashtag": "#hashtag",
    "```python\nx = 1  # *no*\n\n- y\n```\nafter": (
        "<dim>```python</>\n<code>x = 1  # *no*</>\n<code></>\n<code>- y</>\n<dim>```</>\nafter"
    ),
    "````\n```\n````\nend": "<dim>````</>\n<code>```</>\n<dim>````</>\nend",
    "```\nnever closed": "<dim>```</>\n<code>never closed</>",
    "ends with *": "ends with *",
    "| a | b |\n|---|---|\n": "| a | b |\n|---|---|\n",
}


@pytest.mark.parametrize("text", CASES)
def test_marks_become_styles(text):
    assert shown(text) == CASES[text]


@pytest.mark.parametrize("text", CASES)
def test_pieces_make_no_difference(text):
    whole = shown(text)
    assert shown(*text) == whole
    draw = random.Random(text)
    for _ in range(20):
        cuts = sorted(draw.choices(range(len(text) + 1), k=3))
        ends = [0, *cuts, len(text)]
        assert shown(*(text[a:b] for a, b in pairwise(ends))) == whole


def test_text_is_shown_as_soon_as_it_is_certain():
    found: list[str] = []
    stream = MarkdownStream(found.append)
    stream.put("Hel")
    assert found == ["Hel"]
    stream.put("lo *")
    assert "".join(found) == "Hello "
    stream.put(" 3")
    assert "".join(found) == "Hello * 3"


def test_a_model_cannot_steer_the_terminal():
    assert shown("a\x1b[2Jb\x07\x9bc\rd\te\n") == "a[2Jbcd\te\n"
