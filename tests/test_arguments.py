"""Python arguments of the wrong kind are refused in a sentence; names and dicts can be planned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CONFIGS, write_model

import cpumix
from cpumix.errors import ConfigError
from cpumix.fit.known_models import known_model
from cpumix.model import Model


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), CONFIGS["moe"])


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with cpumix.load(path, context=64, threads=1) as model:
        yield model


NO_IDS = [[[1, 2]], np.ones((2, 2), int), [1.5, 2.0], [1, 2.0], "text", ["a"], [True], 7, None]


@pytest.mark.parametrize("ids", NO_IDS, ids=repr)
@pytest.mark.parametrize("method", ["logits", "advance", "generate_ids"])
def test_what_is_no_list_of_ids(model: Model, method: str, ids: Any) -> None:
    arguments = (ids, 2) if method == "generate_ids" else (ids,)
    with pytest.raises(ConfigError, match="token ids: expected a list of whole numbers, such as"):
        getattr(model, method)(*arguments)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda ids: np.array(ids, np.uint16)])
def test_lists_and_arrays_of_ids_mean_the_same(model: Model, kind: Any) -> None:
    ids = [5, 6, 7]
    np.testing.assert_array_equal(model.logits(kind(ids)), model.logits(ids))
    assert model.generate_ids(kind(ids), 3) == model.generate_ids(ids, 3)


@pytest.mark.parametrize("prompt", [[{"role": "user", "content": "x"}], b"x", None, 7])
def test_prompt_that_is_no_text(model: Model, prompt: Any) -> None:
    with pytest.raises(ConfigError, match=r"prompt: expected text, a str, found .* to `chat`"):
        model.generate(prompt)


@pytest.mark.parametrize("messages", ["x", ["x"], [[("role", "user")]]])
def test_conversation_that_is_none(model: Model, messages: Any) -> None:
    with pytest.raises(ConfigError, match=r"messages: expected a list such as \[{"):
        model.chat(messages)


@pytest.mark.parametrize("count", [1.5, "7", True, [3]])
def test_max_tokens_that_is_no_number(model: Model, count: Any) -> None:
    with pytest.raises(ConfigError, match="max_tokens: expected a whole number, found "):
        model.generate("x", max_tokens=count)
    with pytest.raises(ConfigError, match="max_tokens: expected 0 or more, found -1"):
        model.generate("x", max_tokens=-1)


@pytest.mark.parametrize("name", ["threads", "context", "parallel"])
@pytest.mark.parametrize("value", ["2", 1.0, True])
def test_load_with_what_is_no_number(path: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected a whole number, found "):
        cpumix.load(path, **{name: value})
    with pytest.raises(ConfigError, match="parallel: expected 1 or more, found 0"):
        cpumix.load(path, parallel=0)


@pytest.mark.parametrize("value", [7, ["a"], {}, "a\0b"])
def test_load_of_what_is_no_path(value: Any) -> None:
    with pytest.raises(ConfigError, match="model: expected the path of a file, found "):
        cpumix.load(value)


def test_plan_of_a_name_a_dict_a_path_and_a_config(path: Path) -> None:
    expected = cpumix.plan(known_model("mixtral-8x7b"), ram="64G")
    assert cpumix.plan("mixtral-8x7b", ram="64G") == expected
    fields = {**CONFIGS["moe"]}
    with cpumix.load(path, threads=1) as model:
        small = cpumix.plan(model.config, ram="4G", precision="int8")
    for given in (fields, path, str(path)):
        assert cpumix.plan(given, ram="4G", precision="int8") == small
    with pytest.raises(ConfigError, match="model: expected a config, the fields of one, a path"):
        cpumix.plan(7, ram="64G")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="found no hidden_size"):
        cpumix.plan({"model_type": "mixtral"}, ram="64G")


@pytest.mark.parametrize("value", [7, None, "a\0b"])
def test_convert_and_export_of_what_is_no_path(path: Path, tmp_path: Path, value: Any) -> None:
    for work, first in ((cpumix.convert, path.parent / "checkpoint"), (cpumix.export, path)):
        with pytest.raises(ConfigError, match="target: expected the path of a file, found "):
            work(first, value)
        with pytest.raises(ConfigError, match="expected the path of a file, found "):
            work(value, tmp_path / "x")
