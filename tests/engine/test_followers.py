"""Texts that share a prompt wait for the one that computes it, and for no other."""

from __future__ import annotations

from cpumix.engine.followers import Followers


def test_each_waits_for_the_first_of_its_own_prompt():
    followers = Followers([[1, 2], [3], [1, 2], (1, 2), [3], [1]])
    assert followers.firsts == [0, 1, 5]
    assert followers.release(5) == []
    assert followers.release(1) == [4]
    assert followers.release(0) == [2, 3]


def test_they_are_released_once():
    followers = Followers([[1], [1]])
    assert followers.release(0) == [1]
    assert followers.release(0) == followers.release(1) == []
