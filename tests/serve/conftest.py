"""Servers that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served_models import Served, serve
from tiny_models import CONFIGS, write_source

import cpumix

TEMPLATE = """{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content or '' }}
{% for c in m.tool_calls or [] %}{{ c.function.arguments.city }}{% endfor %}{% endfor %}
{%- if tools %}tools {{ tools | tojson }}
{% endif %}{% if add_generation_prompt %}assistant:{% endif %}"""


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model whose chat template knows tools."""
    folder = tmp_path_factory.mktemp("chat")
    config = CONFIGS["moe"] | {"max_position_embeddings": 1024}
    source = write_source(folder / "checkpoint", config)
    (source / "chat_template.jinja").write_text(TEMPLATE)
    cpumix.convert(source, target := folder / "tiny-chat.bin", "int8")
    return target


@pytest.fixture(scope="session")
def demo() -> Iterator[Served]:
    """The demo model, with Mixtral's template."""
    with (
        cpumix.load(parallel=4, context=512, threads=1) as model,
        serve(model, chat_template="mistral-v1") as served,
    ):
        yield served


@pytest.fixture(scope="session")
def tiny(chat_file: Path) -> Iterator[Served]:
    """The tiny model, by its own template."""
    with cpumix.load(chat_file, parallel=2, threads=1) as model, serve(model) as served:
        yield served
