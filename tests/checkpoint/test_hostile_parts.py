"""Parts of quantized modules whose types, shapes and settings were changed at random.

Whatever they say, an encoding refuses them in one sentence or reads rows; it never fails otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_shard
from quantized_parts import random
from test_encodings_by_blocks import four_bits, hqq
from test_encodings_by_groups import gptq

from cpumix.checkpoint.containers import read_tensors
from cpumix.checkpoint.encodings import ENCODINGS, assemble
from cpumix.checkpoint.matrix import count_rows
from cpumix.checkpoint.stored import NUMPY_DTYPES
from cpumix.errors import CpumixError

pytestmark = pytest.mark.slow

Parts = dict[str, Any]


def mlx() -> Parts:
    scales = np.ones((4, 2), np.float16)
    return {"m.weight": np.zeros((4, 8), np.uint32), "m.scales": scales, "m.biases": scales}


def awq() -> Parts:
    words = np.zeros((64, 4), np.int32)
    return {"m.qweight": words, "m.qzeros": words[:2], "m.scales": np.ones((2, 32), np.float16)}


def compressed() -> Parts:
    shape = np.array([8, 64], np.int64)
    packed, groups = np.zeros((8, 8), np.int32), np.zeros(64, np.int32)
    scale = np.ones((8, 4), np.float32)
    parts = {"m.weight_packed": packed, "m.weight_scale": scale, "m.weight_shape": shape}
    return parts | {"m.weight_g_idx": groups, "m.weight_zero_point": np.zeros((1, 4), np.int32)}


def eight_bits() -> Parts:
    weight, scales = np.ones((4, 8), np.int8), np.ones(4, np.float32)
    return {"m.weight": weight, "m.SCB": scales, "m.weight_format": np.zeros((), np.uint8)}


def scaled() -> Parts:
    return {"m.weight": np.ones((4, 8), np.int8), "m.weight_scale": np.ones((4, 1), np.float32)}


FORMS: dict[str, tuple[str, Callable[[], Parts], Parts]] = {
    "mlx": ("mlx", mlx, {"bits": 4, "group_size": 32, "mode": "affine"}),
    "gptq": (
        "gptq",
        lambda: gptq(random(0), 4, zeros=lambda s: (np.full(s, 7), np.full(s, 8)))[0],
        {"bits": 4, "sym": True, "checkpoint_format": "gptq"},
    ),
    "awq": ("awq", awq, {"bits": 4, "version": "gemm"}),
    "bitsandbytes": ("bitsandbytes", lambda: four_bits((16, 160), nested=True)[0], {}),
    "bitsandbytes-8": ("bitsandbytes", eight_bits, {}),
    "hqq": ("hqq", lambda: hqq(4, 1, (24, 64), 64)[0], {}),
    "hqq-3": ("hqq", lambda: hqq(3, 0, (24, 64), 64)[0], {}),
    "packed": ("compressed-tensors", compressed, {}),
    "scaled": ("compressed-tensors", scaled, {}),
}
STRANGE = (None, True, -1, 0, 3, 4.0, "4", [], {}, [[4]], {"a": 1}, 1 << 70, "\n")


def change(parts: Parts, settings: Parts, rng: np.random.Generator) -> tuple[Parts, Parts, Parts]:
    """Return parts, types and settings with one to three changes."""
    parts, settings, dtypes = dict(parts), dict(settings), {}
    for _ in range(rng.integers(1, 4)):
        names = sorted(parts)
        if not names:
            break
        name = names[rng.integers(0, len(names))]
        array = parts[name]
        kind = rng.integers(0, 7)
        if kind == 0:
            del parts[name]
        elif kind == 1 and array.ndim:
            parts[name] = np.ascontiguousarray(array[: rng.integers(0, len(array) + 1)])
        elif kind == 2:
            parts[name] = np.ascontiguousarray(array.reshape(-1))
        elif kind == 3:
            parts[name] = np.ascontiguousarray(array[None])
        elif kind == 4:
            sizes = {d: n.itemsize for d, n in NUMPY_DTYPES.items()}
            same = [d for d, size in sizes.items() if size == array.dtype.itemsize]
            dtypes[name] = same[rng.integers(0, len(same))]
        elif kind == 5:
            raw = rng.bytes(array.nbytes)
            parts[name] = np.frombuffer(raw, array.dtype).reshape(array.shape)
        else:
            keys = sorted({*settings, "bits", "mode", "m", "version", "format", "group_size"})
            settings[keys[rng.integers(0, len(keys))]] = STRANGE[rng.integers(0, len(STRANGE))]
    return parts, {n: d for n, d in dtypes.items() if n in parts}, settings


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random scales overflow, as they may
@pytest.mark.parametrize("form", FORMS)
def test_changed_parts_and_settings(tmp_path: Path, form: str) -> None:
    encoding, make, settings = FORMS[form]
    assert encoding in ENCODINGS
    sound, outcomes = make(), set()
    for number in range(300):
        rng = random(number)
        parts, dtypes, changed = change(sound, settings, rng)
        sizes = {n: NUMPY_DTYPES[d].itemsize for n, d in dtypes.items()}
        dtypes = {n: d for n, d in dtypes.items() if sizes[n] == parts[n].dtype.itemsize}
        write_shard(tmp_path / "x.safetensors", parts, dtypes)
        try:
            matrices = assemble(read_tensors(tmp_path / "x.safetensors"), encoding, changed)
            for matrix in matrices.values():
                rows = count_rows(matrix)
                matrix.read_rows(0, min(rows, 3))
                matrix.read_rows(max(rows - 3, 0), rows)
            outcomes.add("read")
        except CpumixError as error:
            assert str(error).isprintable(), (number, error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
