"""Says what is in a model file or checkpoint, from headers alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from cpumix.input_file import regular

from .checkpoint import Checkpoint, open_checkpoint
from .checkpoint.open import find_source_name
from .checkpoint.sources.side_files import is_tokenizer
from .config import NORMS, ModelConfig, Role, TensorSpec
from .memory.planner import default_context, make_plan
from .memory.side_bytes import count_side_bytes, foresee_side_bytes
from .quant.precision import PRECISIONS
from .store import ModelFile
from .store.layout import is_model_file
from .tokenizer.settings import TokenizerSettings

MODEL_FILE = "model file"
_COPIES = "low copies"
_GROUPS = {  # what is neither an expert nor attention, in the order of the table
    Role.EMBEDDING: "embedding",
    Role.OUTPUT: "output",
    Role.SCORE: "score head",
    Role.ROUTER: "routers",
    **dict.fromkeys(NORMS, "norms"),
    Role.LOW_COPY: _COPIES,
}


@dataclass
class Amount:
    """How much of something there is."""

    tensors: int = 0
    weights: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Facts:
    """What a model file or checkpoint holds."""

    path: Path
    source: str
    """"model file", or a name in `checkpoint.sources.SOURCES`."""
    precision: str | None
    """Of a model file."""
    config: ModelConfig
    nbytes: int
    """Of a model file, or of a checkpoint's weights."""
    groups: dict[str, dict[str, Amount]]
    """By what tensors are for, and by format or encoding."""
    tokenizer: str
    """What it is: a GGUF file's own, or the names of its files."""
    files: dict[str, int]
    """Bytes of the tokenizer's files, by name; none for a GGUF file, which has it inside."""
    templates: list[str]
    """Names of the chat templates."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes that a run takes at the default context, by precision."""

    @property
    def weights(self) -> int:
        """How many there are."""
        groups = (group for name, group in self.groups.items() if name != _COPIES)
        return sum(a.weights for group in groups for a in group.values())

    @property
    def active_weights(self) -> int:
        """How many one token is multiplied with, or looked up."""
        config = self.config
        inner = sum(amount.weights for amount in self.groups[_inner(config)].values())
        return self.weights - inner + inner * config.num_experts_per_tok // config.num_local_experts

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        formats: dict[str, Amount] = {}
        for group in self.groups.values():
            for name, amount in group.items():
                whole = formats.setdefault(name, Amount())
                whole.tensors += amount.tensors
                whole.weights += amount.weights
                whole.bytes += amount.bytes
        return {
            "path": str(self.path),
            "source": self.source,
            "precision": self.precision,
            "file_bytes": self.nbytes,
            "parameters": {"total": self.weights, "active": self.active_weights},
            "formats": {name: vars(amount) for name, amount in formats.items()},
            "groups": {
                group: {name: vars(amount) for name, amount in kinds.items()}
                for group, kinds in self.groups.items()
            },
            "tokenizer": self.tokenizer,
            "files": self.files,
            "chat_templates": self.templates,
            "memory": {"context": default_context(self.config), "bytes": self.memory},
            "config": json.loads(self.config.to_json()),
        }


def inspect(path: Path) -> Facts:
    """Return what lies at a path: a model file, or a checkpoint in any form that `convert` takes.

    Reads headers and small files, never weights. Raises FormatError, ConvertError or ConfigError
    for what is damaged or none of these.
    """
    if not path.is_dir() and not _is_foreign(path):
        return _of_model_file(path)
    return _of_checkpoint(path, open_checkpoint(path))


def _inner(config: ModelConfig) -> str:
    """Name the group of w1, w3 and w2."""
    return "experts" if config.is_moe else "feed-forward"


def _is_foreign(path: Path) -> bool:
    """Whether a file is a checkpoint."""
    if find_source_name(path) is None:
        return False
    with open(path, "rb", opener=regular) as file:
        return not is_model_file(file.read(64))


def _of_model_file(path: Path) -> Facts:
    with ModelFile(path) as file:
        config = file.config
        amounts = ((t.spec, t.format, t.nbytes) for t in file.tensors.values())
        side = count_side_bytes(file.files, config.vocab_size)
        plan = make_plan(config, file.formats, default_context(config), 1, side=side)
        return Facts(
            path,
            MODEL_FILE,
            file.precision,
            config,
            file.mapped_bytes,
            _group(config, amounts),
            _tokenizer_files(file.files),
            {name: len(data) for name, data in file.files.items()},
            list(TokenizerSettings.from_files(file.files).templates),
            {file.precision: plan.total_bytes},
        )


def _of_checkpoint(path: Path, checkpoint: Checkpoint) -> Facts:
    config = checkpoint.config
    context = default_context(config)
    side = foresee_side_bytes(checkpoint.files, config.vocab_size)
    parts = ((t.spec, t.encoding, t.nbytes) for t in checkpoint.tensors.values())
    return Facts(
        path,
        find_source_name(path) or "",
        None,
        config,
        checkpoint.source_bytes,
        _group(config, parts),
        checkpoint.vocabulary or _tokenizer_files(checkpoint.files),
        {}
        if checkpoint.vocabulary
        else {name: len(data) for name, data in checkpoint.files.items()},
        list(TokenizerSettings.from_files(checkpoint.files).templates),
        {name: make_plan(config, name, context, 1, side=side).total_bytes for name in PRECISIONS},
    )


def _tokenizer_files(files: Iterable[str]) -> str:
    return ", ".join(name for name in files if is_tokenizer(name))


def _group(
    config: ModelConfig, tensors: Iterable[tuple[TensorSpec, str, int]]
) -> dict[str, dict[str, Amount]]:
    """Add tensors up by what they are for and how they are stored."""
    inner = _inner(config)
    groups: Mapping[str, dict[str, Amount]] = {
        name: {} for name in (inner, "attention", *_GROUPS.values())
    }
    for spec, kind, nbytes in tensors:
        is_inner = spec.expert is not None and spec.role not in _GROUPS
        group = inner if is_inner else _GROUPS.get(spec.role, "attention")
        amount = groups[group].setdefault(kind, Amount())
        amount.tensors += 1
        amount.weights += prod(spec.shape)
        amount.bytes += nbytes
    return {name: kinds for name, kinds in groups.items() if kinds}
