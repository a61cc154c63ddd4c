"""Turns a failing read of the mapped file into zeros and a flag, where it would end the process.

The processor reads mapped weights itself. When the file has been cut short, or its disk is gone,
the system answers with the signal SIGBUS, which Python cannot catch: its handlers run between
bytecodes, and the faulting instruction would fault again for ever. So the handler is machine code:
it puts zeros in the place of the whole map, sets the flag, and lets the instruction run again.
Whoever computes looks at the flag afterwards. Faults anywhere else go to the handler before.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from cpumix.errors import FormatError

if TYPE_CHECKING:
    from .reader import ModelFile

SLOTS = 16  # files that can be guarded at once; more go without

# A slot is the map's address, its bytes (0: the slot is free), and the flag.
_HANDLER = """
@slots = global [{slots} x [3 x i64]] zeroinitializer
@before = global [256 x i8] zeroinitializer
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @sigaction(i32, ptr, ptr)

define void @on_bus_error(i32 %signal, ptr %info, ptr %context) {{
  %field = getelementptr i8, ptr %info, i64 {address_at}
  %address = load i64, ptr %field
  br label %look
look:
  %i = phi i64 [0, %0], [%next, %other]
  %start_at = getelementptr [3 x i64], ptr @slots, i64 %i, i64 0
  %bytes_at = getelementptr [3 x i64], ptr @slots, i64 %i, i64 1
  %flag_at = getelementptr [3 x i64], ptr @slots, i64 %i, i64 2
  %start = load volatile i64, ptr %start_at
  %bytes = load volatile i64, ptr %bytes_at
  %distance = sub i64 %address, %start
  %ours = icmp ult i64 %distance, %bytes
  br i1 %ours, label %replace, label %other
replace:
  store volatile i64 1, ptr %flag_at
  %map = inttoptr i64 %start to ptr
  %zeros = call ptr @mmap(ptr %map, i64 %bytes, i32 1, i32 {flags}, i32 -1, i64 0)
  ret void
other:
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, {slots}
  br i1 %more, label %look, label %foreign
foreign:
  %done = call i32 @sigaction(i32 %signal, ptr @before, ptr null)
  ret void
}}
"""


class _LinuxAction(ctypes.Structure):
    """struct sigaction of glibc and musl."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint8 * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _MacAction(ctypes.Structure):
    """struct sigaction of macOS."""

    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_uint32), ("flags", ctypes.c_int))


class _System(NamedTuple):
    """The numbers of one system."""

    action: Any
    signal: int  # SIGBUS
    siginfo: int  # SA_SIGINFO
    address_at: int  # of si_addr in siginfo_t
    map_flags: int  # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE


_SYSTEMS = {
    "linux": _System(_LinuxAction, 7, 0x4, 16, 0x2 | 0x10 | 0x20 | 0x4000),
    "darwin": _System(_MacAction, 10, 0x40, 24, 0x2 | 0x10 | 0x1000 | 0x40),
}


@lru_cache(maxsize=1)
def _compiled() -> tuple[Any, int, int, int]:
    """Return the machine code's owner and the addresses of handler, slots and `before`."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    system = _SYSTEMS[sys.platform]
    text = _HANDLER.format(slots=SLOTS, address_at=system.address_at, flags=system.map_flags)
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True)
    owner = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    owner.finalize_object()
    addresses = (owner.get_global_value_address(name) for name in ("slots", "before"))
    return owner, owner.get_function_address("on_bus_error"), *addresses


class BusGuard:
    """Guards one map, until closed; does nothing on systems without SIGBUS."""

    def __init__(self, address: int, nbytes: int) -> None:
        self._slot: Any = None
        if sys.platform not in _SYSTEMS:
            return
        _, handler, slots, before = _compiled()
        table = ((ctypes.c_int64 * 3) * SLOTS).from_address(slots)
        self._slot = next((slot for slot in table if slot[1] == 0), None)
        if self._slot is None:
            return
        if not any(slot[1] for slot in table):
            _install(handler, before)
        self._slot[:] = (address, nbytes, 0)

    @property
    def struck(self) -> bool:
        """Whether reading the map has failed; it is all zeros since."""
        return self._slot is not None and bool(self._slot[2])

    def close(self) -> None:
        """Guard no longer."""
        if self._slot is not None:
            self._slot[1] = 0
            self._slot = None


@contextmanager
def guarded(file: ModelFile) -> Iterator[None]:
    """Raise FormatError, not SIGBUS, if a file's map cannot be read inside; it gives zeros then."""
    guard = BusGuard(file.address, file.mapped_bytes)
    try:
        yield
    except Exception:
        file.check_size()
        check_reads(file, guard)
        raise
    else:
        check_reads(file, guard)
    finally:
        guard.close()


def check_reads(file: ModelFile, guard: BusGuard) -> None:
    """Raise FormatError if a read under this guard has failed, and has given zeros."""
    if guard.struck:
        file.check_size()
        raise FormatError(
            f'"{file.path}": a part of the file could not be read while in use. '
            "Check the disk, then the file with `cpumix verify`."
        )


def _install(handler: int, before: int) -> None:
    """Put the handler in place, and remember the one before unless it is ours."""
    system = _SYSTEMS[sys.platform]
    sigaction = ctypes.CDLL(None, use_errno=True).sigaction
    found = system.action()
    sigaction(system.signal, None, ctypes.byref(found))
    if found.handler == handler:
        return
    ctypes.memmove(before, ctypes.byref(found), ctypes.sizeof(found))
    new = system.action(handler=handler, flags=system.siginfo)
    sigaction(system.signal, ctypes.byref(new), None)
