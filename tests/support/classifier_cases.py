"""The classifiers on which cpumix is compared with transformers, and the golden files of answers.

A case is a config and a seed, as in oracle_cases.py. `data/classifiers/NAME.npz` has what
transformers computed in float32 from the bfloat16 weights, written by tools/record_classifiers.py:

    tokens       the texts' ids, one after the other (int32)
    lengths      of the texts
    logits       (paddings, texts, labels) float32: alone, padded on the right, padded on the left
    mean, last   (texts, hidden_size) float32: hidden states after the last norm, the mean of all
                 tokens' and the last one's
    weights      CRC-32 of the weights
    made_by      versions of transformers and torch
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import write_checkpoint
from numpy.typing import NDArray
from oracle_cases import FIRST_TEXT_ID, LLAMA, MISTRAL, MIXTRAL, QWEN3_MOE
from tiny_checkpoint import Bits, make_weights

GOLDEN_FOLDER = Path(__file__).parents[1] / "data" / "classifiers"
PADDINGS = ("alone", "right", "left")
LENGTHS = (1, 2, 5, 17, 64, 65, 150)  # around the blocks of 64 positions of the KV cache
PAD = 3  # a token like others: a text may end with it


def classifier(config: Mapping[str, Any], labels: list[str], **changes: Any) -> dict[str, Any]:
    """Return the config.json of a classifier like a model that writes."""
    (name,) = config["architectures"]
    return {
        **config,
        "architectures": [name.replace("ForCausalLM", "ForSequenceClassification")],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "pad_token_id": PAD,
        **changes,
    }


MOODS = classifier(MIXTRAL, ["calm", "glad", "sad"])


@dataclass(frozen=True)
class Case:
    """A model to compare."""

    name: str
    seed: int  # one whose router makes no narrow choice; the tool refuses others
    config: Mapping[str, Any]

    def weights(self) -> dict[str, Bits]:
        """Return the weights as bfloat16 bits, by canonical name."""
        return make_weights(self.config, self.seed)

    def texts(self) -> list[list[int]]:
        """Return texts of all lengths, and one that ends with what padding is made of."""
        texts = []
        for length in LENGTHS:
            raw = np.random.PCG64(zlib.crc32(f"{self.seed} text {length}".encode()))
            count = self.config["vocab_size"] - FIRST_TEXT_ID - 1
            ids = raw.random_raw(length) % np.uint64(count) + np.uint64(FIRST_TEXT_ID + 1)
            texts.append([1, *ids.tolist()[1:]])
        return [*texts, [*texts[3], PAD, PAD]]

    def write(self, folder: Path) -> Path:
        """Write the checkpoint, with a made-up tokenizer, and return its folder."""
        write_checkpoint(folder, self.config, weights=self.weights())
        return folder


CASES = [
    Case("mixtral-3", 1, MOODS),
    Case(
        "mistral-window-2",
        2,
        classifier(MISTRAL, ["no", "yes"], sliding_window=24),
    ),
    Case("llama-regression", 3, classifier(LLAMA, ["LABEL_0"], problem_type="regression")),
    Case(
        "qwen3-moe-multi-5",
        4,
        classifier(QWEN3_MOE, list("abcde"), problem_type="multi_label_classification"),
    ),
]


@dataclass(frozen=True)
class Golden:
    """What transformers answered for a case; the fields are those of the file."""

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    logits: NDArray[np.float32]
    mean: NDArray[np.float32]
    last: NDArray[np.float32]
    weights: NDArray[np.uint32]
    made_by: NDArray[np.str_]

    @classmethod
    def load(cls, name: str) -> Golden:
        """Read the golden file of a case."""
        with np.load(GOLDEN_FOLDER / f"{name}.npz") as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def save(self, name: str) -> None:
        """Write the golden file of a case."""
        GOLDEN_FOLDER.mkdir(parents=True, exist_ok=True)
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(GOLDEN_FOLDER / f"{name}.npz", **arrays)

    @property
    def texts(self) -> list[list[int]]:
        """The texts by their ids."""
        parts = np.split(self.tokens, np.cumsum(self.lengths)[:-1])
        return [part.tolist() for part in parts]


def relative_rms(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Return the root of the summed squares of differences over those of what was expected."""
    difference = found.astype(np.float64) - expected
    return float(np.sqrt(np.mean(difference**2) / np.mean(expected.astype(np.float64) ** 2)))
