"""Templates write, to the byte, what transformers writes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cpumix.errors import ConfigError
from cpumix.tokenizer.chat_template import ChatTemplate

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / "data" / "tokenizer"
GOLDENS = json.loads((DATA / "chats.json").read_text(encoding="utf-8"))
CHATS: dict[str, dict[str, Any]] = GOLDENS["chats"]
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
CONTROLS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|user|>", "<|end|>"]


def render(template: str, chat: dict[str, Any]) -> str:
    source = (DATA / "templates" / f"{template}.jinja").read_text(encoding="utf-8")
    options = {"add_generation_prompt": False, **chat}
    segments = ChatTemplate(source, CONTROLS, NAMES).render(options.pop("messages"), **options)
    return "".join(text for text, _ in segments)


@pytest.mark.parametrize("template", GOLDENS["written"])
@pytest.mark.parametrize("name", CHATS)
def test_conversations_are_written_as_by_transformers(template: str, name: str) -> None:
    written = GOLDENS["written"][template][name]
    if written is not None:
        assert render(template, CHATS[name]) == written
        return
    # Rejected there: here a system text finds its place, and the rest is refused with a sentence.
    messages, tools = CHATS[name]["messages"], CHATS[name].get("tools")
    try:
        text = render(template, CHATS[name])
    except ConfigError as e:
        assert str(e).startswith("chat template: it rejects these messages: ")
        assert messages[0]["role"] != "system" or tools
    else:
        assert messages[0]["content"].strip() in text


def test_few_conversations_are_rejected() -> None:
    written = [text for texts in GOLDENS["written"].values() for text in texts.values()]
    assert written.count(None) < len(written) // 5
    assert len(written) == 9 * 21
