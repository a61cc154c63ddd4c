"""The file fails while it is used: a sentence, never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from model_files import write

from cpumix.errors import FormatError
from cpumix.experts import madvise
from cpumix.experts.region import MappedRegion
from cpumix.store import ModelFile

needs_sigbus = pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"), reason="a mapped file cannot be cut short here"
)


@pytest.fixture
def file(tmp_path):
    with ModelFile(write(tmp_path / "tiny.bin")) as file:
        yield file


@needs_sigbus
def test_file_cut_short_is_seen_before_reading(file):
    os.truncate(file.path, 4096)
    with pytest.raises(FormatError, match=r"found 4096: the file was cut short while in use"):
        MappedRegion(file).bring(0, file.mapped_bytes)


def test_disk_that_fails_is_an_error(file):
    def fail(address, nbytes):
        raise OSError(5, "Input/output error")

    region = MappedRegion(file, madvise.Platform(fail, madvise.give_back_nothing))
    with pytest.raises(FormatError, match=r"cannot be read while running: Input/output error"):
        region.bring(16384, 4096)


def test_system_without_advice_reads_plainly(file):
    def refuse(*_):
        raise madvise.Refused("Invalid argument")

    region = MappedRegion(file, madvise.Platform(refuse, refuse))
    assert region.note is None
    region.bring(0, file.mapped_bytes)
    assert "takes no advice on memory (Invalid argument)" in region.note
    region.give_back(0, file.mapped_bytes)
    assert region.missing(0, file.mapped_bytes) in (0, file.mapped_bytes)


def test_system_without_large_pages_takes_small_ones_and_says_nothing(file):
    taken = []

    def refuse(*_):
        taken.append("large")
        raise madvise.Refused("Invalid argument")

    small = madvise.Platform(lambda *_: taken.append("small"), madvise.give_back_nothing, refuse)
    region = MappedRegion(file, small)
    region.bring(0, 4096)
    region.bring(4096, 4096)
    assert taken == ["large", "small", "small"]
    assert region.note is None


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that a signal may end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )


@needs_sigbus
def test_read_of_a_vanished_page_gives_zeros_and_a_flag(tmp_path):
    code = """
        import mmap, os, sys
        import numpy as np
        from cpumix.store.bus_guard import BusGuard

        with open(sys.argv[1], "w+b") as f:
            f.write(b"a" * 100_000)
            f.flush()
            map_ = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
            data = np.frombuffer(map_, np.uint8)
            guard = BusGuard(data.ctypes.data, len(data))
            assert data.sum() == 97 * 100_000 and not guard.struck
            f.truncate(0)
            assert data.sum() == 0 and guard.struck
            guard.close()
            f.truncate(4096)
            print("alive")
            sys.stdout.flush()
            foreign = mmap.mmap(f.fileno(), 4096, access=mmap.ACCESS_READ)
            f.truncate(0)
            foreign[0]
            print("not reached")
    """
    result = run(code, str(tmp_path / "file"))
    assert result.stdout == "alive\n"
    assert result.returncode not in (0, 1), "somebody else's fault ends the program as ever"


@needs_sigbus
@pytest.mark.slow
def test_file_cut_short_while_generating(demo_model, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(demo_model.read_bytes())
    code = """
        import os, sys
        import cpumix

        with cpumix.load(sys.argv[1]) as model:
            pieces = iter(model.generate("And they", max_tokens=200))
            next(pieces)
            os.truncate(sys.argv[1], 1 << 20)
            try:
                list(pieces)
            except cpumix.errors.FormatError as e:
                print(e)
    """
    result = run(code, str(path))
    assert result.returncode == 0, result.stderr
    assert "the file was cut short while in use" in result.stdout


def test_page_that_could_not_be_read_is_said(file, monkeypatch):
    from cpumix.experts import ExpertPager

    pager = ExpertPager(file)
    pager.check()
    if pager._guard._slot is None:
        pytest.skip("no SIGBUS on this system")
    pager._guard._slot[2] = 1
    with pytest.raises(FormatError, match="a part of the file could not be read while in use"):
        pager.check()
    pager.close()
