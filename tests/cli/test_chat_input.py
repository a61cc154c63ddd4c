"""Where a message of several lines ends, and what is sent of it."""

from __future__ import annotations

import pytest

from cpumix.cli.chat_input import clean, is_unfinished


@pytest.mark.parametrize(
    ("text", "unfinished", "message"),
    [
        ("one", False, "one"),
        ("one \\", True, "one"),
        ("one\\\ntwo", False, "one\ntwo"),
        ('"""one', True, "one"),
        ('"""one"""', False, "one"),
        ('"""', True, ""),
        ('"""""', True, '""'),
        ('"""one\n  two\n"""', False, "one\n  two"),
        ('say """x', False, 'say """x'),
        ("", False, ""),
    ],
)
def test_marks_of_a_message_that_goes_on(text, unfinished, message):
    assert is_unfinished(text) is unfinished
    assert clean(text) == message
