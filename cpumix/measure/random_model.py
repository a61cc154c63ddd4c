"""Model files of any shape with random weights, for measuring speed without a checkpoint.

Speed does not depend on what the weights are, only the routing does: it is uniform here, the worst
case for a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig, Role
from cpumix.quant import FLOAT32, FORMATS
from cpumix.quant.precision import Precision, parts_of
from cpumix.quant.tiles import TILE_ROWS
from cpumix.store import ModelWriter, TensorEntry, build_entries, build_metadata

CHUNK_BYTES = 64 << 20
SCALE = 2e-4  # of a block: weights of about +-0.02, as in a trained model
EMBEDDING_SCALE = 0.02  # a token's own state outweighs what attention adds, which is much the same
TYPICAL_SCALE = 36  # of a block in rows with scales: the RMS of -63 to 63
SEED = 1


def mixtral_8x7b(layers: int = 32) -> ModelConfig:
    """Return the shape of Mixtral 8x7B, with fewer layers if asked."""
    return ModelConfig(
        architecture="MixtralForCausalLM",
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=32768,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        rope_scaling=None,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_ids=(2,),
    )


def write_random_model(
    path: Path,
    config: ModelConfig,
    precision: str | Precision,
    tokenizer: dict[str, bytes],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a model file with random weights; `tokenizer` holds the side files to put inside.

    Raises ConvertError as any writing of a model file does.
    """
    entries = build_entries(config, precision)
    random = np.random.Generator(np.random.SFC64(SEED))
    pool = random.integers(0, 256, CHUNK_BYTES, np.uint8)
    total, done = sum(entry.nbytes for entry in entries), 0
    metadata = build_metadata(config, precision, tokenizer, "random")
    with ModelWriter(path, metadata, entries, force=True) as writer:
        for entry in entries:
            for data in _pieces(entry, pool, random):
                writer.write(entry.name, data)
                done += data.nbytes
                if progress is not None:
                    progress(done, total)
        writer.commit()


def _pieces(entry: TensorEntry, pool: NDArray[np.uint8], random: np.random.Generator):  # type: ignore[no-untyped-def]
    """Yield a tensor's bytes: random codes, and scales that are numbers."""
    if entry.format == FLOAT32:
        count = entry.nbytes // 4
        if len(entry.shape) == 1:
            yield np.ones(count, np.float32)
        else:
            yield (random.standard_normal(count, np.float32) * np.float32(0.02)).view(np.float32)
        return
    scale = EMBEDDING_SCALE if entry.spec.role is Role.EMBEDDING else SCALE
    n, k = entry.shape[-2:]
    shapes = [(n, k)] if len(entry.shape) == 2 else [(n, k), (n, k), (k, n)]
    for shape, name in zip(shapes, parts_of(entry.format), strict=False):
        tiles, *rest = FORMATS[name].shape(*shape)
        size = prod(rest)
        most = CHUNK_BYTES // 2 // size
        for start in range(0, tiles, most):
            count = min(most, tiles - start)
            first = int(random.integers(0, CHUNK_BYTES // 2))
            data = pool[first : first + count * size].reshape(count, *rest).copy()
            yield as_weights(data, name, scale)


def as_weights(tiles: NDArray[np.uint8], format_name: str, scale: float) -> NDArray[np.uint8]:
    """Turn random bytes, of the shape of tiles, into weights of the named format, in place."""
    kind = FORMATS[format_name]
    if format_name == "bf16":
        # Sign and mantissa stay random; the exponents become those of 2^-7 .. 2^-5.
        bits = tiles.view(np.uint16)
        bits &= 0x80FF
        bits |= 0x3C00
    elif kind.scaling is not None:
        row_scale = scale * 127 / np.abs(kind.scaling.book).max() / TYPICAL_SCALE
        tiles[:, : kind.head_bytes].view(np.float32)[:] = row_scale
    else:
        # A random sign makes up for code books whose mean is not zero: a mean, however small, adds
        # up over columns and layers until all tokens look alike to the routers.
        scales = tiles[..., -2 * TILE_ROWS :].view(np.float16)
        np.copysign(np.float16(scale), scales, out=scales)
    return tiles
