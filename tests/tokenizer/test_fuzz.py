"""Random templates, conversations and damaged files: a bounded run of tools/fuzz/tokenizers.py."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest
from fuzz import templates
from fuzz.tokenizers import KINDS, run

from cpumix.tokenizer.jinja.costs import FILTER_COSTS, METHODS, OPERATORS

pytestmark = pytest.mark.slow

CASES = {"template": 80, "operation": 80, "conversation": 80, "files": 150}
# What looks at a text without changing it costs as much for all of these names.
ALIKE = "isalnum isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace "
ALIKE += "istitle isupper is_integer"


@pytest.mark.parametrize("kind", KINDS)
def test_random_cases_are_harmless(kind: str) -> None:
    outcomes, failures = run(kind, CASES[kind], seed=0)
    assert not failures
    assert len(outcomes) > 1 or kind == "conversation"  # else the damage gets nowhere


def test_random_templates_take_little_memory() -> None:
    templates.run(Random(1))  # what is imported counts once
    tracemalloc.start()
    try:
        for number in range(1000, 1015):
            templates.run(Random(number))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_every_operation_is_fuzzed() -> None:
    forms = " ".join(form for forms in templates.TABLE.values() for form in forms)
    names = {name for methods in METHODS.values() for name in methods} - set(ALIKE.split())
    assert not [name for name in names if f".{name}(" not in forms]
    later = {
        name for name in FILTER_COSTS if f"|{name}" not in forms and f"map('{name}" not in forms
    }
    assert not later
    assert not [name for name in OPERATORS if f" {name} " not in forms]
