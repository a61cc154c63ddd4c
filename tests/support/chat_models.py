"""Model files of random weights that have a chat template."""

from __future__ import annotations

from pathlib import Path

from tiny_models import CONFIGS, write_source

import cpumix

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
WITH_CALLS = (
    "{% for t in tools or [] %}<{{ t | tojson }}>{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]\n{{ m.content or '' }}"
    "{% for call in m.tool_calls %}<call>\n"
    '{"name": {{ call.function.name | tojson }}, '
    '"parameters": {{ call.function.arguments | tojson }}}</call>{% endfor %}\n{% endfor %}'
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
"""A template that tells of tools, and writes calls."""


def write_chat_model(folder: Path, template: str = TEMPLATE, **changes: object) -> Path:
    """Convert a checkpoint with a chat template; return the model file.

    `changes` are to fields of its config.json.
    """
    source = write_source(folder / "checkpoint", CONFIGS["moe"] | changes)
    (source / "chat_template.jinja").write_text(template)
    cpumix.convert(source, target := folder / "chat.bin", "int8")
    return target
