"""Opens a model file and owns its map; everybody else sees read-only views.

Opening reads and checks the header only, so that it costs milliseconds for a model of any size;
`verify` reads the rest. The map follows the file that was opened, not its name: a new file renamed
over it does no harm.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig, Role, tensor_name
from cpumix.errors import ConfigError, FormatError, quoted
from cpumix.input_file import regular
from cpumix.quant.precision import Precision

from . import gguf, layout
from .formats import read_precision
from .layout import TensorEntry
from .residency import resident_bytes

PRECISION_NAME = r"[a-z0-9.-]{1,24}"
_VERIFY_BYTES = 16 << 20  # progress several times a second on any disk
_T = TypeVar("_T")


@dataclass(frozen=True)
class MappedTensor(TensorEntry):
    """A tensor of an open file."""

    offset: int
    """In bytes from the start of the file."""


class ModelFile:
    """An open model file; a context manager.

    Raises FormatError when the path is not a whole, undamaged header of a model file of this
    version, or when the file's size is not what the header promises.
    """

    path: Path
    config: ModelConfig
    precision: str
    formats: Precision
    """What `precision` is the name of."""
    metadata: dict[str, Any]
    files: dict[str, bytes]
    """The checkpoint's side files by name, such as "tokenizer.model"."""
    tensors: dict[str, MappedTensor]

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if os.path.isdir(self.path):  # unlike Path.is_dir, False where one may not look
            raise FormatError(
                f'"{path}": expected a model file, found a folder. '
                "Convert a checkpoint folder with `cpumix convert`."
            )
        try:
            with open(self.path, "rb", buffering=1 << 20, opener=regular) as stream:
                self._read(stream)
        except OSError as e:
            raise FormatError(f'"{path}": cannot read the model file: {e.strerror or e}.') from e

    def _read(self, stream: BinaryIO) -> None:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            raise FormatError(f'"{self.path}": expected a model file, found an empty one. {_AGAIN}')
        header = gguf.parse_header(stream, size, str(self.path))
        self.metadata = header.metadata
        self._check_origin()
        stream.seek(0)
        self._check_header_crc(stream.read(header.end))
        self.precision = self._value("cpumix.precision", str)
        if not re.fullmatch(PRECISION_NAME, self.precision):
            raise self._differs("cpumix.precision", "a short name", quoted(self.precision))
        try:
            self.config = ModelConfig.from_json(self._value("cpumix.config", str))
        except ConfigError as e:
            raise FormatError(f'"{self.path}": the configuration inside cannot be used: {e}') from e
        self.files = {
            key.removeprefix(layout.FILE_PREFIX): bytes(self._array(key, np.uint8))
            for key in header.metadata
            if key.startswith(layout.FILE_PREFIX)
        }
        self.tensors = self._match_tensors(header)
        self._check_extents(header, size)
        self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(self._map, np.uint8)
        self.mapped_bytes = size
        self.address = self._bytes.ctypes.data
        self.fileno = os.dup(stream.fileno())  # for advice on the file, and to see it shrink

    @property
    def fingerprint(self) -> str:
        """What tells model files apart: size, and the header's checksum, which covers all."""
        return f"{self.metadata[layout.HEADER_CRC_KEY]:08x}-{self.mapped_bytes}"

    def _check_origin(self) -> None:
        version = self.metadata.get("cpumix.format_version")
        if version is None:
            architecture = self.metadata.get("general.architecture", "not given")
            raise FormatError(
                f'"{self.path}": a GGUF file written by another program (general.architecture '
                f'"{architecture}", no cpumix.format_version). '
                "Convert it with `cpumix convert`."
            )
        if version != layout.FORMAT_VERSION:
            raise FormatError(
                f'"{self.path}": expected model file version {layout.FORMAT_VERSION}, '
                f"found {version!r}. Update cpumix, or convert the checkpoint again."
            )

    def _check_header_crc(self, header: bytes) -> None:
        stored = self._value(layout.HEADER_CRC_KEY, int)
        found = layout.header_crc32(header)
        if next(iter(self.metadata)) != layout.HEADER_CRC_KEY or stored != found:
            raise self._differs("header checksum", f"{stored:08x}", f"{found:08x}")

    def _match_tensors(self, header: gguf.Header) -> dict[str, MappedTensor]:
        """Hold the header's tensors against those that the config calls for."""
        config, infos = self.config, {t.name: t for t in header.tensors}
        n_experts = config.num_hidden_layers * config.num_local_experts
        if n_experts > len(infos):  # before building a list of absurd length
            raise self._differs(
                "tensors", f"{n_experts} experts in all layers", f"{len(infos)} tensors"
            )
        by_name = dict(zip(infos, self._value("cpumix.tensor.formats", list), strict=False))
        self.formats = read_precision(self.path, self.precision, config, by_name)
        entries = {e.name: e for e in layout.build_entries(config, self.formats)}
        if differing := entries.keys() ^ infos.keys():
            name = min(differing)
            expected, found = ("a tensor", "none") if name in entries else ("no such tensor", "one")
            raise self._differs(f'tensor "{name}"', expected, found)
        formats = self._value("cpumix.tensor.formats", list)
        self._crcs = dict(
            zip(infos, self._array("cpumix.tensor.crc32", np.uint32).tolist(), strict=False)
        )
        if not len(formats) == len(self._crcs) == len(infos):
            raise self._differs(
                "cpumix.tensor.formats and cpumix.tensor.crc32",
                f"{len(infos)} elements each",
                f"{len(formats)} and {len(self._crcs)}",
            )
        books = self._code_books(len(infos))
        tensors = {}
        for (name, info), kind, book in zip(infos.items(), formats, books, strict=True):
            entry = entries[name]
            if kind != entry.format or (info.shape, info.type) != entry.stored_as:
                raise self._differs(
                    f'tensor "{name}"',
                    f"{entry.format} of {entry.shape} in {entry.nbytes} bytes",
                    f"{kind}, stored as GGUF type {info.type} of {info.shape}",
                )
            offset = header.data_start + info.offset
            tensors[name] = MappedTensor(entry.spec, kind, entry.nbytes, offset, book=book)
        return tensors

    def _code_books(self, count: int) -> list[tuple[int, ...] | None]:
        """Return each tensor's own code book."""
        if layout.CODE_BOOKS_KEY not in self.metadata:
            return [None] * count
        values = self._array(layout.CODE_BOOKS_KEY, np.int8)
        if values.size != count * layout.BOOK_VALUES or values.min(initial=0) < -127:
            expected = f"{layout.BOOK_VALUES} values of -127 to 127 for each of {count} tensors"
            found = f"{values.size} values from {values.min(initial=0)}"
            raise self._differs(layout.CODE_BOOKS_KEY, expected, found)
        books = values.reshape(count, layout.BOOK_VALUES)
        return [tuple(book.tolist()) if book.any() else None for book in books]

    def _check_extents(self, header: gguf.Header, size: int) -> None:
        if header.alignment != layout.ALIGNMENT:
            raise self._differs("general.alignment", str(layout.ALIGNMENT), str(header.alignment))
        end = header.data_start
        for t in sorted(self.tensors.values(), key=lambda t: t.offset):
            if t.offset < end:
                raise self._differs(
                    f'tensor "{t.name}"', f"an offset from {end} bytes", f"{t.offset} (an overlap)"
                )
            end = t.offset + t.nbytes
        end = gguf.align(end, layout.ALIGNMENT)
        if size != end:
            raise self._differs("file size", f"{end} bytes", f"{size} bytes")

    def _value(self, key: str, kind: type[_T]) -> _T:
        value = self.metadata.get(key)
        if not isinstance(value, kind):
            raise self._differs(key, f"a value of type {kind.__name__}", type(value).__name__)
        return value

    def _array(self, key: str, dtype: type[np.generic]) -> NDArray[Any]:
        array = self._value(key, np.ndarray)
        if array.dtype != dtype:
            raise self._differs(key, f"an array of {dtype.__name__}", str(array.dtype))
        return array

    def _differs(self, what: str, expected: str, found: str) -> FormatError:
        return FormatError(f'"{self.path}": {what}: expected {expected}, found {found}. {_AGAIN}')

    def data(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's bytes (nbytes,) as a read-only view of the map; reads nothing yet."""
        if self._bytes is None:
            raise ValueError(f"{self.path} is closed")
        t = self.tensors[name]
        return self._bytes[t.offset : t.offset + t.nbytes]

    def release(self, name: str) -> None:
        """Let go of a tensor's pages in memory; what reads them again brings them back.

        So whoever goes through a whole file takes no more memory than for a part of it.
        """
        if hasattr(mmap, "MADV_DONTNEED") and self._bytes is not None:
            t = self.tensors[name]
            self._map.madvise(mmap.MADV_DONTNEED, t.offset, t.nbytes)

    def check_size(self) -> None:
        """Raise FormatError if the file has become shorter since it was opened."""
        found = os.fstat(self.fileno).st_size
        if found < self.mapped_bytes:
            raise FormatError(
                f'"{self.path}": expected {self.mapped_bytes} bytes, found {found}: the file was '
                "cut short while in use. Copy it again, or convert again."
            )

    def expert_name(self, layer: int, expert: int) -> str:
        """Name of the tensor that holds one expert: w1, w3 and w2 one after the other.

        Numbers from `num_local_experts` on are those of the low copies.
        """
        if expert < self.config.num_local_experts:
            return tensor_name(Role.EXPERT, layer, expert)
        return tensor_name(Role.LOW_COPY, layer, expert - self.config.num_local_experts)

    def resident_bytes(self) -> int | None:
        """Bytes of the file in memory now, whoever read them; None where the system keeps quiet."""
        if self._bytes is None:
            return None
        return resident_bytes(self._bytes.ctypes.data, self.mapped_bytes)

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        look: Callable[[MappedTensor], None] | None = None,
    ) -> None:
        """Read every tensor and compare its checksum; FormatError names the first that differs.

        `progress` gets the bytes done and the bytes in all. `look` is called with each tensor that
        is as it was written, while its bytes are in memory.
        """
        done, total = 0, sum(t.nbytes for t in self.tensors.values())
        for name, expected in self._crcs.items():
            data, crc = self.data(name), 0
            for start in range(0, len(data), _VERIFY_BYTES):
                piece = data[start : start + _VERIFY_BYTES]
                crc = zlib.crc32(piece.data, crc)
                done += len(piece)
                if progress is not None:
                    progress(done, total)
            if crc != expected:
                raise self._differs(f'checksum of "{name}"', f"{expected:08x}", f"{crc:08x}")
            if look is not None:
                look(self.tensors[name])
            self.release(name)

    def close(self) -> None:
        """Give the map back, now or when the last view of it is gone."""
        if self._bytes is not None:
            os.close(self.fileno)
        self._bytes = None
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> ModelFile:
        """Return the open file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


_AGAIN = "The file is damaged: copy it again, or convert again."
