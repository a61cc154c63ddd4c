"""Finds the entries of a zip file, which PyTorch and NumPy use as plain storage.

Only entries that are stored as they are count, never compressed ones: so nothing is inflated, and
what an entry takes in memory is never more than the file has on disk. Central directory and local
headers are those of APPNOTE.TXT 4.3; the directory's data begins behind the local header, whose
name and extra field may be longer than the directory's.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

from cpumix.errors import ConvertError, quoted

from ..random_access import FileStream, RandomAccess

MAGIC = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s22xHH")
_MOST = 200_000  # entries; Mixtral 8x22B has 2,000 tensors
_MOST_DIRECTORY = 32 << 20  # bytes, of which so many entries take about as many


class ZipEntry(NamedTuple):
    """Where an entry's bytes lie in the file."""

    offset: int
    nbytes: int


class _BoundedStream(FileStream):
    """Reads no more at once than a directory may have, however long it claims to be."""

    def read(self, count: int | None = -1) -> bytes:
        """Return the next `count` bytes, or fewer at the end of the file and beyond the bound."""
        most = _MOST_DIRECTORY
        return super().read(most if count is None or count < 0 else min(count, most))


def read_entries(file: RandomAccess) -> dict[str, ZipEntry]:
    """Return a zip file's entries by name. Raises ConvertError unless all are stored and apart."""
    path = file.path
    try:
        with zipfile.ZipFile(_BoundedStream(file)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OverflowError) as e:
        raise _damaged(path, f"expected a zip file, found a damaged one ({e})") from e
    if len(infos) > _MOST:
        raise _damaged(path, f"expected at most {_MOST} entries, found {len(infos)}")
    entries: dict[str, ZipEntry] = {}
    for info in infos:
        name = quoted(info.filename)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ConvertError(
                f'"{path}": entry {name}: expected it stored as it is, found it compressed or '
                "encrypted. Save it anew without compression."
            )
        if info.filename in entries:
            raise _damaged(path, f"expected the entry {name} once, found it twice")
        if info.compress_size != info.file_size:
            raise _damaged(path, f"entry {name}: its two sizes differ")
        entries[info.filename] = _locate(file, info)
    end, before = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: item[1]):
        if entry.offset < end:
            raise _damaged(path, f"the entries {quoted(before)} and {quoted(name)} overlap")
        end, before = entry.offset + entry.nbytes, name
    return entries


def read_entry(file: RandomAccess, entry: ZipEntry, most: int, what: str) -> bytes:
    """Return the bytes of a small entry. Raises ConvertError if it has more than `most`."""
    if entry.nbytes > most:
        raise _damaged(file.path, f"{what}: expected at most {most} bytes, found {entry.nbytes}")
    return file.read(entry.offset, entry.nbytes)


def _locate(file: RandomAccess, info: zipfile.ZipInfo) -> ZipEntry:
    begin = info.header_offset
    if 0 <= begin <= file.size - _LOCAL.size:
        magic, name_bytes, extra_bytes = _LOCAL.unpack(file.read(begin, _LOCAL.size))
        begin += _LOCAL.size + name_bytes + extra_bytes
        if magic == MAGIC and begin + info.file_size <= file.size:
            return ZipEntry(begin, info.file_size)
    raise _damaged(file.path, f"expected the entry {quoted(info.filename)} inside the file")


def _damaged(path: Path, what: str) -> ConvertError:
    return ConvertError(f'"{path}": {what}. The zip file is damaged: download it again.')
