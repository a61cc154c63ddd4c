"""Settings files with strange values: each is refused in one sentence, or changes nothing.

Every field that is read is given every kind of value that JSON can have.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import MIXTRAL, write_checkpoint, write_shard
from test_lora import Q, random, write_peft
from test_quantized_sources import FORMS
from test_quantized_sources import write as write_quantized
from test_sources import write as write_mistral

from cpumix.checkpoint import merge_adapter, open_checkpoint
from cpumix.errors import CpumixError

pytestmark = pytest.mark.slow

STRANGE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2.5, 1e308, 10**400, -(10**30), float("nan"), float("inf")),
    *("", "4", "\n\x1b[31m", "x" * 500, "9" * 5000, [], [1], [[]], {}, {"a": [None]}, [2, "4"]),
)


def check(folder: Path, edits: list[tuple[str, Any]], read: Callable[[Path], object]) -> None:
    """Give a JSON file each edit in turn; expect an error that is one clean line, or none."""
    for file, change in edits:
        path = folder / file
        before = path.read_text()
        path.write_text(json.dumps(change))
        try:
            read(folder)
        except CpumixError as error:
            text = str(error).replace(str(folder), "")
            assert text.isprintable() and len(text) < 1500, (change, text)
        finally:
            path.write_text(before)


def edits(path: Path, *fields: str) -> list[tuple[str, Any]]:
    """Return the contents of a JSON file with each field changed; "a.b" is a field of a field."""
    found: list[tuple[str, Any]] = [(path.name, value) for value in STRANGE]
    for field in fields:
        for value in STRANGE:
            content = json.loads(path.read_text())
            *outer, last = field.split(".")
            inner = content
            for name in outer:
                inner = inner.setdefault(name, {})
            inner[last] = value
            found.append((path.name, content))
    return found


def read_all(folder: Path) -> None:
    """Open a checkpoint and read some rows of each tensor."""
    for tensor in open_checkpoint(folder).tensors.values():
        tensor.read_rows(0, min(2, tensor.shape[0]))


@pytest.mark.parametrize("form", ["gptq", "awq", "mlx", "compressed-tensors", "gptq-file"])
def test_quantization(tmp_path: Path, form: str) -> None:
    write_quantized(tmp_path, form)
    own = "model.layers.0.self_attn.q_proj"
    names = ("bits", "group_size", "sym", "checkpoint_format", "format", "version", "w_bit", "mode")
    names += ("quant_method", "config_groups", "weight_block_size", own.replace(".", "/"))
    _, fields, files = FORMS[form]
    prefix = "quantization." if "quantization" in fields else "quantization_config."
    path = tmp_path / next(iter(files), "config.json")
    prefix = "" if files else prefix
    whole = ["quantization", "quantization_config"]
    check(tmp_path, edits(path, *(prefix + name for name in names), *whole), read_all)


def test_params(tmp_path: Path) -> None:
    write_mistral(tmp_path, "pth")
    names = ("dim", "n_layers", "head_dim", "hidden_dim", "n_heads", "n_kv_heads", "norm_eps")
    names += ("vocab_size", "rope_theta", "sliding_window", "moe", "moe.num_experts", "max_seq_len")
    names += ("moe.num_experts_per_tok", "quantization", "new\n\x1b[31mline")
    check(tmp_path, edits(tmp_path / "params.json", *names), read_all)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # factors that overflow, as they may
def test_adapters(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", MIXTRAL)
    base = open_checkpoint(tmp_path / "base")

    def merge(folder: Path) -> None:
        merged = merge_adapter(base, folder, 1.0)
        merged.tensors["blk.0.attn_q.weight"].read_rows(0, 3)

    parts = {f"{Q}.lora_A.weight": random(3, 16), f"{Q}.lora_B.weight": random(16, 3)}
    folder = write_peft(tmp_path / "peft", parts)
    names = ("peft_type", "lora_alpha", "r", "use_rslora", "alpha_pattern", "alpha_pattern.q_proj")
    names += ("init_lora_weights", "rank_pattern", "lora_bias", "layer_replication", "use_dora")
    check(folder, edits(folder / "adapter_config.json", *names), merge)
    (folder := tmp_path / "mlx").mkdir()
    write_shard(
        folder / "adapters.safetensors",
        {f"{Q}.lora_a": random(16, 3), f"{Q}.lora_b": random(3, 16)},
    )
    settings = {"fine_tune_type": "lora", "lora_parameters": {"scale": 2.0}}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    names = ("fine_tune_type", "lora_parameters", "lora_parameters.scale")
    check(folder, edits(folder / "adapter_config.json", *names), merge)


def test_adapter_of_rank_zero(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", MIXTRAL)
    parts = {
        f"{Q}.lora_A.weight": np.zeros((0, 16), np.float32),
        f"{Q}.lora_B.weight": np.zeros((16, 0), np.float32),
    }
    folder = write_peft(tmp_path / "peft", parts, use_rslora=True)
    with pytest.raises(CpumixError, match="expected two factors for"):
        merge_adapter(open_checkpoint(tmp_path / "base"), folder)


def test_index(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, MIXTRAL, shards=2)
    path = tmp_path / "model.safetensors.index.json"
    names = ("weight_map", "metadata", "weight_map.model/norm/weight")
    check(tmp_path, edits(path, *names), read_all)
