"""Configs that are damaged on purpose: each is refused in a sentence, or read and then plannable.

A bounded run of tools/fuzz/configs.py.
"""

from __future__ import annotations

from fuzz.configs import one_case


def test_damaged_configs():
    taken = sum(map(one_case, range(1500)))
    assert 100 < taken < 1400  # both happen
