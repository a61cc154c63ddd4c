"""Record what transformers writes of conversations with chat templates of many forms.

    python tools/record_chat_goldens.py               write tests/data/tokenizer/chats.json
    python tools/record_chat_goldens.py FOLDER OUT    the same for the *.jinja of another folder

It needs transformers (`pip install cpumix[oracle]`) and no network.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tokenizers
import transformers

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data/tokenizer"
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def turns(count: int, system: str | None = None) -> list[dict[str, Any]]:
    """Return a conversation of some turns, with spaces and lines where templates may trim."""
    said = [
        {"role": "user", "content": "Hello, what is 2 < 3?\n"},
        {"role": "assistant", "content": " It is <b>true</b>. "},
        {"role": "user", "content": "Zürich 北京 🙂\n\n```py\nx = {'a': \"b\"}\n```"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA city & a capital."},
        {"role": "user", "content": "{{ not a template }} {% neither %}"},
        {"role": "assistant", "content": "Right."},
    ]
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + said[:count]


PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Zürich, or <another>"},
        "days": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city"],
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Of a\ncity.", "parameters": PARAMETERS},
    },
    {
        "type": "function",
        "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
    },
]
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}},
        }
    ],
}
RESULT = {
    "role": "tool",
    "name": "weather",
    "content": '{"celsius": 22}',
    "tool_call_id": "abcdefghi",
}
SYSTEM = "Be brief.\nBe kind. "
CHATS: dict[str, dict[str, Any]] = {
    **{f"{n} turns": {"messages": turns(n)} for n in range(1, 7)},
    **{f"{n} turns, system": {"messages": turns(n, SYSTEM)} for n in range(1, 7)},
    "open": {"messages": turns(3), "add_generation_prompt": True},
    "open, system": {"messages": turns(3, SYSTEM), "add_generation_prompt": True},
    "continued": {"messages": turns(2, SYSTEM), "continue_final_message": True},
    "tools": {"messages": turns(1), "tools": TOOLS, "add_generation_prompt": True},
    "tools, system": {"messages": turns(3, SYSTEM), "tools": TOOLS},
    "result": {
        "messages": [*turns(1, SYSTEM), CALL, RESULT],
        "tools": TOOLS,
        "add_generation_prompt": True,
    },
    "after": {"messages": [*turns(1), CALL, RESULT, *turns(4)[1:]], "tools": TOOLS},
    "documents": {
        "messages": turns(1),
        "documents": [{"title": "One", "text": "first\ntext"}, {"title": "Two", "text": "{}"}],
    },
    "thoughts": {
        "messages": [*turns(1), {**turns(2)[1], "reasoning_content": "why\n"}, turns(3)[2]],
        "variables": {"enable_thinking": False},
        "add_generation_prompt": True,
    },
}


def record(source: str) -> dict[str, str | None]:
    """Return what each conversation becomes, None where the template rejects it."""
    bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, **NAMES)
    written: dict[str, str | None] = {}
    for name, chat in CHATS.items():
        options = {k: v for k, v in chat.items() if k not in ("messages", "variables")}
        options |= chat.get("variables", {})
        try:
            written[name] = tokenizer.apply_chat_template(
                chat["messages"], chat_template=source, tokenize=False, **options
            )
        except Exception:  # what a template may come to
            written[name] = None
    return written


def mistral_templates() -> dict[str, str]:
    """Return templates that Mistral's own library writes, if it is there."""
    from mistral_common.integrations.chat_templates.chat_templates import generate_chat_template
    from mistral_common.tokens.tokenizers.base import TokenizerVersion

    switches = dict.fromkeys(
        ("image_support", "audio_support", "thinking_support", "plain_thinking_support"), False
    )
    options = dict.fromkeys(
        (
            "default_system_prompt",
            "model_settings_fields",
            "reasoning_effort_values",
            "reasoning_effort_default",
        )
    )
    return {
        f"mistral-common-v{version}": generate_chat_template(
            spm=version < 7,
            tokenizer_version=TokenizerVersion(f"v{version}"),
            use_special_token_variables=True,
            **switches,
            **options,
        )
        for version in (3, 13)
    }


def main() -> None:
    """Write the goldens."""
    folder, out = map(Path, sys.argv[1:] or (DATA / "templates", DATA / "chats.json"))
    if not sys.argv[1:]:
        for name, source in mistral_templates().items():
            (folder / f"{name}.jinja").write_text(source, encoding="utf-8")
    goldens = {
        "transformers": transformers.__version__,
        "chats": CHATS,
        "written": {
            path.stem: record(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("*.jinja"))
        },
    }
    out.write_text(json.dumps(goldens, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
