"""Finds which precision a model file has, by the formats that it says of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cpumix.config import ModelConfig, Role, tensor_name
from cpumix.errors import FormatError, quoted
from cpumix.quant import FLOAT32, FORMATS
from cpumix.quant.precision import BOTH, LayerFormats, Precision, parts_of


def read_precision(
    path: Path, name: str, config: ModelConfig, formats: Mapping[str, object]
) -> Precision:
    """Return the precision `name`, of a file whose tensors have these formats.

    Those of a layer's attention are that of its first matrix, those of its experts that of the
    first: the reader holds all others against them. Raises FormatError for a tensor that is not
    there, or a format that this version does not know.
    """

    def format_of(role: Role, layer: int | None = None, expert: int | None = None) -> str:
        tensor = tensor_name(role, layer, expert)
        if tensor not in formats:
            raise FormatError(
                f'"{path}": tensor "{tensor}": expected a tensor, found none. The file is damaged: '
                "copy it again, or convert again."
            )
        kind = str(formats[tensor])
        known = kind.split(BOTH, 1) if role is Role.EXPERT else [kind]
        if not set(known) <= {FLOAT32, *FORMATS}:
            raise FormatError(
                f'"{path}": tensor "{tensor}": expected one of the formats {", ".join(FORMATS)}, '
                f"found {quoted(kind)}. Install a newer version with `pip install --upgrade "
                "cpumix`, or convert the checkpoint again."
            )
        return kind

    embedding = head = format_of(Role.EMBEDDING)
    if config.writes and not config.tie_word_embeddings:
        head = format_of(Role.OUTPUT)
    first = tensor_name(Role.LOW_COPY, 0, 0)
    low = format_of(Role.LOW_COPY, 0, 0) if first in formats else None
    layers = []
    for layer in range(config.num_hidden_layers):
        gate_up, _, down = parts_of(format_of(Role.EXPERT, layer, 0))
        layers.append(LayerFormats(format_of(Role.WQ, layer), gate_up, down))
    alike = len(set(layers)) == 1
    return Precision(name, embedding, head, tuple(layers[:1] if alike else layers), low)
