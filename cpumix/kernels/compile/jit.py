"""The decorators that make kernels, and where their machine code is kept.

Numba's own disk cache does not see an edit in another file: an edited callee keeps giving the old
answer. So the folder is named by a hash of everything that the machine code depends on: the sources
of the kernels and of the formats' constants, numba, llvmlite, Python, the processor and the level.

Options: `nogil`, so that I/O threads run meanwhile; no `fastmath`, so that sums keep their order,
NaN survives, and the same bits come out for every number of threads; `error_model="numpy"`, so that
a division compiles to a division.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import llvmlite.binding as llvm
import numba

from cpumix import cache_dir
from cpumix.cache_dir import CACHE_VARIABLE, cache_roots
from cpumix.errors import ConfigError

from .code_cache import CodeCache
from .isa import VARIABLE, active, arm_features, host_features

F = TypeVar("F", bound=Callable[..., Any])
OPTIONS = {"nogil": True, "error_model": "numpy"}
ALONE = 4  # rows that the caller's thread works on by itself
WARM = "warm"  # begins the names of files in the cache folder that say what has been compiled

if os.environ.get(VARIABLE) and active().processor:
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = active().processor, ""
elif arm_features():  # LLVM may not see them by itself, and uses only what it is told of
    told = llvm.get_host_cpu_features().flatten()
    numba.config.CPU_FEATURES = ",".join([told, *(f"+{name}" for name in active().features)])


def source_key() -> str:
    """Hash what the machine code depends on."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    for path in sorted(p for room in ("kernels", "quant") for p in (package / room).rglob("*.py")):
        name = path.relative_to(package).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes())
    processor = llvm.get_host_cpu_name(), *sorted(host_features()), active().name
    for part in (numba.__version__, llvmlite.__version__, sys.version, *processor):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Return the folder for this machine code, made if need be; None if no place is fit."""
    folders = (cache_dir.cache_folder(root, source_key()) for root in cache_roots())
    return next(filter(None, folders), None)


def cache_note() -> str | None:
    """Return what a user should know about the folder; None if it is where it should be."""
    preferred, folder = cache_roots()[0], cache_folder()
    if folder is not None and folder.parent == preferred:
        return None
    here = next(place for place in (preferred, preferred / source_key()) if cache_dir.fault(place))
    why = f"{here} {cache_dir.fault(here)}"
    if folder is None:
        return f"{why}, so every run compiles; set {CACHE_VARIABLE} to a folder of your own"
    return f"{why}, so compiled kernels are kept in {folder.parent}"


def is_cold(what: str = "") -> bool:
    """Tell whether a run will have to compile kernels: none with this key has been through yet.

    Or, stricter, whether `what`, such as "int8-f16", has not been compiled as a whole: a run leaves
    out what it does not need, such as the kernels of long prompts.
    """
    folder = cache_folder()
    return folder is None or not (folder / f"{WARM}{what}").exists()


def first_run_note() -> str | None:
    """Return what to tell a user whose run has to compile kernels, or cannot keep them; or None."""
    notes = [cache_note()]
    if is_cold():
        often = "" if cache_folder() is None else "once, "
        notes.insert(0, f"compiling the kernels for this processor: {often}up to 25 s")
    return "; ".join(filter(None, notes)) or None


def mark_warm(what: str = "") -> None:
    """Remember on disk that a run has compiled all it needs, or that all of `what` is compiled."""
    if folder := cache_folder():
        with suppress(OSError):
            (folder / f"{WARM}{what}").touch()


def compiled_files() -> set[Path]:
    """Return the files of machine code on disk; more of them after a run show that it compiled."""
    folder = cache_folder()
    return set(folder.rglob("*.nbc")) if folder else set()


def _compile(function: F, **options: Any) -> F:
    folder = cache_folder()
    # Numba reads the folder from its global configuration, once, while decorating; other people's
    # functions keep theirs.
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder or before)
    try:
        compiled = numba.njit(**OPTIONS, **options)(function)
        if folder is not None and compiled is not function:  # it is under NUMBA_DISABLE_JIT
            compiled._cache = CodeCache(function, folder, **options)
        return cast(F, compiled)
    finally:
        numba.config.CACHE_DIR = before


def specialised(decorator: Callable[[F], F], name: str) -> Callable[[F], F]:
    """Return `decorator` for a function that a factory makes once for each `name`, a format.

    Its name, which is that of its symbols and of its file in the cache, must tell it apart: machine
    code that two processes kept meets in a third.
    """

    def decorate(function: F) -> F:
        function.__qualname__ = f"{function.__name__}_{name}"
        return decorator(function)

    return decorate


def kernel(function: F) -> F:
    """Compile a function that kernels call, or that runs on one thread."""
    return _compile(function)


def inlined(function: F) -> F:
    """Compile a function into those that call it: vectors in registers should not cross a call."""
    return _compile(function, forceinline=True)


def parallel_kernel(function: F) -> F:
    """Compile a function whose `prange` loops run on all threads.

    It must not raise: that would make the loops serial.
    """
    return _compile(function, parallel=True)


def row_kernel(function: F) -> F:
    """Compile a function whose `prange` loop runs over its argument `rows`, twice.

    On all threads, and for a few rows on the caller's: to wake the others takes longer than a row
    does, 0.1 ms under numba's workqueue layer.
    """
    place = list(inspect.signature(function).parameters).index("rows")
    together, alone = parallel_kernel(function), kernel(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        return (alone if arguments[place] <= ALONE else together)(*arguments)

    call.variants = (together, alone)  # type: ignore[attr-defined]
    return cast(F, call)


def most_threads() -> int:
    """Return how many threads numba was started with: the most there can be."""
    return int(numba.config.NUMBA_NUM_THREADS)


def find_threads(asked: int | None, cores: int) -> int:
    """Return how many threads to run on: as many as asked for, else one for each core.

    Raises ConfigError for a number that numba was not started with.
    """
    most = most_threads()
    if asked is None:
        return min(cores, most)
    if not 1 <= asked <= most:
        raise ConfigError(
            f"threads: expected 1 to {most}, the processors of this machine, found {asked}."
        )
    return asked


def set_threads(count: int) -> int:
    """Use `count` threads from now on, at most `most_threads`; return how many that is."""
    count = min(count, most_threads())
    numba.set_num_threads(count)
    return count


computing = threading.RLock()
"""Held by whoever runs parallel kernels: numba's thread pools do not bear two callers at once."""

prange = numba.prange
