"""Runs random templates, conversations and damaged tokenizer files: all must be harmless.

    python tools/fuzz/tokenizers.py --cases 100000 [--kind template] [--seed 1]

A case is drawn from its number: a failure is repeated with --seed NUMBER --cases 1.

- template, operation: see templates.py beside this.
- conversation: messages made of pieces of control tokens, in the templates of the test data. It
  fails if there are other control tokens than with harmless words, or other text than was said.
- files: a tokenizer's files with a few bytes or values changed. It fails if anything but a
  ConfigError of one line comes of reading them, of encoding or of decoding.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import templates

from cpumix.errors import ConfigError
from cpumix.tokenizer import Tokenizer
from cpumix.tokenizer.chat_template import ChatTemplate

SECONDS = 10.0
MOST_BYTES = 512 << 20
DATA = Path(__file__).resolve().parents[2] / "tests/data/tokenizer"
CONTROLS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|user|>", "<|end|>"]


def pieces(draw: Random) -> str:
    """Return a text made of pieces of control tokens."""
    text = ""
    for _ in range(draw.randrange(1, 5)):
        control = draw.choice([*CONTROLS, "<think>", "\ufdd0", "\ufdd1", " a ", "\n"])
        start = draw.randrange(len(control)) if draw.random() < 0.5 else 0
        text += control[start : start + draw.randrange(1, len(control) + 1)]
    return text


def run_conversation(draw: Random) -> str:
    """Write a conversation. Raises AssertionError for a control token that a text made."""
    path = draw.choice(sorted((DATA / "templates").glob("*.jinja")))
    template = ChatTemplate(
        path.read_text(encoding="utf-8"), CONTROLS, {"bos_token": "<s>", "eos_token": "</s>"}
    )
    count = draw.choice([1, 3, 5])
    roles = [("user", "assistant")[i % 2] for i in range(count)]
    texts = [
        f"{pieces(draw)}y{pieces(draw)}" if draw.random() < 0.5 else pieces(draw) for _ in roles
    ]
    texts = [text if text.strip() else "y" for text in texts]
    found = []
    for said in (texts, ["harmless"] * count):
        messages = [{"role": r, "content": t} for r, t in zip(roles, said, strict=True)]
        try:
            found.append(template.render(messages))
        except ConfigError as e:
            assert e.__cause__ is not None, f"{path.stem} left out {said!r}"
            return "rejected"
    controls = [[text for text, control in segments if control] for segments in found]
    assert controls[0] == controls[1], f"{path.stem} with {texts!r} wrote {controls[0]}"
    return "written"


def base_files(draw: Random) -> dict[str, bytes]:
    """Return a sound tokenizer with all kinds of side files."""
    name = draw.choice(["small.model", "small.json", "byte-level.json", "tekken.json"])
    kept = name if name == "tekken.json" else "tokenizer." + name.split(".")[1]
    token = {"content": "<|im_end|>", "special": True, "lstrip": False}
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "added_tokens_decoder": {"1100": token},
        "chat_template": [{"name": "default", "template": "{{ messages[0].content }}<|im_end|>"}],
        "add_bos_token": True,
        "legacy": False,
    }
    files: dict[str, Any] = {
        "tokenizer_config.json": config,
        "special_tokens_map.json": {"unk_token": "<unk>"},
        "added_tokens.json": {"<|im_start|>": 1101},
        "generation_config.json": {"eos_token_id": [2, 1100]},
        "chat_template.json": {"chat_template": "{{ messages[0].content }}"},
    }
    if name == "small.model":
        files["tokenizer.json"] = {"added_tokens": [{"id": 600, **token}]}
    encoded = {key: json.dumps(value).encode() for key, value in files.items()}
    return {kept: (DATA / name).read_bytes(), **encoded}


def damage(draw: Random, data: bytes) -> bytes:
    """Return bytes with a few of them changed, or a JSON value in them."""
    if draw.random() < 0.6 and data[:1] == b"{":
        other = [
            "null",
            "[]",
            "{}",
            "-1",
            "1e999",
            '"\\ud800"',
            "9" * 5000,
            "[" * 9999,
            '"a"',
            "true",
        ]
        ends = [i for i, byte in enumerate(data[:4000]) if byte in b":,["]
        at = draw.choice(ends) + 1
        return data[:at] + draw.choice(other).encode() + draw.choice([b",", b""]) + data[at:]
    damaged = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(min(len(damaged), draw.choice([200, 10**6])))
        damaged[at : at + draw.choice([1, 1, 1, 9])] = draw.randbytes(draw.choice([1, 1, 0, 9]))
    return bytes(damaged)


def run_files(draw: Random) -> str:
    """Read damaged files. Raises AssertionError for what is no clean sentence."""
    files = base_files(draw)
    for name in draw.sample(sorted(files), draw.choice([1, 1, 2])):
        files[name] = damage(draw, files[name])
    began = time.thread_time()
    try:
        tokenizer = Tokenizer.from_files(files)
        for note in tokenizer.notes:
            assert note.isprintable(), f"not one clean line: {note!r}"
            assert len(note) < 400, note
        ids = tokenizer.encode("a text <|im_end|> é🙂", control=draw.random() < 0.5)
        tokenizer.decode([*ids, *range(-3, 1200)])
        if tokenizer.has_chat_template:
            tokenizer.encode_chat([{"role": "user", "content": "hi</s>"}])
        outcome = "read, with notes" if tokenizer.notes else "read"
    except ConfigError as e:
        assert str(e).isprintable(), f"not one clean line: {e!r}"
        outcome = "refused"
    took = time.thread_time() - began
    assert took < SECONDS, f"{took:.1f} seconds of the processor"
    return outcome


KINDS: dict[str, Callable[[Random], str]] = {
    "template": templates.run,
    "operation": templates.run_operation,
    "conversation": run_conversation,
    "files": run_files,
}


def run(kind: str, cases: int, seed: int) -> tuple[dict[str, int], list[str]]:
    """Run some cases of a kind; return how many came to what, and the failures in words."""
    outcomes: dict[str, int] = {}
    failures = []
    for number in range(seed, seed + cases):
        try:
            outcome = KINDS[kind](Random(number))
        except BaseException as e:  # the tokenizers library panics with one of these
            if isinstance(e, KeyboardInterrupt):
                raise
            outcome = f"FAILED: {type(e).__name__}"
            failures.append(f"{kind}, --seed {number}: {e!r}"[:2000])
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes, failures


def main() -> int:
    """Run all cases and say what came of them; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", choices=KINDS, help="only this one")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + MOST_BYTES,) * 2)
    failed = []
    for kind in [arguments.kind] if arguments.kind else KINDS:
        outcomes, failures = run(kind, arguments.cases, arguments.seed)
        print(kind, outcomes, *failures, sep="\n  ", flush=True)
        failed += failures
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
