"""The mapped file as ranges that can be brought into memory, given back, and asked about."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from cpumix.errors import FormatError
from cpumix.store.reader import ModelFile
from cpumix.store.residency import resident_bytes

from . import madvise


class MappedRegion:
    """The system calls of `advice` on offsets of one open model file.

    Where the system refuses a call, the plain way is taken from then on and `note` says so. Used
    from several threads at once.
    """

    def __init__(self, file: ModelFile, platform: madvise.Platform | None = None) -> None:
        self._file, self._platform = file, platform or madvise.this_platform()
        self._refused: set[Callable[[int, int], None]] = set()  # ways that the system knows not
        self._address = file.address
        self.note: str | None = None

    def bring(self, offset: int, nbytes: int) -> None:
        """Have a range in memory and in the page tables; FormatError if the file cannot be read."""
        self._file.check_size()
        start = offset - offset % mmap.PAGESIZE
        where = self._address + start, nbytes + offset - start
        try:
            self._advise(*where)
        except OSError as e:
            self._file.check_size()  # shorter meanwhile? Then say that
            raise FormatError(
                f'"{self._file.path}": {nbytes} bytes at {offset} cannot be read while running: '
                f"{e.strerror}. Check the disk, then the file with `cpumix verify`."
            ) from e

    def give_back(self, offset: int, nbytes: int) -> None:
        """Let a range leave memory, as far as the system does that."""
        try:
            self._platform.give_back(self._file.fileno, offset, self._address + offset, nbytes)
        except (madvise.Refused, OSError) as e:  # it stays until the system wants the memory
            self._platform = self._platform._replace(give_back=madvise.give_back_nothing)
            self._say(e)

    def missing(self, offset: int, nbytes: int) -> int:
        """Return how many bytes of a range are in no memory: what bringing it reads from disk."""
        present = resident_bytes(self._address + offset, nbytes)
        return nbytes if present is None else nbytes - present

    def _advise(self, address: int, nbytes: int) -> None:
        """Bring a range in the best way that the system takes."""
        p = self._platform
        for way in (p.bring_large, p.bring, madvise.bring_plainly):
            if way and way not in self._refused:
                try:
                    way(address, nbytes)
                    return
                except madvise.Refused as e:
                    self._refused.add(way)
                    if way is p.bring:
                        self._say(e)

    def _say(self, e: Exception) -> None:
        self.note = (
            f"paging: this system or file system takes no advice on memory ({e}); "
            "the file is mapped plainly, which is slower and may exceed the budget"
        )
