"""The model file, format version 1: which metadata and tensors it has, in which order, and where.

The container is GGUF v3 (see `gguf`) with `general.alignment` = 16384, so that every tensor starts
on a page of any processor (4 KiB on x86, 16 KiB on Apple's). From the start of the file:

    offset  bytes  content
         0     24  magic, version, counts
        24     27  the first metadata key, always "cpumix.header.crc32", after its length
        51      4  its value type, uint32
        55      4  CRC-32 of the header up to its padding, with these four bytes as zeros
        59      .  the other metadata, then the tensor entries, then zeros to a multiple of 16384
         D      .  tensor 0, zeros to a multiple of 16384, tensor 1, ... in the order of the entries

The file ends on a multiple of 16384 too: its size is known from the header to the byte, and readers
that take whole pages never run over the end. Nothing depends on time or machine: equal input, equal
bytes.

Metadata beside GGUF's `general.*` and those of the architecture, such as `llama.*`:

    cpumix.header.crc32     uint32           see above
    cpumix.format_version   uint32           1
    cpumix.precision        string           the name that the user chose it by, such as "int4"
    cpumix.config           string           JSON, every field of `ModelConfig`, exact
    cpumix.file.NAME        array of uint8   a file of the checkpoint, such as tokenizer.model
    cpumix.tensor.formats   array of string  format of each tensor: "f32", or a name in `quant`; of
                                             an expert whose w2 has another, "q3s+q4s"
    cpumix.tensor.code_books  array of int8  only if a tensor has a code book of its own: 16 values
                                             for each tensor, zeros for its format's own book
    cpumix.tensor.crc32     array of uint32  CRC-32 of each tensor's bytes, padding not included
    cpumix.tensor.errors    array of float32  optional; what rounding did, see below
    cpumix.tensor.format_errors  array of float32  what other formats would have done
    cpumix.error.formats    array of string  which formats these are
    cpumix.error.kind       string           "weights" or "outputs": what the errors are of

Tensors: the dense part (token_embd, each layer's norms, attention and router, output_norm, output),
then the experts, layer by layer. "blk.L.expert.E" is one expert: the bytes of w1, w3 and w2 one
after the other, so that an expert is one sequential read. "blk.L.low.E", if the file has low
copies, is the same expert in fewer bits, and follows it. "f32" tensors are GGUF float32 with their
own shape; the others are opaque to GGUF, one-dimensional int8, and take their shape from
`cpumix.config`.

Errors are mean squares, estimated from some rows of each matrix. Each tensor has two numbers: of an
expert, for w1 with w3 and for w2; of others, the first is the tensor's and the second 0. After a
conversion without calibration they are of "weights": the squared error over the squared weights.
After one with calibration they are of "outputs", means over the tokens of its text:

    embedding, attention, experts  the energy (sum of squares) that the error adds to the residual
                                   stream, by the experts' weights, and 0 for tokens elsewhere
    head                           the squared error of a logit
    attn_norm, ffn_norm, output_norm  the energy of the residual stream there: what the others are
                                   to be compared with

"format_errors" has two numbers for each tensor and format, the formats running fastest: what
rounding the tensor to that format, without calibration, would do. Readers need none of these.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.config import (
    EXPERT_PARTS,
    WHOLE_EXPERTS,
    ModelConfig,
    Role,
    TensorSpec,
    tensor_name,
)
from cpumix.config.model import with_requirement
from cpumix.quant import FLOAT32
from cpumix.quant import nbytes as tensor_bytes
from cpumix.quant.precision import Precision, find_level, parts_of

from . import gguf

FORMAT_VERSION = 1
ALIGNMENT = 16384
HEADER_CRC_KEY = "cpumix.header.crc32"
HEADER_CRC_AT = 24 + 8 + len(HEADER_CRC_KEY) + 4
FILE_PREFIX = "cpumix.file."
CODE_BOOKS_KEY, CODE_BOOKS_SINCE = "cpumix.tensor.code_books", "0.2.0"
BOOK_VALUES = 16
ALWAYS = (FLOAT32, "bf16", "q8", "q4")  # formats that every version reads
OTHERS_SINCE = "0.3.0"
ERRORS_KEY, FORMAT_ERRORS_KEY = "cpumix.tensor.errors", "cpumix.tensor.format_errors"
ERROR_KIND_KEY, ERROR_FORMATS_KEY = "cpumix.error.kind", "cpumix.error.formats"
OF_WEIGHTS, OF_OUTPUTS = "weights", "outputs"


def is_model_file(head: bytes) -> bool:
    """Whether a file that begins with `head`, 64 bytes or more, is one that cpumix wrote."""
    return head[:4] == gguf.MAGIC and head[32 : HEADER_CRC_AT - 4] == HEADER_CRC_KEY.encode()


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the model file stores it."""

    spec: TensorSpec
    format: str
    """"f32", or a name in `quant.FORMATS`; of an expert also two, see `precision.parts_of`."""
    nbytes: int
    book: tuple[int, ...] | None = field(default=None, kw_only=True)
    """The values of its code book, of -127 to 127; None for the format's own, or if it has none."""

    @property
    def name(self) -> str:
        """The canonical name."""
        return self.spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        """That of its values, whatever the format; of an expert (3, intermediate, hidden)."""
        return self.spec.shape

    @property
    def stored_as(self) -> tuple[tuple[int, ...], int]:
        """Shape and tensor type in GGUF's eyes."""
        return (
            (self.shape, gguf.F32_TENSOR) if self.format == FLOAT32 else ((self.nbytes,), gguf.INT8)
        )

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Names and formats of the checkpoint's tensors that it holds, one after the other."""
        if self.spec.role not in WHOLE_EXPERTS:
            return [(self.name, self.format)]
        place = self.spec.layer, self.spec.expert
        names = [tensor_name(role, *place) for role in EXPERT_PARTS]
        return list(zip(names, parts_of(self.format), strict=True))


def build_entries(config: ModelConfig, precision: str | Precision) -> list[TensorEntry]:
    """Return the tensors of a model in file order; ConfigError for an unknown level."""
    chosen = _resolve(precision)
    entries = [dense_entry(spec, chosen) for spec in config.dense_tensors()]
    for layer in range(config.num_hidden_layers):
        own = [expert_entry(config, chosen, layer)]
        if chosen.low is not None:  # right after each expert: both are made of what was just read
            own.append(expert_entry(config, chosen, layer, Role.LOW_COPY))
        for expert in range(config.num_local_experts):
            for entry in own:
                spec = TensorSpec.of(entry.spec.role, entry.shape, layer, expert)
                entries.append(TensorEntry(spec, entry.format, entry.nbytes))
    return entries


def dense_entry(spec: TensorSpec, precision: Precision) -> TensorEntry:
    """Return how the file stores a tensor of the dense part."""
    kind = precision.format(spec)
    return TensorEntry(spec, kind, tensor_bytes(kind, spec.shape))


def expert_entry(
    config: ModelConfig, precision: Precision, layer: int, role: Role = Role.EXPERT
) -> TensorEntry:
    """Return how the file stores the first expert of a layer, or its low copy.

    The layer's others are like it.
    """
    shape = (len(EXPERT_PARTS), config.intermediate_size, config.hidden_size)
    spec = TensorSpec.of(role, shape, layer, 0)
    kind = precision.format(spec)
    return TensorEntry(spec, kind, expert_nbytes(config, kind))


def expert_nbytes(config: ModelConfig, expert_format: str) -> int:
    """Return the bytes of one expert in a format, of one name or of two."""
    parts = zip(parts_of(expert_format), config.expert_tensors(0, 0), strict=True)
    return sum(tensor_bytes(name, part.shape) for name, part in parts)


def model_keys(config: ModelConfig) -> dict[str, Any]:
    """Return GGUF's own keys for the shape of a model, which any of its readers understands."""
    numbers: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_theta),
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    if config.is_moe:
        numbers["expert_count"] = config.num_local_experts
        numbers["expert_used_count"] = config.num_experts_per_tok
    if config.sliding_window is not None:
        numbers["attention.sliding_window"] = config.sliding_window
    return {f"{config.family.gguf}.{key}": value for key, value in numbers.items()}


def build_metadata(
    config: ModelConfig, precision: str | Precision, files: Mapping[str, bytes], name: str
) -> dict[str, Any]:
    """Return a model's metadata, without what `encode_header` derives from the tensors.

    `files` maps names such as "tokenizer.model" to contents; `name` is for people.
    """
    metadata: dict[str, Any] = {
        "general.architecture": config.family.gguf,
        "general.name": name,
        "general.alignment": ALIGNMENT,
        **model_keys(config),
    }
    template = _chat_template(files)
    if template is not None:
        metadata["tokenizer.chat_template"] = template
    metadata["cpumix.format_version"] = FORMAT_VERSION
    metadata["cpumix.precision"] = _resolve(precision).name
    metadata["cpumix.config"] = config.to_json()
    for file in sorted(files):
        metadata[FILE_PREFIX + file] = bytes(files[file])
    return metadata


def _resolve(precision: str | Precision) -> Precision:
    return find_level(precision) if isinstance(precision, str) else precision


def _chat_template(files: Mapping[str, bytes]) -> str | None:
    """Return the default chat template, for programs that look for it under GGUF's key."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode("utf-8", "replace")
    try:
        settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    except (ValueError, RecursionError):
        return None
    found = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(found, list):  # several named templates: [{"name": "default", "template": "..."}]
        named = [
            t.get("template") for t in found if isinstance(t, dict) if t.get("name") == "default"
        ]
        found = named[-1] if named else None
    if isinstance(found, dict):
        found = found.get("default")
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else None


def encode_header(
    metadata: Mapping[str, Any], entries: Sequence[TensorEntry], crcs: NDArray[np.uint32]
) -> bytes:
    """Return the header of a model file, padded to the data start.

    crcs (tensors,) are the checksums of the tensors' bytes; they change the header's bytes, never
    its size.
    """
    full = {
        HEADER_CRC_KEY: 0,
        **metadata,
        "cpumix.tensor.formats": [e.format for e in entries],
        "cpumix.tensor.crc32": crcs,
    }
    if any(e.book for e in entries):
        books = [e.book or (0,) * BOOK_VALUES for e in entries]
        full[CODE_BOOKS_KEY] = np.array(books, np.int8).ravel()
        # Versions before would read the tensors with the format's own values: they must refuse.
        full["cpumix.config"] = with_requirement(full["cpumix.config"], CODE_BOOKS_SINCE)
    if any(e.format not in ALWAYS for e in entries):
        full["cpumix.config"] = with_requirement(full["cpumix.config"], OTHERS_SINCE)
    tensors, offset = [], 0
    for e in entries:
        tensors.append(gguf.TensorInfo(e.name, *e.stored_as, offset))
        offset = gguf.align(offset + e.nbytes, ALIGNMENT)
    header = gguf.encode_header(full, tensors)
    crc = header_crc32(header).to_bytes(4, "little")
    header = header[:HEADER_CRC_AT] + crc + header[HEADER_CRC_AT + 4 :]
    return header.ljust(gguf.align(len(header), ALIGNMENT), b"\0")


def header_crc32(header: bytes) -> int:
    """CRC-32 of an unpadded header with its own checksum field as zeros."""
    crc = zlib.crc32(header[:HEADER_CRC_AT])
    return zlib.crc32(memoryview(header)[HEADER_CRC_AT + 4 :], zlib.crc32(bytes(4), crc))
