"""A prefix on disk: the keys and values of a text's tokens, to go on from in another process.

    offset  bytes  content
         0      8  magic "cpumixkv"
         8      4  N, uint32, little-endian: bytes of the header
        12      N  JSON: version, model, kv, context, tokens, and crc32 of what follows
    12 + N      .  keys, values and scales of the tokens' blocks, as `BlockPool.export` has them

A file fits one model file and one format of the KV cache; what does not match is refused by name.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from cpumix.errors import ConfigError, FormatError, quoted
from cpumix.input_file import regular
from cpumix.quant.kv import KV_BLOCK
from cpumix.store.temporary import remove_stale, whole_file

from .pool import BlockPool
from .prefix import PrefixCache
from .table import BlockTable

MAGIC, VERSION = b"cpumixkv", 2
HEADER_LIMIT = 64 << 20  # bytes; a token takes up to 12


class Origin(NamedTuple):
    """What keys and values depend on besides the tokens."""

    model: str
    """Tells model files apart."""
    kv: str
    context: int
    """Where positions are stretched to the context; else 0."""
    low_copies: bool
    """Whether low copies serve experts that count little."""


def save(path: Path, pool: BlockPool, prefix: PrefixCache, ids: list[int], origin: Origin) -> int:
    """Write what the prefix cache has of a text; return how many tokens that is.

    Nothing is written if that is nothing, as when a sliding window has passed the beginning.
    Raises ConfigError when the file cannot be written.
    """
    match = prefix.match([*ids, 0])
    blocks = [*match.blocks, *match.copied]
    if not blocks or min(blocks) < 0:
        return 0
    data = pool.export(blocks)
    fields = {"version": VERSION, **origin._asdict(), "tokens": ids[: match.tokens]}
    header = json.dumps(fields | {"crc32": _checksum(fields, data)}).encode()
    try:
        remove_stale(path)
        with whole_file(path) as file:
            file.write(MAGIC + len(header).to_bytes(4, "little") + header + data)
    except OSError as error:
        raise ConfigError(
            f"prompt cache: {quoted(path)} cannot be written: {error.strerror}. Name another place."
        ) from error
    return match.tokens


def load(path: Path, pool: BlockPool, prefix: PrefixCache, origin: Origin) -> list[int]:
    """Put a saved prefix into the prefix cache; return its tokens.

    Raises FormatError for a file that is none or damaged, ConfigError for one of another model or
    format, and for one that there is no room for.
    """
    header, data = _read(path)
    if header["version"] != VERSION:
        raise FormatError(
            f"prompt cache: {quoted(path)} has version {quoted(header['version'])}, expected "
            f"{VERSION}. Delete it to have it made anew."
        )
    found = Origin(**{name: header[name] for name in Origin._fields})
    for name, expected, other in zip(Origin._fields, origin, found, strict=True):
        if expected != other:
            raise ConfigError(
                f"prompt cache: {quoted(path)} was made with another {name}: expected "
                f"{quoted(expected)}, found {quoted(other)}. Delete it to have it made anew."
            )
    ids = header["tokens"]
    count = -(-len(ids) // KV_BLOCK)
    if count > pool.available:
        raise ConfigError(
            f"prompt cache: the {len(ids)} tokens of {quoted(path)} do not fit into the context. "
            "Use a larger --context."
        )
    if len(data) != pool.export_bytes(count):
        raise _damaged(path)
    table = BlockTable(pool, count)
    table.prepare(0, len(ids))
    pool.restore(table.blocks, data)
    prefix.register(table.blocks, ids, 0)
    table.close()
    return list(ids)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        with open(path, "rb", opener=regular) as file:
            start = file.read(len(MAGIC) + 4)
            length = int.from_bytes(start[len(MAGIC) :], "little")
            if not start.startswith(MAGIC) or length > HEADER_LIMIT:
                raise FormatError(
                    f"prompt cache: {quoted(path)} was not made by --prompt-cache. "
                    "Name another file."
                )
            text, data = file.read(length), file.read()
    except OSError as error:
        raise FormatError(
            f"prompt cache: {quoted(path)} cannot be read: {error.strerror}."
        ) from error
    try:
        header = json.loads(text)
        sound = header.pop("crc32") == _checksum(header, data)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise _damaged(path)
    return header, data


def _checksum(fields: dict[str, Any], data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(json.dumps(fields).encode()))


def _damaged(path: Path) -> FormatError:
    return FormatError(f"prompt cache: {quoted(path)} is damaged. Delete it to have it made anew.")
