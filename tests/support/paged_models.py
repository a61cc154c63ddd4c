"""Models that page: small ones whose experts have many pages, and room that a test decides."""

from __future__ import annotations

from pathlib import Path

from configs import model_config
from make_checkpoint import synthetic_tokenizer

from cpumix.config import ModelConfig
from cpumix.experts import Budget, ExpertPager, madvise
from cpumix.experts.region import MappedRegion
from cpumix.measure.random_model import write_random_model
from cpumix.model import Model
from cpumix.store import ModelFile

LAYERS, EXPERTS, ACTIVE = 3, 8, 2


def small_config(hidden: int = 256, inner: int = 1024, vocab: int = 384) -> ModelConfig:
    """Mixtral's shape, narrower and lower: an expert is 432 KiB at int4."""
    return model_config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=LAYERS,
        num_local_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
        head_dim=64,
        max_position_embeddings=4096,
    )


def write_paged(path: Path, config: ModelConfig | None = None) -> Path:
    """Write such a model, int4, with random weights that route evenly."""
    config = config or small_config()
    tokenizer = {"tokenizer.model": synthetic_tokenizer(config.vocab_size)}
    write_random_model(path, config, "int4", tokenizer)
    return path


class Room(Budget):
    """So many bytes for experts, whatever else the process takes."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(ceiling=nbytes, least=0)

    def room(self, resident: int, tokens: int, full: float) -> int:
        return self.ceiling


def expert_bytes(model: Model) -> int:
    return model.file.tensors["blk.0.expert.0"].nbytes


def page(
    model: Model,
    experts: float | None,
    *,
    predict: bool = True,
    platform: madvise.Platform | None = None,
) -> ExpertPager:
    """Load a model again with room for so many experts, all if None, and return its pager."""
    room = None if experts is None else Room(int(experts * expert_bytes(model)))

    def make_pager(file: ModelFile, budget: Budget | None, *, low_copies: bool) -> ExpertPager:
        return ExpertPager(file, room, predict=predict, low_copies=low_copies, platform=platform)

    model.close()
    again = {"context": model.context, "kv": model.kv, "threads": model.threads}
    model.__init__(model.file.path, **again, make_pager=make_pager)
    return model._engine.pager


class Recorder:
    """A platform that does what this system's does, and writes down what it was asked for."""

    def __init__(self) -> None:
        self.brought: list[tuple[int, int]] = []
        self.given_back: list[tuple[int, int]] = []
        self.platform = madvise.Platform(self._bring, self._give_back)

    def _bring(self, address: int, nbytes: int) -> None:
        self.brought.append((address, nbytes))
        madvise.this_platform().bring(address, nbytes)

    def _give_back(self, fd: int, offset: int, address: int, nbytes: int) -> None:
        self.given_back.append((offset, nbytes))
        madvise.this_platform().give_back(fd, offset, address, nbytes)


def share_in_memory(region: MappedRegion, offset: int, nbytes: int) -> float:
    return 1 - region.missing(offset, nbytes) / nbytes
