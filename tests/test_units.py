from __future__ import annotations

import pytest

from cpumix.errors import ConfigError
from cpumix.units import format_count, format_seconds, format_size, parse_size

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64G", 64 * GIB),
        ("64GB", 64 * GIB),
        ("64GiB", 64 * GIB),
        ("64 gib", 64 * GIB),
        (" 65536M ", 64 * GIB),
        ("1.5G", GIB * 3 // 2),
        (".5g", GIB // 2),
        ("2T", 2048 * GIB),
        ("1024k", 2**20),
        ("1073741824", GIB),
        ("1073741824B", GIB),
    ],
)
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "64X", "-5G", "G", "1,5G", "1e3G", "nan", "inf", "64 G B", "64iB", "٦٤G", "0x40G"]
)
def test_parse_size_of_garbage(text):
    with pytest.raises(ConfigError, match=r"expected an amount such as 64G.*powers of two.*found"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "0G", "2.", "64", "1023k", "0.0G"])
def test_parse_size_of_next_to_nothing(text):
    with pytest.raises(ConfigError, match=r"is less than 1 MiB. Write an amount such as 64G"):
        parse_size(text)


def test_parse_size_of_more_than_any_machine():
    with pytest.raises(ConfigError, match=r"is more memory than any machine has"):
        parse_size("99999999999999G")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (int(94.5 * 2**20), "94.5 MiB"),
        (24 * GIB, "24.0 GiB"),
        (GIB - 1, "1.0 GiB"),
        (3 * 2**40, "3.0 TiB"),
    ],
)
def test_format_size(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (3.44, "3.4 s"),
        (59.96, "1 min 00 s"),
        (125.0, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3725.0, "1 h 02 min"),
        (90000.0, "25 h 00 min"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (1234, "1,234"),
        (999_499, "999,499"),
        (999_500, "1 million"),
        (134_515_008, "135 million"),
        (46_702_792_704, "46.7 billion"),
    ],
)
def test_format_count(count, text):
    assert format_count(count) == text
