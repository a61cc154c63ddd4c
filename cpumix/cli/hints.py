"""What to type for the options that other programs have under other names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import click


class Hint(NamedTuple):
    """What stands for an option of another program."""

    ours: tuple[str, ...]
    """Options, of which a command may have some or none."""
    rest: str = ""
    """What follows their names; the whole hint where `ours` is empty."""


_CONTEXT = Hint(("-c", "--context"))
_TOKENS = Hint(("-n", "--max-tokens"))
_MEMORY = Hint(("--ram",), " to say how much memory to take")
_PROCESSOR = Hint((), "Everything runs on the processor.")
HINTS: Mapping[str, Hint] = MappingProxyType(
    {
        "--ctx-size": _CONTEXT,
        "--n-predict": _TOKENS,
        "--predict": _TOKENS,
        "--max-new-tokens": _TOKENS,
        "--n-gpu-layers": _PROCESSOR,
        "--gpu-layers": _PROCESSOR,
        "--device": _PROCESSOR,
        "--mlock": _MEMORY,
        "--no-mmap": _MEMORY,
        "--cache-type-k": Hint(("--kv",)),
        "--cache-type-v": Hint(("--kv",)),
        "--conversation": Hint((), "`cpumix chat` holds one."),
        "--no-conversation": Hint(("--raw",)),
        "--batch-size": Hint((), "It is chosen for you."),
        "--quantization": Hint((), "Use --precision with `cpumix convert`."),
    }
)


def hint_for(option: str, command: click.Command) -> str:
    """Return a sentence that says what to type instead; empty if the command has nothing for it."""
    hint = HINTS.get(option)
    if hint is None or not hint.ours:
        return "" if hint is None else hint.rest
    known = {name for param in command.params for name in param.opts}
    named = " or ".join(name for name in hint.ours if name in known)
    return f"Use {named}{hint.rest}." if named else ""
