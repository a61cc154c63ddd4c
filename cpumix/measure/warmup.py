"""Compiling ahead whatever a run or a conversion may need on this processor.

Kernels are compiled when they are first called, once for the types that they are called with. So
everything is called once, on models too small to take time: each weight format, each KV cache. As
the compiler runs on one processor, a second process helps: nothing depends on it, since what it has
not compiled in time, the first one does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from cpumix.cache_dir import CACHE_VARIABLE
from cpumix.errors import ConfigError
from cpumix.kernels import create_backend
from cpumix.kernels.compile import jit
from cpumix.kernels.encode import encode
from cpumix.kernels.operands import KVView
from cpumix.kernels.rows import Rows
from cpumix.kv.formats import count_blocks, find_format
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.loading import load
from cpumix.model import DEMO_MODEL
from cpumix.quant import FORMATS
from cpumix.quant.kv import KV_FORMATS
from cpumix.quant.precision import PRECISIONS, Precision
from cpumix.store import ModelFile
from cpumix.transformer.batch import Batch, Step
from cpumix.transformer.rope import cos_sin, frequencies

from .random_model import write_random_model

OTHERS = "compile_others()"
ATTENTION = "compile_attention({!r})"
WARMUP_TOKENS = 40  # enough for the kernels of large batches


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
    # Attention does not depend on the weights' format.
    steps = [*[(name, "auto") for name in FORMATS], *[("q8", kv) for kv in KV_FORMATS]]
    total = len(steps) + 1
    with _help(OTHERS) as helper, tempfile.TemporaryDirectory(prefix="cpumix-warmup-") as place:
        for done, (name, kv) in enumerate(steps):
            if progress is not None:
                progress(done, total)
            _run(Path(place) / f"{name}.bin", name, kv)
            helper.wait()
    if progress is not None:
        progress(len(steps), total)
    _encode_all()
    if progress is not None:
        progress(total, total)
    for name in FORMATS:
        for kv in KV_FORMATS:
            jit.mark_warm(f"-{name}-{kv}")
    jit.mark_warm()
    return folder


@contextmanager
def helped(kv: str) -> Iterator[None]:
    """If a first run is to come, let a second process compile attention meanwhile."""
    if not jit.is_cold() or jit.cache_folder() is None:
        yield
        return
    with _help(ATTENTION.format(kv)) as helper:
        try:
            yield
        finally:
            helper.terminate()


def _help(call: str) -> subprocess.Popen[bytes]:
    """Start a process that calls a function of this module, and says nothing."""
    return subprocess.Popen(
        [sys.executable, "-c", f"from cpumix.measure import warmup; warmup.{call}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def compile_for(formats: Sequence[str], kv: str) -> None:
    """Compile what runs with these weights and this KV cache need, and note that it is done."""
    with tempfile.TemporaryDirectory(prefix="cpumix-warmup-") as place:
        for name in formats:
            _run(Path(place) / f"{name}.bin", name, kv)
            jit.mark_warm(f"-{name}-{kv}")
    jit.mark_warm()


def compile_others() -> None:
    """Compile what a first run does not: other KV caches than the default, and the encoder."""
    for kv in KV_FORMATS:
        if kv != find_format("auto", PRECISIONS["int4"]):
            compile_attention(kv)
    _encode_all()


def compile_attention(kv: str) -> None:
    """Keep and read keys and values in this format, of a few positions and of many."""
    with ModelFile(DEMO_MODEL) as demo:
        config = demo.config
    backend = create_backend(1)
    blocks = count_blocks(config, WARMUP_TOKENS, WARMUP_TOKENS)
    pool = BlockPool(config, blocks, kv)
    table = BlockTable(pool, blocks)
    group = config.num_attention_heads // config.num_key_value_heads
    q, out = Rows(WARMUP_TOKENS, config.q_size), Rows(WARMUP_TOKENS, config.q_size)
    k, v = Rows(WARMUP_TOKENS, config.kv_size), Rows(WARMUP_TOKENS, config.kv_size)
    for n in (1, WARMUP_TOKENS):
        batch = Batch([Step(range(n), 0, table)])
        rope = cos_sin(frequencies(config, WARMUP_TOKENS), batch.positions)
        place = batch.place(is_last_layer=False)
        view = KVView(*pool.layer(0), *place, pool.window, config.head_dim**-0.5, group)
        backend.store_kv(q, k, v, rope, n, n, view)
        backend.attention(q, n, view, out)


def _encode_all() -> None:
    for name in FORMATS:
        for kind in (np.float32, np.uint16):  # what weights of checkpoints are read as
            encode(np.zeros((16, 32), kind), name)


def _run(path: Path, format_name: str, kv: str) -> None:
    """Take a prompt and one more token through a model of one layer, all in one format."""
    if not path.exists():
        with ModelFile(DEMO_MODEL) as demo:
            shape = replace(
                demo.config, num_hidden_layers=1, hidden_size=64, intermediate_size=64, head_dim=16
            )
            kind = Precision.uniform(format_name, experts=format_name, dense=format_name)
            write_random_model(path, shape, kind, demo.files)
    with load(path, kv=kv, context=2 * WARMUP_TOKENS) as model:
        model.logits(range(WARMUP_TOKENS))
        model.advance([0])
