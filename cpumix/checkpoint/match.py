"""Finds every tensor that a model needs among those of a source, and refuses what is left over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cpumix.config import ModelConfig, Role, TensorSpec
from cpumix.errors import ConvertError, quoted

from .encodings.plain import DTYPES, refuse_other_dtypes
from .matrix import Matrix, count_rows
from .namings import Naming, Place, choose_naming
from .tensor import Checkpoint, Contents, SourceTensor

_COMPARED_ROWS = 512
_COMPUTED = ".rotary_emb.inv_freq"  # a buffer that follows from the config


def match(contents: Contents) -> Checkpoint:
    """Return the checkpoint; ConvertError for what is missing, superfluous or of wrong shape."""
    matrices = dict(contents.matrices)
    naming = choose_naming(contents.namings, matrices)
    tied = _settle_head(contents.config, naming, matrices)
    config = replace(contents.config, tie_word_embeddings=tied)
    specs = list(config.tensors())
    for spec in specs:
        if spec.role not in naming:
            raise ConvertError(
                f'tensor "{spec.name}": expected weights under the names of transformers for a '
                f'{config.described}, found others in "{contents.path}". Get that form of it.'
            )
    names = [naming[spec.role].source(spec) for spec in specs]
    sources = dict.fromkeys(names)
    for source, matrix in matrices.items():
        if source not in sources and not _is_idle(source, matrix, naming, config.is_moe):
            raise ConvertError(
                f"tensor {quoted(source)}: a name unknown to a {config.described} of "
                f"{config.num_hidden_layers} layers and {config.num_local_experts} experts. "
                f'Compare config.json with the shard "{matrix.path}".'
            )
    missing = [source for source in sources if source not in matrices]
    if missing:
        raise ConvertError(
            f'tensor "{missing[0]}": expected it in a shard, found it in none'
            + (f", nor {len(missing) - 1} others. " if len(missing) > 1 else ". ")
            + f'Download all shards to "{contents.path}".'
        )
    tensors = {
        spec.name: _part(spec, naming[spec.role], source, matrices[source], config)
        for spec, source in zip(specs, names, strict=True)
    }
    nbytes = sum(matrices[source].nbytes for source in sources)
    files, notes = contents.files, contents.notes
    return Checkpoint(config, tensors, files, nbytes, notes, contents.vocabulary)


def _part(
    spec: TensorSpec, place: Place, source: str, matrix: Matrix, config: ModelConfig
) -> SourceTensor:
    expected = place.stored_shape(spec.shape, config)
    if matrix.shape != expected:
        raise ConvertError(
            f"tensor {quoted(source)}: expected shape {expected} by config.json, found "
            f'{matrix.shape}. Shard "{matrix.path}".'
        )
    refuse_other_dtypes(source, matrix)
    return SourceTensor(spec, source, place.view(matrix, spec, config))


def _settle_head(config: ModelConfig, naming: Naming, matrices: dict[str, Matrix]) -> bool:
    """Return whether the head is the embedding, and leave only one of the two if so.

    As in transformers, tie_word_embeddings holds unless both are there with different values, and
    either of them may be the one that was saved.
    """
    if not config.tie_word_embeddings:
        return False
    embedding, head = (naming[role].name for role in (Role.EMBEDDING, Role.OUTPUT))
    if head in matrices:
        if embedding in matrices and not _are_equal(matrices[embedding], matrices[head]):
            return False
        matrices.setdefault(embedding, matrices.pop(head))
    return True


def _are_equal(a: Matrix, b: Matrix) -> bool:
    if (a.encoding, a.shape) != (b.encoding, b.shape):
        return False
    rows = count_rows(a)
    for start in range(0, rows, _COMPARED_ROWS):
        stop = min(start + _COMPARED_ROWS, rows)
        if not np.array_equal(a.read_rows(start, stop), b.read_rows(start, stop)):
            return False
    return True


def _is_idle(source: str, matrix: Matrix, naming: Naming, is_moe: bool) -> bool:
    """Whether the result does not depend on a tensor that the model file has no name for.

    That is a buffer, a bias of zeros, which GPTQ files have, or the router of one single expert.
    """
    if source.endswith(_COMPUTED):
        return True
    if source.endswith(".bias") and len(matrix.shape) == 1 and matrix.encoding in DTYPES:
        return not matrix.read_rows(0, matrix.shape[0]).any()
    router = naming[Role.ROUTER].name.rpartition("}")[2] if Role.ROUTER in naming else ""
    return bool(router) and not is_moe and source.endswith(router)
