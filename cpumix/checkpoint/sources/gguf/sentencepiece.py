"""Writes the vocabulary of a GGUF file as a `tokenizer.model`, a protobuf of sentencepiece.

    ModelProto      1: pieces (each 1: text, 2: score, 3: type), 2: TrainerSpec, 3: NormalizerSpec
    TrainerSpec     3: model_type, 4: vocab_size, 35: byte_fallback, 45-48: unk, bos, eos, pad piece
    NormalizerSpec  1: name, 3: add_dummy_prefix, 4: remove_extra_whitespaces

Source: https://github.com/google/sentencepiece, src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from cpumix.errors import ConvertError

from .vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    PREFIX,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    GgufVocabulary,
)

_BPE = 2  # of TrainerSpec.ModelType; llama.cpp merges by score whatever it was
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
# The piece of a token that stands in tokenizer_config.json: no text has it.
_PLACEHOLDER = "\ufdd0{}"


def write_model(vocabulary: GgufVocabulary, where: str) -> bytes:
    """Return the bytes of a `tokenizer.model`. Raises ConvertError without scores."""
    if vocabulary.scores is None:
        raise ConvertError(
            f'"{where}": {PREFIX}scores: expected a score for each piece of sentencepiece, found '
            "none. Convert the model's Hugging Face checkpoint."
        )
    types = _settle_types(vocabulary)
    added = added_tokens(vocabulary)
    pieces = []
    for token, (text, score) in enumerate(
        zip(vocabulary.tokens, vocabulary.scores.tolist(), strict=True)
    ):
        piece = _PLACEHOLDER.format(token) if str(token) in added else text
        body = _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score)
        pieces.append(_field(1, body + _number(3, types[token])))
    trainer = _number(3, _BPE) + _number(4, len(pieces)) + _number(35, BYTE in types)
    named = ("unknown_token_id", "bos_token_id", "eos_token_id", "padding_token_id")
    for field, key in enumerate(named, 45):
        if (special := _special(vocabulary).get(key)) is not None:
            trainer += _field(field, vocabulary.tokens[special].encode())
    normalizer = _field(1, b"identity")
    normalizer += _number(3, vocabulary.flags.get("add_space_prefix", True))
    normalizer += _number(4, vocabulary.flags.get("remove_extra_whitespaces", False))
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def added_tokens(vocabulary: GgufVocabulary) -> dict[str, dict[str, Any]]:
    """Return the words that a fine-tune added, as tokenizer_config.json lists them.

    sentencepiece's own pieces of that type write a space as U+2581, and stay pieces.
    """
    return {
        str(token): {"content": vocabulary.tokens[token], "special": False}
        for token, kind in enumerate(vocabulary.types.tolist())
        if kind == USER_DEFINED and "\u2581" not in vocabulary.tokens[token]
    }


def _special(vocabulary: GgufVocabulary) -> dict[str, int]:
    """Return the special ids, with llama.cpp's defaults."""
    defaults = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    n = len(vocabulary.tokens)
    return {key: token for key, token in defaults.items() if token < n} | dict(vocabulary.ids)


def _settle_types(vocabulary: GgufVocabulary) -> list[int]:
    """Return the types of pieces as sentencepiece demands them.

    Exactly one is unknown; bytes are all there or none; BOS and EOS are control tokens.
    """
    types: list[int] = vocabulary.types.tolist()
    special = _special(vocabulary)
    unknown = types.index(UNKNOWN) if UNKNOWN in types else special["unknown_token_id"]
    pieces = {t for t, kind in enumerate(types) if kind == BYTE and vocabulary.tokens[t] in _BYTES}
    for token, kind in enumerate(types):
        is_byte = token in pieces and len(pieces) == len(_BYTES)
        if not NORMAL <= kind <= BYTE or (kind == BYTE and not is_byte):
            types[token] = NORMAL
        elif kind == UNKNOWN:
            types[token] = CONTROL
    for added in added_tokens(vocabulary):
        types[int(added)] = UNUSED
    for key in ("bos_token_id", "eos_token_id"):
        if key in special:
            types[special[key]] = CONTROL
    types[unknown] = UNKNOWN
    return types


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


@lru_cache(maxsize=1 << 10)  # lengths and fields of pieces, three for each of 32,000 tokens
def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
