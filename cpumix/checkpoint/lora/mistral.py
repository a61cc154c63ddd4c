"""Adapters of mistral-finetune: lora.safetensors, with Mistral's names and order of rows.

layers.L.attention.wq.lora_A.weight (rank, columns), lora_B.weight (rows, rank): W += 2 * B A. The
factor is a setting of training that the file does not have; 2 is what it is unless changed.
Source: https://github.com/mistralai/mistral-inference, src/mistral_inference/lora.py.
"""

from __future__ import annotations

from pathlib import Path

from cpumix.config import ModelConfig

from ..containers import read_tensors
from ..encodings.plain import PlainMatrix
from ..namings import mistral as namings
from ..namings.places import Pairs
from ..views import HalfSplit, View
from .adapter import Adapter, by_module, find_targets, low_rank, unknown
from .low_rank import LowRank

FILE = "lora.safetensors"
SCALE = 2.0
_SUFFIXES = {"lora_A.weight": "A", "lora_B.weight": "B"}


def claims(folder: Path) -> bool:
    """Whether this is an adapter of mistral-finetune."""
    return (folder / FILE).exists()


def read(folder: Path, config: ModelConfig, scale: float) -> Adapter:
    """Return what an adapter changes in a model, times `scale`."""
    path = folder / FILE
    stored = read_tensors(path)
    naming = namings.PER_EXPERT if config.is_moe else namings.DENSE
    targets = find_targets(config, [naming])
    added: dict[str, LowRank] = {}
    for module, parts in by_module(stored, _SUFFIXES):
        if module not in targets or parts.keys() != {"A", "B"}:
            raise unknown(module, path)
        spec, place = targets[module][0]
        up, down = PlainMatrix(parts["B"]), PlainMatrix(parts["A"])
        rows = HalfSplit(up, config.head_dim) if isinstance(place, Pairs) else View(up)
        added[spec.name] = low_rank(rows, down, SCALE * scale, spec.name, spec.shape)
    return Adapter(path, added)
