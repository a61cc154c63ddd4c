from __future__ import annotations

import pickle

import pytest

from cpumix.errors import ConfigError, escaped, quoted


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", '"model.embed_tokens.weight"'),
        ("Straße 北京 🙂", '"Straße 北京 🙂"'),
        ("a\nb\x1b[31m\x00", r'"a\nb\x1b[31m\x00"'),
        ("\ud800", r'"\ud800"'),
        ("\u202eevil\u2028", r'"\u202eevil\u2028"'),
        (7, '"7"'),
        ("", '""'),
    ],
)
def test_names_are_quoted_in_one_line(name: object, expected: str) -> None:
    assert quoted(name) == expected


def test_long_names_keep_both_ends() -> None:
    name = "a" * 200 + "b" * 200
    assert quoted(name) == f'"{"a" * 51}...{"b" * 26}"'
    assert len(escaped(name)) == 80
    assert escaped(name[:80]) == name[:80]
    assert escaped("x" * 100, most=10) == "xxxx...xxx"


def test_an_option_is_told_on_the_command_line_only():
    error = ConfigError("prompt: expected some text, found none.", "Give it with -p.")
    assert str(error) == "prompt: expected some text, found none. Give it with -p."
    assert error.message == "prompt: expected some text, found none."
    assert str(ConfigError("model: closed.")) == ConfigError("model: closed.").message
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
