"""Names on the hub, and which files of a repository are needed."""

from __future__ import annotations

import pytest

from cpumix.errors import ConvertError
from cpumix.hub import HubFile, HubName, choose_files, parse_name

# ---- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", HubName("mistralai/Mixtral-8x7B-v0.1", None, None)),
        ("a/b@refs/pr/3", HubName("a/b", None, "refs/pr/3")),
        ("TheBloke/x-GGUF/x.Q4_K_M.gguf", HubName("TheBloke/x-GGUF", "x.Q4_K_M.gguf", None)),
        ("a/b/c.gguf@main", HubName("a/b", "c.gguf", "main")),
        ("folder", None),
        ("/tmp/a/b", None),
        ("../a", None),
        ("a/../b.gguf", None),
        ("a/b/c", None),
        ("./a/b", None),
    ],
)
def test_names(text: str, name: HubName | None) -> None:
    assert parse_name(text) == name


# ---- which files are needed


def files(**sizes: int) -> list[HubFile]:
    return [HubFile(name.replace("__", "/"), size) for name, size in sizes.items()]


SIDE = {
    "config.json": 1,
    "tokenizer.model": 1,
    "README.md": 9,
    "additional_chat_templates/a.jinja": 1,
}
WHOLE = {
    "model-00001-of-00002.safetensors": 60,
    "model-00002-of-00002.safetensors": 40,
    "model.safetensors.index.json": 1,
}
BIN = {"pytorch_model.bin": 100, "training_args.bin": 1}
NEEDED = {"config.json", "tokenizer.model", "additional_chat_templates/a.jinja"}


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [
        (WHOLE, WHOLE.keys()),
        (WHOLE | BIN, WHOLE.keys()),
        (WHOLE | {"pytorch_model.bin": 50}, {"pytorch_model.bin"}),  # half as many bits
        (WHOLE | {"consolidated.safetensors": 100, "params.json": 1}, {*WHOLE, "params.json"}),
        (
            {"consolidated.00.pt": 3, "consolidated.01.pt": 3},
            {"consolidated.00.pt", "consolidated.01.pt"},
        ),
        ({"weights.0.npz": 5, "onnx/model.onnx": 3}, {"weights.0.npz"}),
        ({"model.safetensors": 9, "extra.safetensors": 9}, {"model.safetensors"}),
        ({"original/consolidated.00.pth": 1} | BIN, {"pytorch_model.bin"}),
        (WHOLE | {"model.Q4_0.gguf": 20}, WHOLE.keys()),  # another model's numbers
    ],
)
def test_smallest_sufficient_set(sizes: dict[str, int], weights: set[str]) -> None:
    listed = [HubFile(name, size) for name, size in (SIDE | sizes).items()]
    assert set(choose_files(listed, None, "a/b")) == set(weights) | NEEDED


def test_models_of_gguf() -> None:
    one = files(**{"x.Q4_0.gguf": 5, "mmproj-x.gguf": 1, "x.imatrix.gguf": 1, "README.md": 1})
    assert choose_files(one, None, "a/b") == ["x.Q4_0.gguf"]
    parts = [f"x.Q8_0-{i:05}-of-00002.gguf" for i in (1, 2)]
    two = one + [HubFile(part, 9) for part in parts]
    assert choose_files(two, parts[0], "a/b") == parts
    with pytest.raises(ConvertError, match=r"found 2 GGUF models, such as .* ORG/NAME/FILE\.gguf"):
        choose_files(two, None, "a/b")
    with pytest.raises(ConvertError, match=r'expected the file "y\.gguf" in "a/b", found none'):
        choose_files(two, "y.gguf", "a/b")
    with pytest.raises(ConvertError, match=r"expected one checkpoint in .* Name another rep"):
        choose_files(files(**{"README.md": 1}), None, "a/b")
