"""Panels are rounded as the definition says, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from naive import WITHOUT_JIT, hard

from cpumix.kernels.compensate import find_row_scales, panel_rounder
from cpumix.quant import FORMATS
from cpumix.quant.compensate import compensate, round_panel

ROUNDERS = [name for name, f in FORMATS.items() if f.rounder]


def upper(columns: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.triu(random.normal(0, 0.2, (columns, columns)), 1).astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "zeros", "outlier", "subnormal"])
@pytest.mark.parametrize(("n", "columns"), [(1, 32), (17, 64), (40, 128)])
@pytest.mark.parametrize("name", ROUNDERS)
def test_panels_equal_the_definition(name, n, columns, kind):
    rounder = FORMATS[name].rounder
    w = hard(kind, n, columns, seed=n)
    moved = w + hard(kind, n, columns, seed=n + 1) / 8
    arguments = rounder, rounder.row_scales(w), w, moved, upper(columns, seed=2)
    expected, found = round_panel(*arguments), panel_rounder(name)(*arguments)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other, equal_nan=True)


@pytest.mark.skipif(WITHOUT_JIT, reason="slow")
def test_rows_do_not_depend_on_each_other():
    rounder, w = FORMATS["q4"].rounder, hard("random", 50, 128, seed=1)
    owed = [upper(128, seed=3)]
    whole = compensate(w, owed, rounder, panel_rounder("q4"))[0]
    part = compensate(w[16:32], owed, rounder, panel_rounder("q4"))[0]
    assert (whole[1:2] == part).all()


@pytest.mark.parametrize("name", ROUNDERS)
def test_views_of_larger_arrays(name):
    rounder, w = FORMATS[name].rounder, hard("random", 33, 160, seed=1)
    owed = upper(160, seed=4)
    here = slice(32, 128)
    scales = rounder.row_scales(w)
    views = panel_rounder(name)(rounder, scales, w[:, here], w[:, here], owed[here, here])
    copies = round_panel(rounder, scales, w[:, here].copy(), w[:, here].copy(), owed[here, here])
    assert all((one == other).all() for one, other in zip(views, copies, strict=True))


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("name", ROUNDERS)
def test_row_scales_are_the_definitions(name, n):
    w = hard("random", n, 96, seed=n)
    assert (find_row_scales(w, name) == FORMATS[name].rounder.row_scales(w)).all()
