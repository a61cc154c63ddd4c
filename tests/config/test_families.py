"""A family of known traits takes one file and one row, and everything knows it then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from make_checkpoint import synthetic_tokenizer
from oracle_cases import MIXTRAL
from tiny_checkpoint import huggingface_names

import cpumix
from cpumix.config import FAMILIES, Family, ModelConfig, Role, TensorNames
from cpumix.config.families import mixtral
from cpumix.measure.random_model import write_random_model
from cpumix.store import ModelFile

_LAYER = "decoder.{layer}."
# What would stand in cpumix/config/families/toy.py.
TOY = Family(
    "ToyForCausalLM",
    "toy",
    mixtral.FIELDS | {"rms_norm_eps": 1e-6},
    (
        TensorNames(
            {
                Role.EMBEDDING: "tokens",
                Role.ATTN_NORM: _LAYER + "norm_1",
                Role.WQ: _LAYER + "query",
                Role.WK: _LAYER + "key",
                Role.WV: _LAYER + "value",
                Role.WO: _LAYER + "out",
                Role.FFN_NORM: _LAYER + "norm_2",
                Role.ROUTER: _LAYER + "gate",
                Role.W1: _LAYER + "experts.{expert}.gate",
                Role.W3: _LAYER + "experts.{expert}.up",
                Role.W2: _LAYER + "experts.{expert}.down",
                Role.OUTPUT_NORM: "norm",
                Role.OUTPUT: "head",
            }
        ),
    ),
    {"toy-1b": {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 8}},
    gguf="toy",
)
CONFIG = MIXTRAL | {"architectures": ["ToyForCausalLM"], "model_type": "toy"}


@pytest.fixture
def toy(monkeypatch):
    """Add the row of `FAMILIES`."""
    monkeypatch.setitem(FAMILIES, TOY.architecture, TOY)
    return TOY


def test_each_family_is_under_its_own_name():
    assert all(family.architecture == name for name, family in FAMILIES.items())
    assert len({family.model_type for family in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_every_tensor_has_a_name_in_every_naming(family):
    config = ModelConfig.from_huggingface({"model_type": family.model_type}, "config.json")
    roles = {spec.role for spec in config.tensors()}
    for names in family.names:
        assert roles <= names.by_role.keys()
    for name, fields in family.models.items():
        shape = {"model_type": family.model_type, **fields}
        assert ModelConfig.from_huggingface(shape, name).architecture == family.architecture


def test_a_toy_family_is_read_from_its_config(toy):
    config = ModelConfig.from_huggingface({"model_type": "toy"}, "config.json")
    assert config.family is toy
    assert (config.rms_norm_eps, config.num_local_experts) == (1e-6, 8)
    assert ModelConfig.from_json(config.to_json()) == config


def test_a_toy_checkpoint_runs_as_its_weights_say(toy, tmp_path):
    weights = write_checkpoint(known := tmp_path / "mixtral", MIXTRAL, seed=1)
    names = {}
    config = ModelConfig.from_huggingface(CONFIG, "config.json")
    canonical = huggingface_names({name: name for name in weights}, fused=False)
    theirs = {ours: name for name, ours in canonical.items()}
    for spec in config.tensors():
        of_role = toy.names[0].by_role[spec.role]
        names[theirs[spec.name]] = of_role.format(layer=spec.layer, expert=spec.expert)
    strange = rename(known, tmp_path / "toy", names)
    logits = []
    for folder in (known, strange):
        cpumix.convert(folder, target := tmp_path / f"{folder.name}.bin", "int8")
        with cpumix.load(target) as model:
            logits.append(model.logits(range(3, 40)))
    assert (logits[0] == logits[1]).all()
    with ModelFile(target) as file:
        assert file.metadata["general.architecture"] == "toy"
        assert file.metadata["toy.expert_count"] == MIXTRAL["num_local_experts"]


def rename(folder: Path, target: Path, names: dict[str, str]) -> Path:
    """Copy a checkpoint of one shard with other names of tensors and another architecture."""
    target.mkdir()
    for path in folder.iterdir():
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])
            text = json.dumps({names.get(name, name): at for name, at in header.items()}).encode()
            data = len(text).to_bytes(8, "little") + text + data[8 + size :]
        (target / path.name).write_bytes(data)
    (target / "config.json").write_text(json.dumps(CONFIG))
    return target


def test_a_toy_model_of_random_weights_runs(toy, tmp_path):
    config = ModelConfig.from_huggingface(CONFIG, "config.json")
    files = {"tokenizer.model": synthetic_tokenizer(MIXTRAL["vocab_size"])}
    write_random_model(path := tmp_path / "toy.bin", config, "int4", files)
    with cpumix.load(path) as model:
        assert model.logits(range(3, 40)).shape == (37, MIXTRAL["vocab_size"])
        assert len(list(model.generate_ids([1, 5], 8, temperature=0.0, stop=()))) == 8
