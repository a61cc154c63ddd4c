"""Mistral's tokenizer files of all versions, made of the two that the test data hold.

A `tokenizer.model.v3` is Mixtral's `tokenizer.model` with 768 control tokens after `</s>`. The
tekken.json of the test data is the beginning of Mistral's own; its version and its control tokens
are changed here.
"""

from __future__ import annotations

import json
from pathlib import Path

DATA = Path(__file__).parents[1] / "data/tokenizer"
CONTROLS = 768
_V2 = (
    "[INST] [/INST] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] "
    "[/TOOL_RESULTS]"
).split()
_V3 = [*_V2, "[IMG]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"]
_V7 = [*_V3, *"[IMG_BREAK] [IMG_END] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]".split()]
_NAMES = {2: _V2, 3: _V3, 7: _V7}
_TEKKEN = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] "
    "[/TOOL_RESULTS] [TOOL_CALLS] [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] "
    "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
).split()
_LATER = "[ARGS] [CALL_ID] [THINK] [/THINK]".split()


def mistral_files(name: str) -> dict[str, bytes]:
    """Return the tokenizer's files by "v1", "v7" and so on, or "tekken-v3" and so on."""
    version = int(name.rpartition("v")[2])
    if name.startswith("tekken"):
        return {"tekken.json": tekken(version)}
    return {f"tokenizer.model.v{version}": model(version)}


def tekken(version: int) -> bytes:
    """Return a tekken.json of a version."""
    data = json.loads((DATA / "tekken.json").read_text(encoding="utf-8"))
    data["config"]["version"] = f"v{version}"
    if version > 7:
        data["special_tokens"] = [
            {"rank": rank, "token_str": text, "is_control": True}
            for rank, text in enumerate(_TEKKEN + _LATER)
        ]
    return json.dumps(data).encode()


def model(version: int) -> bytes:
    """Return a tokenizer.model of a version."""
    whole = (DATA / "mixtral.model").read_bytes()
    if version == 1:
        return whole
    place = 0
    for _ in range(3):  # <unk>, <s>, </s>: fields of less than 128 bytes
        place += 2 + whole[place + 1]
    names = _NAMES[version]
    names = names + [f"[control_{n}]" for n in range(len(names) + 1, CONTROLS + 1)]
    pieces = b"".join(_piece(name.encode()) for name in names)
    return whole[:place] + pieces + whole[place:]


def _piece(text: bytes) -> bytes:
    """Return a control token as sentencepiece writes it: text, score 0, type 3."""
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + bytes(4) + b"\x18\x03"
    return b"\x0a" + bytes([len(body)]) + body
