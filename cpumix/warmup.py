"""Compiling ahead whatever a run or a conversion may need on this processor.

Kernels are compiled when they are first called, once for the types that they are called with. So
everything is called once, on models too small to take time: each precision with each KV cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .errors import ConfigError
from .folders import CACHE_VARIABLE
from .generate import DEMO_MODEL, load
from .kernels import jit
from .kernels.encoder import encode
from .kv_cache import FORMATS as KV_FORMATS
from .quant import FORMATS
from .quant.precision import PRECISIONS
from .store import ModelFile
from .synthetic import write_random_model

PROMPT_TOKENS = 40  # enough for the kernels of large batches


def warm_up(progress: Callable[[int, int], None] | None = None) -> Path:
    """Compile all kernels, or find them compiled; return the folder that keeps them.

    `progress` is called with the steps done and in all. Raises ConfigError where no folder can be
    written.
    """
    folder = jit.cache_folder()
    if folder is None:
        raise ConfigError(
            "cache: expected a folder that can be written, found none to keep compiled kernels in. "
            f"Set {CACHE_VARIABLE} to one."
        )
    steps = [(precision, kv) for precision in PRECISIONS for kv in KV_FORMATS]
    total = len(steps) + 1
    with tempfile.TemporaryDirectory(prefix="cpumix-warmup-") as place:
        for done, (precision, kv) in enumerate(steps):
            if progress is not None:
                progress(done, total)
            _run(Path(place) / f"{precision}.bin", precision, kv)
    if progress is not None:
        progress(len(steps), total)
    for name in FORMATS:
        for kind in (np.float32, np.uint16):  # what weights of checkpoints are read as
            encode(np.zeros((16, 32), kind), name)
    if progress is not None:
        progress(total, total)
    jit.mark_warm()
    return folder


def _run(path: Path, precision: str, kv: str) -> None:
    """Take a prompt and one more token through a model of one layer."""
    if not path.exists():
        with ModelFile(DEMO_MODEL) as demo:
            shape = replace(
                demo.config, num_hidden_layers=1, hidden_size=64, intermediate_size=64, head_dim=16
            )
            write_random_model(path, shape, precision, demo.files)
    with load(path, kv=kv, context=2 * PROMPT_TOKENS) as model:
        model.logits(range(PROMPT_TOKENS))
        model.advance([0])
