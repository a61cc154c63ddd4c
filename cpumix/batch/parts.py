"""The parts of a batch that are done: a folder beside the output, until the batch is.

`OUT.parts/job.json` says what the parts belong to; `OUT.parts/00007.jsonl` has the answers of part
7. A part is written under another name, brought to the disk and renamed: it is whole or not there.
What is there is never done again, and what belongs to another job is never mixed in.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cpumix.errors import ConfigError, FormatError, quoted
from cpumix.input_file import read_input, regular
from cpumix.store.temporary import whole_file

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PARTS_VERSION = 1
_MANIFEST, _LOCK = "job.json", "lock"


def folder_of(target: Path) -> Path:
    """Return the folder for the parts of an output."""
    return target.with_name(f"{target.name}.parts")


class PartsFolder:
    """The folder of one job, locked; a context manager. Only this process writes in it."""

    def __init__(self, target: Path, job: Mapping[str, Any]) -> None:
        """Make the folder, or go on with the one that is there.

        Raises ConfigError if it belongs to another job, another process has it, or it cannot be
        written. `job` is all that the parts depend on, as JSON has it.
        """
        self.folder, self._lock = folder_of(target), None
        wanted = json.loads(json.dumps({"version": PARTS_VERSION, **job}))
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = self._locked()
            found = self._manifest()
            if found is None:
                self._write(_MANIFEST, json.dumps(wanted, indent=1).encode() + b"\n")
            elif found != wanted:
                raise self._differs(found, wanted)
            for stale in self.folder.glob(".*.partial"):
                stale.unlink()
        except OSError as error:
            self.close()
            raise self._refused(error) from error
        except BaseException:
            self.close()
            raise

    def _locked(self) -> BinaryIO:
        file = open(self.folder / _LOCK, "wb")
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                file.close()
                raise ConfigError(
                    f"{quoted(self.folder)}: expected to be alone, found another process that "
                    "works on the same output. Wait for it, or name another output."
                ) from error
        return file  # a network file system without locks does without

    def _manifest(self) -> Any:
        path = self.folder / _MANIFEST
        if not path.exists():
            if any(self.folder.glob("*.jsonl")):
                raise self._foreign()
            return None
        try:
            return json.loads(read_input(path))
        except (OSError, ValueError) as error:
            raise self._foreign() from error

    def _foreign(self) -> ConfigError:
        return ConfigError(
            f"{quoted(self.folder)}: expected the parts of a batch, found other files. "
            "Name another output."
        )

    def _differs(self, found: Any, wanted: Mapping[str, Any]) -> ConfigError:
        if not isinstance(found, dict):
            return self._foreign()
        names = sorted(found.keys() | wanted.keys())
        differing = [name for name in names if found.get(name) != wanted.get(name)]
        return ConfigError(
            f"{quoted(self.folder)}: expected parts of this batch, found those of another "
            f"({', '.join(differing)}: not the same). Name another output, or delete the folder "
            "to begin anew."
        )

    def _refused(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"batch: cannot write in {quoted(self.folder)}: "
            f"{error.strerror or error}. Name another output."
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.jsonl"

    def has(self, number: int) -> bool:
        """Whether a part is done."""
        return self._path(number).exists()

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the parts that are done."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with contextlib.suppress(ValueError):
                yield int(path.stem)

    def put(self, number: int, data: bytes) -> None:
        """Keep a part that is done. Raises ConfigError if the disk refuses."""
        try:
            self._write(self._path(number).name, data)
        except OSError as error:
            raise self._refused(error) from error

    def _write(self, name: str, data: bytes) -> None:
        """Write a file of the folder, whole or not at all."""
        with whole_file(self.folder / name) as file:
            file.write(data)

    def read(self, number: int, lines: int) -> list[bytes]:
        """Return the answers of a part. Raises FormatError if they are not as they were written."""
        path = self._path(number)
        found = []
        with contextlib.suppress(FileNotFoundError), open(path, "rb", opener=regular) as file:
            found = file.readlines()
        if len(found) != lines or not found[-1].endswith(b"\n"):
            raise FormatError(
                f"{quoted(path)}: expected {lines} answers, found {len(found)}. Delete this file, "
                "and start the batch again: the part is done anew."
            )
        return found

    def remove(self) -> None:
        """Delete the folder, when nothing in it is needed any more."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let another process go on."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> PartsFolder:
        """Return the folder."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()
