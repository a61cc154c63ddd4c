"""GGUF files of other programs: every form gives the checkpoint that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA, MISTRAL, MIXTRAL
from fuzz.gguf_models import run as run_wrong_values
from gguf_files import (
    TOKENIZERS,
    Stored,
    metadata_of,
    sentencepiece_metadata,
    tensors_of,
    write_gguf,
)
from tiny_checkpoint import make_weights, to_f32

from cpumix.checkpoint import Checkpoint, open_checkpoint, read_config
from cpumix.checkpoint.containers.gguf import read_gguf
from cpumix.checkpoint.encodings.ggml import GGML_TYPES, dequantize
from cpumix.config.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
    yarn_attention_factor,
)
from cpumix.errors import ConfigError, ConvertError, CpumixError, FormatError
from cpumix.model import DEMO_MODEL
from cpumix.quant.bf16 import to_float32

TOKENIZER = sentencepiece_metadata((TOKENIZERS / "small.model").read_bytes())
Edit = Callable[[dict[str, Any], dict[str, Stored]], object]


def make(
    path: Path, config: dict[str, Any] = MIXTRAL, form: str = "merged", edit: Edit | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write a model of 600 tokens, after `edit`; return its path and its weights."""
    config = config | {"vocab_size": 600}
    weights = make_weights(config, seed=0)
    metadata, tensors = metadata_of(config) | TOKENIZER, tensors_of(config, weights, form)
    if edit is not None:
        edit(metadata, tensors)
    return write_gguf(path, metadata, tensors), weights


def values(checkpoint: Checkpoint, name: str) -> np.ndarray:
    tensor = checkpoint.tensors[name]
    rows = tensor.read_rows(0, tensor.shape[0])
    return to_float32(rows) if rows.dtype == np.uint16 else rows.astype(np.float32)


def check(path: Path, weights: dict[str, Any]) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == [spec.name for spec in checkpoint.config.tensors()]
    for name, bits in weights.items():
        np.testing.assert_array_equal(values(checkpoint, name), to_f32(bits), err_msg=name)
    return checkpoint


def refused(path: Path, message: str, kind: type[CpumixError] = ConvertError) -> None:
    with pytest.raises(kind, match=message):
        open_checkpoint(path)


# ---- forms that are read


@pytest.mark.parametrize("form", ["merged", "fused", "per expert"])
def test_mixture_in_any_form(tmp_path: Path, form: str) -> None:
    path, weights = make(tmp_path / "m.gguf", form=form)
    config = check(path, weights).config
    assert config.architecture == "MixtralForCausalLM"
    assert (config.num_local_experts, config.num_experts_per_tok) == (4, 2)
    assert (config.rms_norm_eps, config.rope_theta) == (1e-5, 1e6)
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2,))
    assert read_config(path) == config


@pytest.mark.parametrize("base", [MISTRAL, LLAMA], ids=["mistral", "llama"])
def test_dense_model(tmp_path: Path, base: dict[str, Any]) -> None:
    window = {"llama.attention.sliding_window": 16} if base is MISTRAL else {}
    path, weights = make(tmp_path / "m.gguf", base, edit=lambda m, _: m.update(window))
    config = check(path, weights).config
    assert config.architecture == base["architectures"][0]
    assert config.sliding_window == (16 if window else None)


def test_name_does_not_matter(tmp_path: Path) -> None:
    path, weights = make(tmp_path / "sha256-0123")
    check(path, weights)


def test_head_dim_of_its_own(tmp_path: Path) -> None:
    def edit(metadata: dict[str, Any], _: object) -> None:
        metadata["llama.attention.key_length"] = metadata["llama.attention.value_length"] = 8

    path, weights = make(tmp_path / "m.gguf", MIXTRAL | {"head_dim": 8}, edit=edit)
    assert check(path, weights).config.head_dim == 8


def test_tied_head(tmp_path: Path) -> None:
    path, _ = make(tmp_path / "m.gguf", edit=lambda _, t: t.pop("output.weight"))
    assert open_checkpoint(path).config.tie_word_embeddings


def test_values_for_each_layer_may_be_given_if_they_are_alike(tmp_path: Path) -> None:
    key = "llama.attention.head_count_kv"
    path, weights = make(
        tmp_path / "a.gguf", edit=lambda m, _: m.update({key: np.array([2, 2], np.int32)})
    )
    assert check(path, weights).config.num_key_value_heads == 2
    path, _ = make(
        tmp_path / "b.gguf", edit=lambda m, _: m.update({key: np.array([2, 4], np.int32)})
    )
    refused(path, "cpumix runs models whose layers are alike, found", ConfigError)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "IQ4_NL", "MXFP4", "F16", "F32"])
def test_types_are_read_by_rows(tmp_path: Path, name: str) -> None:
    """What a type means is in test_encoding_ggml.py; here any rows, and those of q in halves."""
    (kind,) = (kind for kind in GGML_TYPES.values() if kind.name == name)
    random = np.random.default_rng(0)

    def blocks(*shape: int) -> Stored:
        rows = random.integers(0, 60, (*shape[:-1], shape[-1] // kind.values * kind.nbytes))
        return Stored(name, shape, rows.astype(np.uint8).tobytes())

    def edit(_: object, tensors: dict[str, Stored]) -> None:
        tensors["token_embd.weight"] = blocks(600, 32)
        tensors["blk.1.attn_q.weight"] = blocks(32, 32)
        tensors["blk.1.ffn_gate_exps.weight"] = blocks(4, 24, 32)

    path, _ = make(tmp_path / "m.gguf", MIXTRAL | {"hidden_size": 32}, edit=edit)
    checkpoint = open_checkpoint(path)
    stored = read_gguf(path).tensors

    def all_rows(name: str) -> np.ndarray:
        t = stored[name]
        data = np.fromfile(path, np.uint8, t.nbytes, offset=t.offset)
        return dequantize(data.reshape(t.rows, -1), kind)

    embedding = checkpoint.tensors["token_embd.weight"]
    assert embedding.encoding == name
    np.testing.assert_array_equal(embedding.read_rows(7, 9), all_rows("token_embd.weight")[7:9])
    pairs = all_rows("blk.1.attn_q.weight").reshape(4, 4, 2, 32)
    halves = pairs.swapaxes(1, 2).reshape(32, 32)
    np.testing.assert_array_equal(
        checkpoint.tensors["blk.1.attn_q.weight"].read_rows(3, 13), halves[3:13]
    )
    expert = all_rows("blk.1.ffn_gate_exps.weight")[48:72]
    np.testing.assert_array_equal(checkpoint.tensors["blk.1.expert.2.w1"].read_rows(0, 24), expert)


# ---- split models


def split(path: Path, parts: int = 3, **changes: Any) -> tuple[list[Path], dict[str, Any]]:
    """Write a model in parts, the first without tensors."""
    whole, weights = make(path / "whole.gguf")
    config = MIXTRAL | {"vocab_size": 600}
    tensors = tensors_of(config, weights)
    paths = []
    for number in range(parts):
        some = dict(list(tensors.items())[number - 1 :: parts - 1]) if number else {}
        metadata = (metadata_of(config) | TOKENIZER) if number == 0 else {}
        metadata |= {"split.no": number, "split.count": parts, "split.tensors.count": len(tensors)}
        metadata |= changes if number == parts - 1 or "split.tensors.count" in changes else {}
        name = path / f"m-{number + 1:05}-of-{parts:05}.gguf"
        paths.append(write_gguf(name, metadata, some))
    whole.unlink()
    return paths, weights


def test_split_model_is_read_from_any_of_its_parts(tmp_path: Path) -> None:
    paths, weights = split(tmp_path)
    for path in paths:
        check(path, weights)


def test_folder_with_one_model_is_read(tmp_path: Path) -> None:
    _, weights = split(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # as many repositories of GGUF files have one
    check(tmp_path, weights)
    make(tmp_path / "other.gguf")
    refused(tmp_path, "expected a folder with one GGUF model, found 2, such as .m-00001-of-00003")


def test_split_model_with_a_part_missing_or_wrong(tmp_path: Path) -> None:
    paths, _ = split(tmp_path)
    third = paths[2].read_bytes()
    paths[2].unlink()
    refused(paths[0], "a split model has 3 parts, and this one is absent")
    paths[2].write_bytes(paths[1].read_bytes())
    refused(paths[0], "expected part 2 of 3 by its metadata")
    paths[2].write_bytes(third)
    alone = paths[0].rename(tmp_path / "alone.gguf")
    refused(alone, "one of 3 parts of a split model: expected a name that ends in -00001-of-00003")


def test_split_model_with_other_numbers(tmp_path: Path) -> None:
    paths, _ = split(tmp_path / "a", **{"split.tensors.count": 99})
    refused(paths[0], r"expected \d+ tensors in \d parts, found")
    paths, _ = split(tmp_path / "b")
    again = read_gguf(paths[0]).tensors["token_embd.weight"]
    data = np.fromfile(again.path, np.uint8, again.nbytes, offset=again.offset).tobytes()
    tensor = Stored("BF16", again.shape, data)
    part = {"split.no": 2, "split.count": 3}
    write_gguf(paths[2], part, {"token_embd.weight": tensor})
    refused(paths[0], 'tensor "token_embd.weight": expected it in one part of a split model')


# ---- what llama.cpp has for rotations


def llama3_factors(head_dim: int, theta: float, original: int = 8192) -> np.ndarray:
    """Return the factors as llama.cpp's converter computes them, one by one."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * theta ** (i / head_dim)
        if wavelength < original / 4:
            factors.append(1.0)
        elif wavelength > original / 1:
            factors.append(8.0)
        else:
            smooth = (original / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(factors, np.float32)


def with_factors(factors: np.ndarray) -> Edit:
    tensor = Stored("F32", factors.shape, factors.astype(np.float32).tobytes())
    return lambda m, t: (
        t.update({"rope_freqs.weight": tensor}),
        m.update({"llama.rope.freq_base": 5e5}),
    )


def test_factors_of_llama_3_become_its_rope_scaling(tmp_path: Path) -> None:
    config = LLAMA | {"head_dim": 64, "hidden_size": 64}
    lengths = {"llama.attention.key_length": 64, "llama.rope.dimension_count": 64}

    def edit(metadata: dict[str, Any], tensors: dict[str, Stored]) -> None:
        with_factors(llama3_factors(64, 5e5))(metadata, tensors)
        metadata.update(lengths)

    path, weights = make(tmp_path / "m.gguf", config, edit=edit)
    scaling = check(path, weights).config.rope_scaling
    assert scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, LinearScaling(4.0)),
        ({"rope.scaling.factor": 4.0}, LinearScaling(4.0)),  # linear unless it says otherwise
        ({"rope.scale_linear": 2.0}, LinearScaling(2.0)),  # files of 2023
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 2.0,
                "rope.scaling.original_context_length": 32,
                "rope.scaling.finetuned": True,
            },
            YarnScaling(2.0, 32, 32.0, 1.0, yarn_attention_factor(2.0, None, None), True),
        ),
    ],
)
def test_rope_is_stretched_as_the_metadata_say(
    tmp_path: Path, given: dict[str, Any], expected: RopeScaling | None
) -> None:
    path, weights = make(
        tmp_path / "m.gguf", edit=lambda m, _: m.update({f"llama.{k}": v for k, v in given.items()})
    )
    assert check(path, weights).config.rope_scaling == expected


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            np.array([2, 3], np.float32),
            "cpumix runs the slowed rotations of Llama 3.1, found other",
        ),
        (np.array([0, np.nan], np.float32), "found other factors, from nan to nan"),
        (np.ones(5, np.float32), r"rope_freqs.weight: expected 2 numbers in F32, found \(5,\)"),
    ],
)
def test_other_factors_are_refused(tmp_path: Path, factors: np.ndarray, message: str) -> None:
    path, _ = make(tmp_path / "m.gguf", LLAMA, edit=with_factors(factors))
    refused(path, message, ConfigError)


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.type": "imatrix"}, r"found an importance matrix, .* \(imatrix\)"),
        ({"general.type": "adapter"}, "found a LoRA adapter"),
        ({"general.type": "mmproj"}, "found the image part of a model"),
        ({"general.architecture": "clip"}, "found the image part of a model"),
        ({"general.architecture": "gemma3"}, 'cpumix runs GGUF files of .* found "gemma3"'),
        ({"llama.embedding_length": None}, "expected the GGUF key llama.embedding_length"),
        (
            {"llama.attention.value_length": 8},
            "cpumix runs models where that is head_dim 4, found 8",
        ),
        ({"llama.rope.dimension_count": 2}, "cpumix runs models where that is head_dim 4, found 2"),
        ({"llama.rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor.: a GGUF key unknown"),
        ({"llama.logit_scale": 2.0}, 'llama.logit_scale": a GGUF key unknown to cpumix'),
        ({"llama.rope.scaling.type": "longrope"}, "rope_scaling: cpumix runs the types"),
        ({"llama.block_count": 0}, "num_hidden_layers: expected a positive whole number"),
        ({"llama.expert_count": "two"}, "llama.expert_count"),
        ({"llama.block_count": "two"}, "num_hidden_layers: expected a positive whole number"),
    ],
)
def test_other_models_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    def edit(metadata: dict[str, Any], _: object) -> None:
        metadata.update(changes)
        for key, value in changes.items():
            if value is None:
                del metadata[key]

    path, _ = make(tmp_path / "m.gguf", edit=edit)
    refused(path, message, ConfigError)


def test_model_file_of_our_own_is_refused() -> None:
    refused(DEMO_MODEL, "expected a checkpoint, found a model file that cpumix wrote")


def test_vocabulary_alone_is_refused(tmp_path: Path) -> None:
    path, _ = make(tmp_path / "m.gguf", edit=lambda _, t: t.clear())
    refused(path, "expected the weights of a model, found only a vocabulary", ConfigError)


def test_unknown_tensor_is_refused(tmp_path: Path) -> None:
    extra = {"blk.0.attn_q.bias": Stored("F32", (16,), bytes([1] * 64))}
    path, _ = make(tmp_path / "m.gguf", edit=lambda _, t: t.update(extra))
    refused(path, 'tensor "blk.0.attn_q.bias": a name unknown to')


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("Q8_0", (600, 16), "expected rows of a multiple of 32 numbers in type Q8_0, found 16"),
        ("no type", (600, 16), "expected one of the types F32, .* found number 4294967295"),
    ],
)
def test_tensor_of_a_wrong_type_is_refused(
    tmp_path: Path, kind: str, shape: tuple[int, ...], message: str
) -> None:
    wrong = {"token_embd.weight": Stored(kind, shape, bytes(64))}
    path, _ = make(tmp_path / "m.gguf", edit=lambda _, t: t.update(wrong))
    refused(path, message)


def test_tensor_of_a_type_of_activations_is_named(tmp_path: Path) -> None:
    path, _ = make(tmp_path / "m.gguf", LLAMA)
    data = path.read_bytes()
    name = b"token_embd.weight"
    at = data.index(name) + len(name) + 4 + 16
    path.write_bytes(data[:at] + (15).to_bytes(4, "little") + data[at + 4 :])
    refused(path, "found Q8_K. Get a file of another quantization")


def test_file_cut_off_is_refused(tmp_path: Path) -> None:
    path, _ = make(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:-64])
    refused(path, "the file is cut off: expected at least")


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    path, _ = make(tmp_path / "m.gguf")
    model = read_gguf(path)
    first, second = list(model.tensors.values())[:2]
    start = first.offset
    data = path.read_bytes()
    place = (second.offset - start).to_bytes(8, "little")
    at = data.index(place, data.index(b"blk.0.attn_norm.weight"))
    path.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    refused(path, "expected it after byte .* where tensor .* ends, found it at byte")


@pytest.mark.parametrize(
    ("data", "message", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "found a git-lfs pointer", ConvertError),
        (b"<html>not found</html>", 'expected "GGUF" in the first 4 bytes', FormatError),
        (b"GGUF\0\0\0\3" + bytes(99), "found a big-endian file", FormatError),
        (b"GGUF\1\0\0\0" + bytes(99), "found version 1", FormatError),
    ],
)
def test_other_files_are_refused_by_name(
    tmp_path: Path, data: bytes, message: str, kind: type[CpumixError]
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    refused(path, message, kind)


def test_random_damage_is_refused_or_read(tmp_path: Path) -> None:
    """Whatever the bytes of the header, a checkpoint opens or a sentence says why not."""
    whole, _ = make(tmp_path / "whole.gguf")
    original, end = whole.read_bytes(), min(t.offset for t in read_gguf(whole).tensors.values())
    random = np.random.default_rng(5)
    path = tmp_path / "m.gguf"
    opened = 0
    interesting = [0, 1, 2, 3, 4, 7, 8, 9, 30, 39, 127, 128, 255]
    starts = [original.index(b"llama.block_count") - 400, original.index(b"blk.0.attn_norm") - 60]
    for _ in range(150):
        data = bytearray(original)
        for _ in range(random.integers(1, 5)):
            near = int(random.choice([0, 24, *starts]))
            at = min(near + int(random.integers(0, 900)), end - 1)
            data[at] = random.choice([*interesting, random.integers(0, 256)])
        path.write_bytes(data if random.random() < 0.8 else data[: random.integers(0, len(data))])
        try:
            open_checkpoint(path)
            opened += 1
        except CpumixError:
            pass
    assert opened < 150


def test_wrong_values_in_metadata_are_refused_or_read(tmp_path: Path) -> None:
    """A bounded run of tools/fuzz/gguf_models.py."""
    assert 0 < run_wrong_values(400, 1, tmp_path) < 400
