"""The picture of a trace: what is read from it, what is refused, and that it is drawn."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from paged_models import page, write_paged
from plot_paging import main, read_trace, smooth

import cpumix

HEAD = "position\ttokens\tlayer\texperts\tfound\tmilliseconds\tresident_bytes\n"
LINES = [
    HEAD,
    "0\t3\t0\t0,1,2\tmiss,miss,miss\t9.1\t300\n",
    "0\t3\t1\t4,5\tmiss,miss\t9.1\t500\n",
    "3\t1\t0\t1,2\thit,hit\t0.1\t500\n",
    "3\t1\t1\t4,6\thit,miss\t0.1\t500\n",
]


def test_trace_is_read_by_passes():
    passes = read_trace(LINES)
    np.testing.assert_array_equal(passes.ends, [3, 4])
    np.testing.assert_array_equal(passes.resident, [500, 500])
    np.testing.assert_array_equal(passes.hits, [[0, 0], [2, 1]])
    np.testing.assert_array_equal(passes.uses, [[3, 2], [2, 2]])


def test_pass_that_was_broken_off_is_left_out():
    assert len(read_trace([*LINES, "4\t1\t0\t1,2\thit,hit\t0.1\t500\n"]).ends) == 2
    assert len(read_trace([*LINES, "4\t1\t0\t1,"]).ends) == 2


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "expected the columns position, .*, found"),
        (["a\tb\n"], r"found \('a', 'b'\)"),
        ([HEAD], "found no whole token"),
    ],
)
def test_what_is_no_trace_is_refused(lines, sentence):
    with pytest.raises(SystemExit, match=sentence):
        read_trace(lines)


def test_mean_over_a_window_looks_back_only():
    values, weights = np.array([1.0, 0.0, 0.0, 1.0]), np.array([2, 2, 4, 4])
    np.testing.assert_allclose(smooth(values, weights, 2), [1, 0.5, 0, 0.5])
    np.testing.assert_allclose(smooth(values, weights, 99), [1, 0.5, 0.25, 0.5])


@pytest.mark.slow
def test_picture_of_a_run(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'cpumix[plot]'")
    with cpumix.load(write_paged(tmp_path / "model.bin"), context=64, threads=1) as model:
        page(model, 6)
        with open(tmp_path / "trace.tsv", "w") as stream:
            model.trace(stream)
            list(model.generate("one two three", max_tokens=20))
    assert main([str(tmp_path / "trace.tsv"), str(tmp_path / "paging.png")]) == 0
    png = (tmp_path / "paging.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (1000, 800)
