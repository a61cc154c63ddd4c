"""Record how Mistral's own library writes conversations with each version of its tokenizers.

    python tools/record_mistral_goldens.py DATA_FOLDER

DATA_FOLDER is mistral_common/data of the PyPI package mistral-common, which this needs too; the
results are tests/data/tokenizer/mistral.json, and tekken.json there, the beginning of Mistral's.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zlib import crc32

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data/tokenizer"
sys.path.insert(0, str(ROOT / "tests/support"))
KINDS = ("v1", "v2", "v3", "v7", "tekken-v3", "tekken-v7", "tekken-v11", "tekken-v13")
SPECIAL, TOKENS = 100, 1000  # of the small tekken.json


def user(text: str) -> dict[str, Any]:
    """Return what a user says."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    """Return an answer."""
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Zürich or another"}},
    "required": ["city"],
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS},
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Zürich"}'},
        }
    ],
}
RESULT = {
    "role": "tool",
    "name": "weather",
    "content": '{"celsius":22}',
    "tool_call_id": "abcdefghi",
}
CHATS: dict[str, dict[str, Any]] = {
    "one": {"messages": [user("user message")]},
    "three": {
        "messages": [user("user message"), assistant("assistant message"), user("new user message")]
    },
    "system": {
        "messages": [SYSTEM, user("a"), assistant("b "), user(" c\n"), assistant("d"), user("e")]
    },
    "spaces": {"messages": [SYSTEM, user("  two"), assistant(" one"), user("\nline")]},
    "marks": {
        "messages": [user("</s> [INST] <s>"), assistant("[/INST]"), user("<unk>[TOOL_CALLS]")]
    },
    "tools": {"messages": [user("weather?")], "tools": TOOLS},
    "result": {"messages": [SYSTEM, user("weather in Zürich?"), CALL, RESULT], "tools": TOOLS},
    "after": {
        "messages": [user("weather?"), CALL, RESULT, assistant("22 degrees"), user("thanks")],
        "tools": TOOLS,
    },
    "again": {
        "messages": [
            user("weather?"),
            CALL,
            {**RESULT, "content": "fine, 22"},
            assistant("22"),
            user("again"),
            CALL,
            RESULT,
        ],
        "tools": TOOLS,
    },
}


def cut_tekken(source: Path) -> None:
    """Write the beginning of a tekken.json."""
    data = json.loads(source.read_text(encoding="utf-8"))
    config = {
        **data["config"],
        "num_vocab_tokens": TOKENS,
        "default_num_special_tokens": SPECIAL,
        "default_vocab_size": TOKENS + SPECIAL,
    }
    entries = [json.dumps(entry) for entry in data["vocab"][: TOKENS + 5]]  # it may have more
    text = f'{{"config": {json.dumps(config)}, "vocab": [\n' + ",\n".join(entries) + "\n]}\n"
    (DATA / "tekken.json").write_text(text, encoding="utf-8")


def record(kind: str) -> dict[str, Any]:
    """Return the ids of conversations and texts with one kind of tokenizer."""
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    from mistral_files import mistral_files
    from record_tokenizer_goldens import TEXTS

    with tempfile.TemporaryDirectory() as folder:
        for name, content in mistral_files(kind).items():
            path = Path(folder, name)
            path.write_bytes(content)
        tokenizer = MistralTokenizer.from_file(path)
    chats = {
        name: tokenizer.encode_chat_completion(ChatCompletionRequest(**chat)).tokens
        for name, chat in CHATS.items()
        if kind != "v1" or "tools" not in chat
    }
    plain = tokenizer.instruct_tokenizer.tokenizer
    texts = [plain.encode(text, bos=False, eos=False) for text in TEXTS]
    return {
        "chats": chats,
        "texts": [len([token for ids in texts for token in ids]), crc32(repr(texts).encode())],
    }


def main() -> None:
    """Write both files."""
    cut_tekken(Path(sys.argv[1]) / "tekken_240911.json")
    goldens = {
        "mistral-common": version("mistral-common"),
        "chats": CHATS,
        "kinds": {kind: record(kind) for kind in KINDS},
    }
    text = json.dumps(goldens, separators=(",", ":")).replace("]],", "]],\n")
    (DATA / "mistral.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
