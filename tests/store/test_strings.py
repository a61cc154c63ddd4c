"""String arrays: found many at once as they are one by one, and decoded when they are read."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from cpumix.errors import FormatError
from cpumix.store import gguf, strings
from cpumix.store.strings import Strings, read_strings

LETTERS = ["a", "Ġ", "日", "🦊", "\x7f", "\n"]


def refuse(number: int, data: bytes) -> FormatError:
    return FormatError(f"{number}: {data!r}")


def packed(texts: list[str]) -> bytes:
    return b"".join(struct.pack("<Q", len(t)) + t for t in map(str.encode, texts))


def random_texts(seed: int, count: int, rare: list[str]) -> list[str]:
    """Return short texts, of which one in 50 is drawn from `rare`."""
    random = np.random.default_rng(seed)
    return [
        str(random.choice(rare))
        if rare and random.random() < 0.02
        else "".join(random.choice(LETTERS, random.integers(1, 9)))
        for _ in range(count)
    ]


def read(texts: list[str]) -> Strings:
    """Read texts that have other bytes before and after them."""
    data = packed(texts)
    stream = io.BytesIO(b"before" + data + b"\1\0\0\0\0\0\0\0after")
    found = Strings(read_strings(stream, len(texts), 6, 6 + len(data) + 13), refuse)
    assert found.nbytes == len(data)
    assert len(found) == len(texts)
    return found


RARE = {
    "none": [],
    "empty": [""],
    "zeros": ["\0", "a\0b", "\0" * 9],
    "255": ["x" * 255],
    "long": ["x" * 256, "日" * 300],
    "all": ["", "\0" * 30, "x" * 255, "x" * 256, "y" * 70000],
}


@pytest.mark.parametrize("ahead", [9, 64, 1000, 1 << 20])
@pytest.mark.parametrize("rare", RARE)
def test_many_at_once_are_those_that_one_by_one_gives(rare, ahead, monkeypatch):
    monkeypatch.setattr(strings, "_AHEAD", ahead)
    texts = random_texts(7, 1000, RARE[rare])
    found = read(texts)
    assert list(found) == texts
    assert found[3] == texts[3]
    assert found[-2:] == texts[-2:]
    assert found.content() == "".join(texts).encode()
    monkeypatch.setattr(strings, "_find_short", lambda *_: None)
    monkeypatch.setattr(strings, "_decode", lambda *_: None)
    assert list(read(texts)) == texts


@pytest.mark.parametrize("rare", RARE)
def test_short_ones_are_found_where_each_is_or_not_at_all(rare):
    for seed in range(50):
        random = np.random.default_rng(seed)
        data = packed(random_texts(seed, 60, RARE[rare]))
        data = data[: random.integers(len(data))]
        most = int(random.integers(1, 70))
        quick, slow = strings._find_short(data, most), strings._find_each(data, most)
        if quick is not None:
            assert quick.tolist() == slow[: len(quick)].tolist()
            assert len(quick) == len(slow) or rare in ("long", "all")
        if rare == "none" and len(data) > 8:
            assert quick is not None


def test_damaged_lengths_give_what_one_by_one_gives():
    """Whatever the bytes: the quick way finds the beginning of what the slow one finds."""
    random, agreed = np.random.default_rng(3), 0
    whole = packed(random_texts(3, 60, []))
    for _ in range(3000):
        data = bytearray(whole)
        for at in random.integers(0, len(data), random.integers(1, 4)):
            data[at] = random.choice([0, 1, 7, 255])
        quick, slow = strings._find_short(bytes(data), 60), strings._find_each(bytes(data), 60)
        if quick is not None:
            assert quick.tolist() == slow[: len(quick)].tolist()
            agreed += len(quick) == len(slow)
    assert agreed > 100


@pytest.mark.parametrize("wrong", [b"\xff", b"a\x80", "é".encode()[:1], b"\0\xc0", b"\xed\xa0\x80"])
def test_the_first_that_is_not_utf_8_is_named(wrong):
    """Also where two halves of a letter lie in strings beside each other."""
    texts = [*random_texts(1, 40, []), "é", "b"]
    data = packed(texts[:41]) + struct.pack("<Q", len(wrong)) + wrong + packed(["\xa9"])
    found = Strings(read_strings(io.BytesIO(data), 43, 0, len(data)), refuse)
    assert len(found) == 43
    for _ in range(2):
        with pytest.raises(FormatError) as error:
            list(found)
        assert str(error.value) == f"41: {wrong!r}"


def test_strings_that_come_late_are_not_decoded_before(monkeypatch):
    decoded = []
    quick = strings._decode

    def spy(data, starts):
        texts = quick(data, starts)
        decoded.append(texts)
        return texts

    monkeypatch.setattr(strings, "_decode", spy)
    data = gguf.encode_header({"early": ["a", "b"], "late": ["c d", "e f"]}, [])
    metadata = gguf.parse_header(io.BytesIO(data), len(data), "m", ["late"]).metadata
    assert decoded == [["a", "b"]]
    late = metadata["late"]
    assert (len(late), late.content()) == (2, b"c de f")
    assert len(decoded) == 1
    assert list(late) == ["c d", "e f"] == list(late)
    assert decoded[1:] == [["c d", "e f"]]


def test_late_strings_that_are_not_utf_8_are_refused_with_the_same_sentence():
    data = gguf.encode_header({"k": ["ab", "cd"]}, []).replace(b"cd", b"c\xff")
    with pytest.raises(FormatError) as early:
        gguf.parse_header(io.BytesIO(data), len(data), "m")
    late = gguf.parse_header(io.BytesIO(data), len(data), "m", ["k"]).metadata["k"]
    with pytest.raises(FormatError) as error:
        list(late)
    assert str(error.value) == str(early.value)
    assert "string 1: expected UTF-8 in an array, found b'c\\xff'" in str(error.value)
