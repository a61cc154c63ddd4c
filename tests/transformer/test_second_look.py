"""Weights and sums that are no numbers end in an error that names the layer and the cause."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from cpumix.errors import ConfigError, FormatError
from cpumix.experts import ExpertPager
from cpumix.kernels import create_backend
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.quant import nbytes
from cpumix.store.reader import ModelFile
from cpumix.transformer.batch import Batch, Step
from cpumix.transformer.forward import Transformer

IDS = list(range(3, 23))
FindModel = Callable[[str, str], Path]


class Run:
    """One sequence on a model file."""

    def __init__(self, path: Path, kv: str = "f16", blocks: int = 1) -> None:
        self.file = ModelFile(path)
        self.pool = pool = BlockPool(self.file.config, blocks, kv)
        self.table, self.position = BlockTable(pool, 1), 0
        self.pager = ExpertPager(self.file)
        self.transformer = Transformer(self.file, create_backend(1), pool, self.pager, 64, 32)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        self.pager.close()
        del self.transformer
        self.file.close()

    def forward(self, ids: list[int]) -> np.ndarray:
        """Take in more tokens; return the last one's logits."""
        batch = Batch([Step(ids, self.position, self.table)])
        self.position += len(ids)
        rows = self.transformer.forward(batch)
        for error in self.transformer.find_faults(batch, rows).values():
            raise error
        return rows[0]


def damaged(path: Path, folder: Path, name: str, *places: int, bad: bytes) -> Path:
    """Copy a model file and write to places of a tensor, counted from its end if negative."""
    with ModelFile(path) as file:
        tensor = file.tensors[name]
    copy = shutil.copy(path, folder / "damaged.bin")
    with open(copy, "r+b") as stream:
        for place in places:
            stream.seek(tensor.offset + place % tensor.nbytes)
            stream.write(bad)
    return Path(copy)


F32_NAN = np.float32(np.nan).tobytes()
F16_NAN = np.float16(np.nan).tobytes()
VECTORS = [
    ("blk.0.attn_norm.weight", "layer 0, a norm"),
    ("blk.1.attn_norm.weight", "layer 1, a norm"),
    ("blk.1.ffn_norm.weight", "layer 1, a norm"),
    ("blk.0.router.weight", "layer 0, experts"),
    ("blk.1.router.weight", "layer 1, experts"),
    ("output_norm.weight", "the last norm"),
]
MATRICES = [
    ("blk.0.attn_q.weight", "layer 0, attention"),
    ("blk.1.attn_k.weight", "layer 1, attention"),
    ("blk.1.attn_v.weight", "layer 1, attention"),
    ("blk.0.attn_output.weight", "layer 0, attention"),
    ("output.weight", "the head"),
]


def expect_named(path: Path, name: str, place: str) -> None:
    message = (
        f'": {place}: expected finite weights in use, found NaN or infinity in tensor "{name}"'
        r"\. Convert the checkpoint again\.$"
    )
    with Run(path) as run, pytest.raises(FormatError, match=message):
        run.forward(IDS)


@pytest.mark.parametrize(("name", "place"), VECTORS)
@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_norm_or_router_with_one_nan(
    tmp_path: Path, model_file: FindModel, precision: str, name: str, place: str
) -> None:
    path = damaged(model_file("moe", precision), tmp_path, name, 4 * 7, bad=F32_NAN)
    expect_named(path, name, place)


@pytest.mark.parametrize(("name", "place"), MATRICES)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_scale_that_is_nan(
    tmp_path: Path, model_file: FindModel, precision: str, name: str, place: str
) -> None:
    path = damaged(model_file("moe", precision), tmp_path, name, -32, bad=F16_NAN)
    expect_named(path, name, place)


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_expert_is_named_as_soon_as_it_is_used(
    tmp_path: Path, model_file: FindModel, precision: str
) -> None:
    name = "blk.0.expert.2"
    file = model_file("moe", precision)
    bad, place = {"bf16": b"\xc0\x7f"}.get(precision, F16_NAN), -2
    if precision == "int4":  # the first row's scale of w2
        with ModelFile(file) as opened:
            config = opened.config
        bad, place = F32_NAN, -nbytes("q4s", (config.hidden_size, config.intermediate_size))
    path = damaged(file, tmp_path, name, place, bad=bad)
    expect_named(path, name, "layer 0, experts")


def test_embedding_of_a_token(tmp_path: Path, model_file: FindModel) -> None:
    """A token's row is 16 or fewer of a tile's; rows of other tiles do no harm."""
    whole = model_file("dense", "int8")
    path = damaged(whole, tmp_path, "token_embd.weight", 544 - 32, bad=16 * F16_NAN)
    expect_named(path, "token_embd.weight", "the embeddings")
    with Run(path) as run, Run(whole) as other:
        ids = [n + 16 for n in IDS]
        assert (run.forward(ids) == other.forward(ids)).all()


def larger(path: Path, folder: Path, name: str, factor: float) -> Path:
    """Copy a model file with the scales of a matrix multiplied."""
    with ModelFile(path) as file:
        tensor = file.tensors[name]
    folder.mkdir(exist_ok=True)
    copy = Path(shutil.copy(path, folder / "larger.bin"))
    mapped = np.memmap(copy, np.uint8, "r+", tensor.offset, tensor.nbytes)
    tiles = mapped.reshape(-1, 544)
    scales = np.ascontiguousarray(tiles[:, -32:]).view(np.float16).astype(np.float32) * factor
    tiles[:, -32:] = scales.astype(np.float16).view(np.uint8)
    mapped.flush()
    return copy


@pytest.mark.parametrize("name", ["blk.1.attn_k.weight", "blk.1.attn_v.weight"])
def test_cache_that_cannot_hold_keys_or_values(
    tmp_path: Path, model_file: FindModel, name: str
) -> None:
    path = larger(model_file("dense", "int8"), tmp_path, name, 2.0**17)
    message = (
        r"^KV cache: layer 1: expected keys and values up to 65504, which f16 holds, found "
        r"\d\.\d+e\+05\. Use --kv f32\.$"
    )
    with Run(path) as run, pytest.raises(ConfigError, match=message):
        run.forward(IDS)
    for kv in ("f32", "int8"):
        with Run(path, kv) as run:
            assert np.isfinite(run.forward(IDS)).all()


def test_cache_that_could_not_hold_earlier_keys(tmp_path: Path, model_file: FindModel) -> None:
    """Then the layer is where it shows; what was there is known only of the present batch."""
    path = larger(model_file("dense", "int8"), tmp_path, "blk.1.attn_k.weight", 2.0**17)
    with Run(path) as run:
        with pytest.raises(ConfigError, match="Use --kv f32"):
            run.forward(IDS)
        shutil.copy(larger(path, tmp_path / "again", "blk.1.attn_k.weight", 2.0**-17), path)
        with pytest.raises(ConfigError, match=r"layer 1: .* which f16 holds, found larger ones"):
            run.forward(IDS)


@pytest.mark.parametrize("name", ["blk.0.expert.0", "token_embd.weight"])
def test_earlier_tokens_may_have_used_what_is_damaged(
    tmp_path: Path, model_file: FindModel, name: str
) -> None:
    """Their keys are NaN then, and a later pass need not use it itself."""
    whole = model_file("moe", "int8")
    place = 544 - 32 if name == "token_embd.weight" else -32
    path = damaged(whole, tmp_path, name, place, bad=16 * F16_NAN)
    with Run(path) as run:
        with pytest.raises(FormatError, match=f'"{name}"'):
            run.forward(IDS)
        single = 17
        message = f'(embeddings|layer 0, experts): .* NaN or infinity in tensor "{name}"'
        with pytest.raises(FormatError, match=message):
            run.forward([single])


def test_weights_whose_sums_exceed_float32(tmp_path: Path, model_file: FindModel) -> None:
    path = model_file("dense", "int8")
    name = "blk.0.ffn_norm.weight"
    path = damaged(path, tmp_path, name, 0, 64, bad=np.float32(3e38).tobytes())
    message = "layer 0, .*: expected sums that float32 holds, found larger ones"
    with Run(path) as run, pytest.raises(FormatError, match=message):
        run.forward(IDS)


@pytest.mark.parametrize("count", [1, 3])
def test_what_one_sequence_meets_does_no_other_one_harm(
    tmp_path: Path, model_file: FindModel, count: int
) -> None:
    """Their rows are those that they have alone."""
    whole = model_file("moe", "int8")
    path = damaged(whole, tmp_path, "token_embd.weight", 544 - 32, bad=16 * F16_NAN)
    good = [[n + 16 + i for n in IDS[:8]] for i in range(2)]
    with Run(path, blocks=4) as run:
        tables = [BlockTable(run.pool, 1) for _ in range(3)]
        ids = [good[0], IDS[:8], good[1]]
        batch = Batch([Step(x, 0, t, count) for x, t in zip(ids, tables, strict=True)])
        rows = run.transformer.forward(batch)
        faults = run.transformer.find_faults(batch, rows)
        alone = [run.transformer.forward(Batch([Step(x, 0, run.table, count)]))[0] for x in good]
    assert list(faults) == [1]
    assert "the embeddings: expected finite weights in use" in str(faults[1])
    for i, expected in zip((0, 2), alone, strict=True):
        np.testing.assert_array_equal(rows[i], expected)
