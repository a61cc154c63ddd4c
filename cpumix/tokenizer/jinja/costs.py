"""What each operation of a template costs, in steps, said before it runs.

A cost is a bound from above, for the time and for the memory of the result; most operations go
once over what they are given (`linear`). Operations that are in no table do not run: to add one,
name its bound there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .meter import ITEM, LARGEST_INT, LETTERS, NEVER, Meter

Arguments = Sequence[Any]  # what the operation works on comes first
Cost = Callable[[Meter, Arguments], int]
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_NUMBER = re.compile(r"\d+")
_NESTED = re.compile(r"\{[^}]*\{")  # "{:{width}}", besides "{{" and what follows
_DEEPEST_JSON = 100


def nothing(meter: Meter, given: Arguments) -> int:
    """Bound what looks at a value from outside."""
    return 0


def linear(meter: Meter, given: Arguments) -> int:
    """Bound what visits all of its arguments once."""
    return sum(map(meter.weigh, given))


def slow(meter: Meter, given: Arguments) -> int:
    """Bound what goes over its arguments once, word by word in Python."""
    return 16 * linear(meter, given)


def counted(meter: Meter, given: Arguments) -> int:
    """Bound what passes items on, and looks into them only by what costs by itself."""
    return ITEM * _length(given[0]) + linear(meter, given[1:])


def keyed(meter: Meter, given: Arguments) -> int:
    """Bound what looks a key up."""
    return linear(meter, given[1:])


def searched(meter: Meter, given: Arguments) -> int:
    """Bound the search for one text in another, as Python does it: naively in short texts."""
    texts = [x for x in given[:2] if isinstance(x, str)]
    short, long = sorted(map(len, texts)) if len(texts) == 2 else (0, 0)
    each = short if long < 2500 else min(short, 100)
    return linear(meter, given) + long * each // 256


def searched_back(meter: Meter, given: Arguments) -> int:
    """Bound a search from the end, which is naive in long texts too."""
    texts = [len(x) for x in given[:2] if isinstance(x, str)]
    return linear(meter, given) + (texts[0] * texts[1] // 256 if len(texts) == 2 else 0)


def sorting(meter: Meter, given: Arguments) -> int:
    """Bound what compares items with one another; no run may have more than 2^20 of them."""
    return 20 * (counted(meter, given) + meter.weigh(given[0]))


def quadratic(meter: Meter, given: Arguments) -> int:
    """Bound what may go over its arguments once for each part of them."""
    size = linear(meter, given)
    return size + size * size


def summing(meter: Meter, given: Arguments) -> int:
    """Bound a sum: of numbers, or of lists if it starts with one."""
    lists = [start for start in given[1:] if isinstance(start, (list, tuple))]
    return quadratic(meter, given) if lists else linear(meter, given)


def padded(meter: Meter, given: Arguments) -> int:
    """Bound what fills up to a width."""
    return linear(meter, given) + _largest(given[1:]) // LETTERS


def indented(meter: Meter, given: Arguments) -> int:
    """Bound what puts some blanks, or a text, before each line."""
    width = max([_largest(given[1:]), *(len(x) for x in given[1:] if isinstance(x, str))])
    return linear(meter, given) + (1 + _line_ends(given[0])) * (1 + width // LETTERS)


def expanded(meter: Meter, given: Arguments) -> int:
    """Bound what makes blanks of each tab."""
    tabs: int = given[0].count("\t")
    return linear(meter, given) + tabs * _largest(given[1:] or [8])


def lines(meter: Meter, given: Arguments) -> int:
    """Bound the list of a text's lines."""
    return linear(meter, given) + ITEM * (1 + _line_ends(given[0]))


def split(meter: Meter, given: Arguments) -> int:
    """Bound the list of a text's parts between separators, or blanks."""
    text, by = given[0], given[1] if len(given) > 1 else None
    parts = text.count(by) if isinstance(by, str) and by else len(text) // 2
    return searched_back(meter, given) + ITEM * (1 + parts)


def joined(meter: Meter, given: Arguments) -> int:
    """Bound a text with a separator between its parts."""
    between = max((meter.weigh(by) for by in given[1:]), default=0)
    return counted(meter, given) + meter.weigh(given[0]) + _length(given[0]) * between


def joined_by(meter: Meter, given: Arguments) -> int:
    """Bound the same as a method of the separator."""
    return joined(meter, [*given[1:2], given[0]])


def replaced(meter: Meter, given: Arguments) -> int:
    """Bound a text in which one text stands for another."""
    texts = [x if isinstance(x, str) else str(x) for x in given[1:3]]
    if len(texts) < 2 or not isinstance(given[0], str):
        return quadratic(meter, given)
    a, b = texts  # in any order: they may come by name
    growth = max(given[0].count(a) * len(b), given[0].count(b) * len(a))
    return searched(meter, [given[0], a]) + searched(meter, [given[0], b]) + growth // LETTERS


def translated(meter: Meter, given: Arguments) -> int:
    """Bound a text in which texts stand for letters."""
    table = given[1] if len(given) > 1 and isinstance(given[1], dict) else {}
    longest = max(map(meter.weigh, table.values()), default=1)
    return linear(meter, given) + len(given[0]) * longest


def formatted(meter: Meter, given: Arguments) -> int:
    """Bound what "%" and str.format make of a pattern: widths, and each value at each place."""
    pattern = str(given[0])
    numbers = _NUMBER.findall(pattern)
    if _NESTED.search(pattern.replace("{{", "")) or any(len(n) > 9 for n in numbers):
        return NEVER
    places = pattern.count("%") + pattern.count("{")
    values = linear(meter, given[1:]) + _largest(given[1:])
    return len(pattern) + sum(map(int, numbers)) + places * (ITEM + values)


def rounded(meter: Meter, given: Arguments) -> int:
    """Bound rounding, which multiplies by a power of ten."""
    return 1 if isinstance(given[0], (int, float)) and _largest(given[1:]) <= 300 else NEVER


def added(meter: Meter, given: Arguments) -> int:
    """Bound a sum or a longer text or list."""
    return sum(ITEM * len(x) if isinstance(x, (list, tuple)) else meter.weigh(x) for x in given)


def multiplied(meter: Meter, given: Arguments) -> int:
    """Bound a product, or a text or list several times."""
    size, times = added(meter, given), [x for x in given if isinstance(x, int)]
    return size * max([1, *times]) if len(times) == 1 else size


def power(meter: Meter, given: Arguments) -> int:
    """Bound a power."""
    size = linear(meter, given)
    base, exponent = given
    if isinstance(base, int) and isinstance(exponent, int):
        return size if base.bit_length() * abs(exponent) <= LARGEST_INT else NEVER
    return size


def remainder(meter: Meter, given: Arguments) -> int:
    """Bound "%", which formats a text."""
    return (formatted if isinstance(given[0], str) else linear)(meter, given)


def batched(meter: Meter, given: Arguments) -> int:
    """Bound lists of a length, or a number of lists."""
    return counted(meter, given) + 2 * ITEM * _largest(given[1:])


def dumped(meter: Meter, given: Arguments) -> int:
    """Bound JSON: each item may stand on a line of its own, indented, between separators."""
    size = linear(meter, given)
    options = sum(len(x) for x in _flat(given[1:]) if isinstance(x, str)) + _largest(given[1:])
    return 2 * size + (1 + size // ITEM) * _DEEPEST_JSON * options // LETTERS


def named(meter: Meter, given: Arguments) -> int:
    """Bound writing a date: some systems fill up to a width, but not beyond 256 times the form."""
    return linear(meter, given) * 1024


def _length(value: Any) -> int:
    """Return how many items a value has, if it has any that can be counted beforehand."""
    try:
        return len(value)
    except TypeError:
        return int(getattr(value, "__length_hint__", int)())


def _flat(values: Arguments) -> list[Any]:
    """Return values with the items of lists among them."""
    return [y for x in values for y in (x if isinstance(x, (list, tuple)) else [x])]


def _largest(values: Arguments) -> int:
    """Return the largest whole number among values and in lists among them."""
    return max((abs(x) for x in _flat(values) if isinstance(x, int)), default=0)


def _line_ends(text: object) -> int:
    return sum(map(text.count, _LINE_ENDS)) if isinstance(text, str) else 0


def _table(*rows: tuple[Cost, str]) -> dict[str, Cost]:
    return {name: cost for cost, names in rows for name in names.split()}


FILTER_COSTS = _table(
    (nothing, "abs attr count d default first last length random"),
    (linear, "capitalize e escape filesizeformat float forceescape lower safe string trim"),
    (linear, "truncate upper"),
    (slow, "from_json title urlencode wordcount"),
    (counted, "items list map reject rejectattr reverse select selectattr"),
    (sorting, "dictsort groupby max min sort unique"),
    (quadratic, "int pprint striptags urlize wordwrap xmlattr"),
    (batched, "batch slice"),
    (padded, "center"),
    (formatted, "format"),
    (indented, "indent"),
    (joined, "join"),
    (replaced, "replace"),
    (rounded, "round"),
    (summing, "sum"),
    (dumped, "tojson"),
)
TESTS = _table(
    (nothing, "boolean callable defined escaped false filter float integer iterable mapping none"),
    (nothing, "number sameas sequence string test true undefined"),
    (remainder, "divisibleby even odd"),
    (linear, "!= < <= == > >= eq equalto ge greaterthan gt le lessthan lower lt ne upper"),
    (searched, "in"),
)
METHODS: dict[type, dict[str, Cost]] = {
    str: _table(
        (linear, "capitalize casefold endswith isalnum isalpha isascii isdecimal"),
        (linear, "isdigit isidentifier islower isnumeric isprintable isspace istitle isupper"),
        (linear, "lower removeprefix removesuffix startswith swapcase title upper"),
        (searched, "count find index partition"),
        (searched_back, "rfind rindex rpartition"),
        (searched, "lstrip rstrip strip"),
        (padded, "center ljust rjust zfill"),
        (expanded, "expandtabs"),
        (formatted, "format format_map"),
        (joined_by, "join"),
        (replaced, "replace"),
        (split, "rsplit split"),
        (lines, "splitlines"),
        (translated, "translate"),
    ),
    dict: _table((nothing, "items keys values"), (keyed, "get"), (linear, "copy")),
    list: _table((linear, "copy count index")),
    tuple: _table((linear, "count index")),
    int: _table((nothing, "bit_length is_integer")),
    float: _table((nothing, "is_integer")),
}
OPERATORS = _table(
    (added, "+"), (linear, "- / //"), (multiplied, "*"), (power, "**"), (remainder, "%")
)
