"""Stop strings, against the definition on the whole text, for every way to cut it into pieces."""

from __future__ import annotations

import random

import pytest

from cpumix.sampling.stop import StopMatcher


def slow_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Read letter by letter; return what comes before the first stop, and which it is."""
    for end in range(len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            longest = max(ended, key=len)
            return text[: end - len(longest)], longest
    return text, None


def cut(text: str, draw: random.Random) -> list[str]:
    places = sorted(draw.choices(range(len(text) + 1), k=draw.randrange(len(text) + 1)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("seed", range(300))
def test_any_pieces_end_where_the_whole_text_does(seed):
    draw = random.Random(seed)
    text = "".join(draw.choices("ab🌍", k=draw.randrange(25)))
    stops = [
        "".join(draw.choices("ab🌍", k=draw.randrange(1, 5))) for _ in range(draw.randrange(4))
    ]
    expected, stop = slow_stop(text, stops)
    matcher, said = StopMatcher(stops), ""
    read = ""
    for piece in cut(text, draw):
        read += piece
        said += matcher.put(piece)
        assert expected.startswith(said)
        held = len(slow_stop(read, stops)[0]) - len(said)  # no more than a stop but for a letter
        assert held < max(map(len, stops), default=1)
    assert (said + matcher.finish(), matcher.found) == (expected, stop)


def test_what_cannot_become_a_stop_is_said_at_once():
    matcher = StopMatcher(["\nUser:"])
    assert [matcher.put(p) for p in ("Hi", "\n", "Us", "e it", ".\nUser", ": x", "y")] == [
        "Hi",
        "",
        "",
        "\nUse it",
        ".",
        "",
        "",
    ]
    assert matcher.found == "\nUser:"


def test_a_stop_can_be_left_in_the_text():
    matcher = StopMatcher(["END"], include=True)
    assert matcher.put("the E") + matcher.put("ND and more") == "the END"
    assert matcher.finish() == ""


def test_what_was_held_comes_at_the_end():
    matcher = StopMatcher(["stop"])
    assert matcher.put("st") == ""
    assert matcher.finish() == "st"
    assert matcher.found is None
