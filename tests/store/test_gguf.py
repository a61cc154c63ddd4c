"""The GGUF container: exact bytes, round trips, and every way in which a header can lie."""

import io
import struct

import numpy as np
import pytest

from cpumix.errors import FormatError
from cpumix.store import gguf
from cpumix.store.gguf import TensorInfo, encode_header, parse_header

# One metadata entry of each shape that matters and one tensor, written out by hand.
GOLDEN = bytes.fromhex(
    "47475546"  # "GGUF"
    "03000000"  # version 3
    "0100000000000000"  # one tensor
    "0400000000000000"  # four metadata entries
    "0100000000000000 61"  # key "a"
    "04000000 07000000"  # uint32 7
    "0100000000000000 62"  # key "b"
    "08000000 0200000000000000 c3a9"  # string "é", two bytes in UTF-8
    "0100000000000000 63"  # key "c"
    "09000000 00000000 0300000000000000 010203"  # array of three uint8
    "0100000000000000 64"  # key "d"
    "06000000 0000c03f"  # float32 1.5
    "0100000000000000 74"  # tensor "t"
    "02000000 0300000000000000 0200000000000000"  # two dimensions, columns first: 2 x 3
    "00000000"  # float32
    "0000000000000000"  # at the data start
)
VALUES = {"a": 7, "b": "é", "c": b"\x01\x02\x03", "d": 1.5}
TENSOR = TensorInfo("t", (2, 3), gguf.F32_TENSOR, 0)


def parse(data: bytes, size: int | None = None) -> gguf.Header:
    return parse_header(io.BytesIO(data), len(data) if size is None else size, "m.cpumix")


def header(
    *entries: bytes,
    tensors: tuple[bytes, ...] = (),
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    n_tensors, n_entries = counts or (len(tensors), len(entries))
    start = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_entries)
    return start + b"".join(entries) + b"".join(tensors)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, code: int, body: bytes) -> bytes:
    return string(key) + struct.pack("<I", code) + body


def place(name: str, *dims: int, kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def test_header_bytes_are_golden() -> None:
    assert encode_header(VALUES, [TENSOR]) == GOLDEN


@pytest.mark.parametrize("version", [2, 3])
def test_golden_bytes_parse(version: int) -> None:
    found = parse(GOLDEN[:4] + struct.pack("<I", version) + GOLDEN[8:] + bytes(100))
    assert found.metadata.keys() == VALUES.keys()
    assert [found.metadata[key] for key in "abd"] == [7, "é", 1.5]
    assert found.metadata["c"].tobytes() == b"\x01\x02\x03"
    assert found.tensors == (TENSOR,)
    assert TENSOR.nbytes == 24
    assert (found.end, found.alignment) == (len(GOLDEN), 32)
    assert found.data_start % 32 == 0 and 0 <= found.data_start - found.end < 32


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (True, 7),
        (0, 4),
        (2**32 - 1, 4),
        (2**32, 10),
        (-1, 11),
        (0.25, 6),
        ("", 8),
        ("日本 🦊", 8),
        (["x", "", "é"], 9),
    ],
)
def test_values_round_trip(value: object, code: int) -> None:
    data = encode_header({"key": value}, [])
    assert data[24 + 8 + 3] == code
    found = parse(data).metadata["key"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "?", "u8", "i8", "f8", ">u4"]
)
def test_number_arrays_round_trip(dtype: str) -> None:
    value = np.array([0, 1, 1, 0]).astype(dtype)
    found = parse(encode_header({"key": value}, [])).metadata["key"]
    np.testing.assert_array_equal(found, value)
    assert found.dtype == value.dtype.newbyteorder("<")
    assert not found.flags.writeable


@pytest.mark.parametrize("value", [None, {}, ["a", 1], np.zeros((2, 2)), np.zeros(2, complex)])
def test_values_without_a_gguf_type_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"GGUF metadata has no type for"):
        encode_header({"key": value}, [])


def test_large_arrays_parse_in_one_read() -> None:
    reads = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(size)
            return super().read(size)

    data = encode_header({"key": bytes(4 << 20)}, [])
    parse_header(Counting(data), len(data), "m")
    assert len(reads) < 12


BIG = struct.pack("<Q", 2**63)
BAD_HEADERS: dict[str, tuple[bytes, str]] = {
    "other file": (
        b"PK\x03\x04" + bytes(64),
        r"expected \"GGUF\" in the first 4 bytes, found b'PK",
    ),
    "first version": (
        header(version=1),
        "expected GGUF version 2 or 3, little-endian, found version 1",
    ),
    "big-endian": (header(version=3 << 24), "found a big-endian file"),
    "older, big-endian": (header(version=2 << 24), "found a big-endian file"),
    "tensor count": (
        header(counts=(2**60, 0)),
        "at most 0 tensors in the bytes left, found a count",
    ),
    "metadata count": (
        header(counts=(0, 9)) + bytes(50),
        "at most 3 metadata entries in the bytes",
    ),
    "key length": (
        header(BIG + bytes(20)),
        "a metadata key at byte 32: expected 9223372036854775808 bytes, found 20 before the end",
    ),
    "key not text": (
        header(entry(b"\xff\xfe", 0, b"1")),
        r"a metadata key before byte 34: expected UTF-8",
    ),
    "key empty": (
        header(entry("", 0, b"1 padding")),
        'metadata key "": expected a new name, found it empty',
    ),
    "key twice": (
        header(entry("k", 0, b"1"), entry("k", 0, b"1")),
        'metadata key "k": expected a new name, found it twice',
    ),
    "value type": (
        header(entry("k", 13, bytes(8))),
        '"k": expected a value type from 0 to 12 .* found 13',
    ),
    "string length": (
        header(entry("k", 8, BIG)),
        '"k" at byte 45: expected 9223372036854775808 bytes',
    ),
    "string not text": (
        header(entry("k", 8, string(b"\x80ab"))),
        '"k" before byte 48: expected UTF-8',
    ),
    "array type": (
        header(entry("k", 9, struct.pack("<IQ", 9, 0))),
        "no array in an array, found 9",
    ),
    "array length": (
        header(entry("k", 9, struct.pack("<IQ", 0, 2**62))),
        'at most 0 elements in "k" in the bytes left, found a count of 4611686018427387904',
    ),
    "array of wide numbers": (
        header(entry("k", 9, struct.pack("<IQ", 10, 4)), counts=(0, 1)) + bytes(31),
        "expected 32 bytes, found 31",
    ),
    "array of strings": (
        header(entry("k", 9, struct.pack("<IQ", 8, 2**40))),
        'at most 0 strings in "k" in the bytes left',
    ),
    "string in an array": (
        header(entry("k", 9, struct.pack("<IQ", 8, 2) + string("ab") + BIG)),
        '"k" at byte 59: expected a string of 9223372036854775808 bytes, found 0 before the end',
    ),
    "cut in an array": (
        header(entry("k", 9, struct.pack("<IQ", 8, 2) + string("abcdefgh") + b"123")),
        '"k" at byte 65: expected a string',
    ),
    "not text in an array": (
        header(entry("k", 9, struct.pack("<IQ", 8, 2) + string("ab") + string(b"\xff"))),
        r"\"k\", string 1: expected UTF-8 in an array, found b'\\xff'",
    ),
    "alignment": (
        header(entry("general.alignment", 4, struct.pack("<I", 24))),
        "general.alignment: expected a power of two from 8, found 24",
    ),
    "alignment type": (header(entry("general.alignment", 8, string("32"))), "found '32'"),
    "tensor twice": (
        header(tensors=(place("t", 1), place("t", 1))),
        'tensor "t": expected a new name, found it twice',
    ),
    "no dimensions": (
        header(tensors=(place("tensor-of-8", kind=24),)) + bytes(9),
        "1 to 4 dimensions, found 0",
    ),
    "many dimensions": (
        header(tensors=(string("t") + struct.pack("<I", 2**31) + bytes(24),)),
        "1 to 4 dimensions, found 2147483648",
    ),
    "empty dimension": (header(tensors=(place("t", 3, 0),)), r"dimensions above 0, found \[3, 0\]"),
    "misaligned": (
        header(tensors=(place("t", 1, offset=33),)),
        'tensor "t": expected an offset that is a multiple of 32 bytes, found 33',
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_bad_header_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        parse(data)
    assert str(error.value).startswith('"m.cpumix": ')


@pytest.mark.parametrize("end", range(len(GOLDEN)))
def test_truncated_header_is_refused(end: int) -> None:
    with pytest.raises(FormatError, match=r"is damaged: copy or download it again|first 4 bytes"):
        parse(GOLDEN[:end])


def test_file_shorter_than_it_said_is_refused() -> None:
    with pytest.raises(FormatError, match=r"expected 8 bytes, found"):
        parse(GOLDEN[:30], size=1000)


def test_absurd_header_allocates_nothing() -> None:
    """A count that only a huge file could hold is held against the header's own limit."""
    data = header(entry("k", 9, struct.pack("<IQ", 10, 2**33)))
    with pytest.raises(FormatError, match=r"at most .* elements"):
        parse(data, size=2**50)
    data = header(entry("k", 8, struct.pack("<Q", 2**40)))
    with pytest.raises(FormatError, match=r"before the end of the 256 MiB allowed for a header"):
        parse(data, size=2**50)


def test_foreign_tensor_types_parse() -> None:
    (tensor,) = parse(header(tensors=(place("t", 256, 4, kind=12),))).tensors
    assert (tensor.shape, tensor.type) == ((4, 256), 12)


def test_random_damage_is_refused_or_parsed() -> None:
    """Whatever the bytes, the parser answers or raises FormatError, never anything else."""
    random = np.random.default_rng(1)
    for _ in range(3000):
        data = bytearray(GOLDEN)
        for at in random.integers(0, len(data), random.integers(1, 4)):
            data[at] = random.integers(0, 256)
        try:
            parse(bytes(data))
        except FormatError:
            pass


def test_header_of_empty_strings_is_refused_before_it_is_read() -> None:
    """256 MiB hold 33 million of them, which take 40 s and 1.8 GiB."""
    count = gguf.ITEM_LIMIT
    body = struct.pack("<IQ", 8, count) + bytes(8 * count)
    message = f'strings in "a": expected at most {count} in a header, found {count} more'
    with pytest.raises(FormatError, match=message):
        parse(header(entry("a", 9, body)))
    few = struct.pack("<IQ", 8, 1000) + bytes(8 * 1000)
    assert parse(header(entry("a", 9, few))).metadata["a"] == [""] * 1000
