"""A weight format takes two files and two rows, and everything knows it then."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from model_files import relative_error, stored_weights
from naive import WITHOUT_JIT, rows_of
from naive import product as naive_product
from oracle_cases import MIXTRAL
from tiny_models import write_model
from toy_format import T2

import cpumix
from cpumix.fit.known_models import known_model
from cpumix.kernels import create_backend
from cpumix.kernels.compile.isa import active
from cpumix.kernels.encode import encode
from cpumix.kernels.operands import Matmul, MatmulGroup, TiledMatrix
from cpumix.quant import FORMATS
from cpumix.quant.precision import PRECISIONS, Precision

pytestmark = pytest.mark.slow  # compiles all products for the format
HAS_CODECS = active().name != "generic" and not WITHOUT_JIT
MODEL = "mixtral-8x7b"
ERROR = 0.01936  # of rounding rows of activations to 8 bits, as in transformer/test_forward.py
SHAPES = [(1, 32), (17, 33), (40, 96), (200, 544)]


@pytest.fixture
def toy(monkeypatch):
    """Add the rows of `FORMATS` and `CODECS`, and a precision whose experts have the format."""
    monkeypatch.setitem(FORMATS, "t2", T2)
    monkeypatch.setitem(
        PRECISIONS, "ternary", Precision.uniform("ternary", experts="t2", dense="q8")
    )
    if HAS_CODECS:
        from toy_codec import T2 as Codec

        from cpumix.kernels.codecs import CODECS

        monkeypatch.setitem(CODECS, "t2", Codec())


def weights(n: int, k: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, k)).astype(np.float32)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_definition_rounds_to_the_nearest_of_three(toy, n, k):
    w = weights(n, k)
    found = T2.dequantize(T2.quantize(w), n, k)
    scale = np.abs(np.pad(w, ((0, 0), (0, -k % 32))).reshape(n, -1, 32)).max(-1)
    scale = scale.astype(np.float16).astype(np.float32).repeat(32, axis=1)[:, :k]
    three = scale * np.array([-1, 0, 1], np.float32)[:, None, None]
    best = np.abs(three - w).min(axis=0)
    np.testing.assert_allclose(np.abs(found - w), best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_tiles_equal_the_definition(toy, n, k):
    w = weights(n, k)
    assert (encode(w, "t2")[0] == T2.quantize(w)).all()


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("count", [1, 2, 5, 17, 40])
def test_products_equal_the_definition(toy, n, k, count):
    """One row goes through `matvec`, a few through `gemm_small`, many through `gemm`."""
    matrix, x = TiledMatrix("t2", T2.quantize(weights(n, k))), weights(count, k)
    out = np.zeros((count, 16 * len(matrix.tiles)), np.float32)
    rows = rows_of(x, 40)
    create_backend(1).multiply(MatmulGroup([Matmul(matrix, rows, 0, count, out)]))
    expected, bound = naive_product(matrix, x)
    assert (np.abs(out - expected) <= bound).all()


def test_a_model_of_this_format_is_what_its_weights_say(toy, tmp_path):
    path = write_model(tmp_path, MIXTRAL, "ternary")
    ids = list(range(3, 40))
    with cpumix.load(path, threads=1, kv="f32") as model:
        expert = model.file.tensors[model.file.expert_name(0, 0)]
        assert (expert.format, model.file.precision) == ("t2", "ternary")
        expected = reference.forward(model.config, stored_weights(model.file), ids)
        together = model.logits(ids)
        model.restart()
        apart = np.stack([model.advance([token]) for token in ids])
    np.testing.assert_array_equal(together, apart)
    error = np.median(relative_error(together, expected))
    assert error == pytest.approx(ERROR, rel=0.01)


def test_the_planner_knows_its_size(toy):
    plans = [cpumix.plan(known_model(MODEL), ram="64G", precision=p) for p in ("ternary", "int4")]
    ratio = plans[0].expert_bytes / plans[1].expert_bytes
    heads = 4 * 8 * (1 / 4096 + 1 / 4096 + 1 / 14336) / 3  # bits a weight: a scale for each row
    assert ratio == pytest.approx(2.5 / (4.25 + heads), rel=1e-3)
