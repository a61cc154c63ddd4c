"""A calibrated conversion: layer by layer, each matrix rounded for the inputs that it will have.

Tokens of a text go through the model with the weights as they are written. Before a matrix is
rounded the moments of its inputs are known; when its layer is written, the tokens go on. An expert
sees the tokens that the router sends it, by the squares of their weights, and a little of all
others, so that one that few tokens find is not rounded for these alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig, Role
from cpumix.errors import ConvertError
from cpumix.experts import as_matrix
from cpumix.experts.views import as_expert, as_part
from cpumix.quant import FLOAT32
from cpumix.store import ModelWriter, TensorEntry
from cpumix.transformer.weights import LayerWeights, Weights

from ..slices import Slice
from ..tensor_errors import TensorErrors
from .matrix import Bytes, Floats, MatrixRounder, OutputErrors, RoundedMatrix
from .moments import Moments
from .stream import TokenStream

SHARED_WIDTH = 4096  # columns whose moments are kept together: of inputs that matrices share
HIDDEN_WIDTH = 2048  # of w2's inputs, which are each expert's own
MEAN_TOKENS = 256  # of all of a layer's, that each expert is rounded for besides its own
SAMPLE_TOKENS = 512  # from which their moments are estimated
ATTENTION = (
    *(Role.ATTN_NORM, Role.WQ, Role.WK, Role.WV, Role.BQ, Role.BK, Role.BV),
    *(Role.Q_NORM, Role.K_NORM, Role.WO, Role.BO, Role.FFN_NORM, Role.ROUTER),
)


def walk_order(config: ModelConfig, entries: Sequence[TensorEntry]) -> list[TensorEntry]:
    """Return the entries in the order in which they are written."""

    def place(entry: TensorEntry) -> tuple[int, int, int]:
        spec = entry.spec
        if spec.layer is None:
            return (-1, 0, 0) if spec.role is Role.EMBEDDING else (config.num_hidden_layers, 0, 0)
        if spec.expert is None:
            return spec.layer, -1, ATTENTION.index(spec.role)
        return spec.layer, spec.expert, int(spec.role is Role.LOW_COPY)

    return sorted(entries, key=place)


class LayerTensors:
    """The tensors of one layer's dense part, as far as they are rounded: a `TensorSource`."""

    def __init__(self, config: ModelConfig, entries: Sequence[TensorEntry]) -> None:
        self.config = config
        self.tensors: Mapping[str, TensorEntry] = {entry.name: entry for entry in entries}
        self.bytes: dict[str, Bytes] = {}

    def data(self, name: str) -> Bytes:
        """Return a tensor's bytes, zeros for one that is not there yet."""
        found = self.bytes.get(name)
        return np.zeros(self.tensors[name].nbytes, np.uint8) if found is None else found


class Visits(NamedTuple):
    """What an expert is rounded for."""

    tokens: NDArray[np.int64]
    """That the router sends it."""
    weights: Floats
    """Of these tokens."""
    mean: Moments | None
    """Of all tokens, None if all of them are sent, or nothing is rounded."""
    share: float
    """How many tokens the mean counts as."""

    @property
    def importance(self) -> Floats:
        """How much each token counts."""
        return np.square(self.weights)


class Walk:
    """One conversion, with tokens on their way; `run` does it all.

    `written` is called with each slice whose tensor has been written.
    """

    def __init__(
        self,
        stream: TokenStream,
        writer: ModelWriter,
        entries: Sequence[TensorEntry],
        slices: Sequence[Slice],
        rounder: MatrixRounder,
        errors: TensorErrors,
        config: ModelConfig,
        written: Callable[[Slice], None],
    ) -> None:
        self._stream, self._writer, self._config = stream, writer, config
        self._written = written
        self._rounder, self._errors, self._entries = rounder, errors, entries
        self._finished = writer.finished
        self._slices = {
            places: list(of)
            for places, of in groupby(slices, lambda s: (s.entry.name, s.source.name))
        }

    def run(self) -> None:
        """Write every tensor that is not finished."""
        outside = [entry for entry in self._entries if entry.spec.layer is None]
        self._embed(outside[0])
        for layer in range(self._config.num_hidden_layers):
            entries = [entry for entry in self._entries if entry.spec.layer == layer]
            self._attention(layer, [entry for entry in entries if entry.spec.expert is None])
            self._experts(layer, [entry for entry in entries if entry.spec.expert is not None])
        self._end(outside[1:])

    def _embed(self, entry: TensorEntry) -> None:
        data, found = self._make(entry, None)
        self._stream.embed(as_matrix(data, entry, *entry.shape))
        self._write(entry, data, found, self._stream.energy)

    def _attention(self, layer: int, entries: Sequence[TensorEntry]) -> None:
        stream, places = self._stream, {entry.spec.role: entry for entry in entries}
        tensors = LayerTensors(self._config, entries)
        found: dict[Role, OutputErrors | None] = dict.fromkeys(places)
        before = stream.energy
        for role, entry in places.items():
            if len(entry.shape) == 1 or role is Role.ROUTER:
                tensors.bytes[entry.name], _ = self._make(entry, None)

        def make(roles: Sequence[Role], moments: Moments | None) -> None:
            for role in roles:
                name = places[role].name
                tensors.bytes[name], found[role] = self._make(places[role], moments)

        def weights() -> LayerWeights:
            return replace(Weights(tensors).layer(layer), index=0, is_last=False)

        inputs = self._moments(places[Role.WQ], places[Role.WK], places[Role.WV])
        if inputs is not None:
            stream.see_normed(weights().attn_norm, inputs.add)
            self._check(inputs, f"layer {layer}, attention")
        make((Role.WQ, Role.WK, Role.WV), inputs)
        inputs = self._moments(places[Role.WO])
        stream.attend(weights(), inputs.add if inputs is not None else lambda rows: None)
        if inputs is not None:
            self._check(inputs, f"layer {layer}, attention")
        make((Role.WO,), inputs)
        added = stream.project(weights())
        energies = {Role.ATTN_NORM: before, Role.FFN_NORM: stream.energy}
        for role, entry in places.items():
            self._write(entry, tensors.bytes[entry.name], found[role], energies.get(role, added))

    def _experts(self, layer: int, entries: Sequence[TensorEntry]) -> None:
        stream, mean = self._stream, None
        share = MEAN_TOKENS * stream.weight_energy if self._config.is_moe else 0.0
        if self._config.is_moe and not all(entry.name in self._finished for entry in entries):
            mean = Moments(self._config.hidden_size, SHARED_WIDTH, self._rounder.workers)
            for _, x in stream.chunks(np.arange(stream.tokens)):
                mean.add(x)
            self._check(mean, f"layer {layer}, experts")
        for _, own in groupby(entries, lambda entry: entry.spec.expert):
            self._expert(list(own), mean, share)

    def _expert(self, entries: Sequence[TensorEntry], mean: Moments | None, share: float) -> None:
        """Write an expert, and its low copy if it has one; let its tokens go on."""
        stream, expert = self._stream, entries[0].spec.expert
        assert expert is not None
        visits = Visits(*stream.of_expert(expert), mean, share)
        begun = self._round_w1_w3([e for e in entries if e.name not in self._finished], visits)
        for entry in entries:
            is_copy = entry.spec.role is Role.LOW_COPY  # it serves few: tokens go by the other
            if entry.name in begun:
                self._complete(entry, *begun.pop(entry.name), visits)
            elif not is_copy:
                data = self._writer.read(entry.name)
                stream.add_expert(as_expert(data, entry), visits.tokens, visits.weights)

    def _round_w1_w3(
        self, entries: Sequence[TensorEntry], visits: Visits
    ) -> dict[str, tuple[RoundedMatrix, RoundedMatrix]]:
        """Return w1 and w3 of an expert and its copy, whose inputs are the same."""
        if not entries:
            return {}
        importance = visits.importance
        inputs = Moments(self._config.hidden_size, SHARED_WIDTH, self._rounder.workers)
        for here, x in self._stream.chunks(visits.tokens):
            inputs.add(x, importance[here])
        if visits.mean is not None:
            inputs.blend(visits.mean, visits.share)
        self._check(inputs, _name(entries[0]))
        made = {}
        for entry in entries:
            (w1_name, _), (w3_name, _), _ = entry.parts
            w1 = self._rounder.round(self._slices[entry.name, w1_name], inputs)
            w3 = self._rounder.round(self._slices[entry.name, w3_name], inputs)
            made[entry.name] = w1, w3
        return made

    def _complete(
        self, entry: TensorEntry, of_w1: RoundedMatrix, of_w3: RoundedMatrix, visits: Visits
    ) -> None:
        """Round w2 for what w1 and w3 give as they are rounded, and write the expert."""
        stream, tokens, importance = self._stream, visits.tokens, visits.importance
        (w1, errors_w1), (w3, errors_w3) = of_w1, of_w3
        (_, kind), _, (w2_name, _) = entry.parts
        _, inner, outer = entry.shape
        gate, up = (as_part(part, entry, kind, inner, outer) for part in (w1, w3))
        hidden = Moments(self._config.intermediate_size, HIDDEN_WIDTH, self._rounder.workers)
        for here, x in stream.chunks(tokens):
            hidden.add(stream.see_hidden(gate, up, x), importance[here])
        if visits.mean is not None:
            others = stream.some_tokens(SAMPLE_TOKENS)
            for _, x in stream.chunks(others):
                each = np.full(len(x), visits.share / len(others), np.float32)
                hidden.add(stream.see_hidden(gate, up, x), each)
        self._check(hidden, _name(entry))
        w2, errors_w2 = self._rounder.round(self._slices[entry.name, w2_name], hidden)
        data = np.concatenate([w1, w3, w2])
        if entry.spec.role is Role.LOW_COPY:
            self._put(entry, data)
            return
        added = stream.add_expert(as_expert(data, entry), tokens, visits.weights)
        added += errors_w2.energy * visits.share / stream.tokens
        self._errors.note(entry.name, 0, errors_w1.scaled(added) + errors_w3.scaled(added))
        self._errors.note(entry.name, 1, errors_w2.scaled(added))
        self._put(entry, data)

    def _end(self, entries: Sequence[TensorEntry]) -> None:
        norm, *rest = entries
        tensors = LayerTensors(self._config, entries)
        tensors.bytes[norm.name], _ = self._make(norm, None)
        self._write(norm, tensors.bytes[norm.name], None, self._stream.energy)
        for head in rest:  # none if it is tied to the embedding; that of a classifier is float32
            inputs = None if head.format == FLOAT32 else self._moments(head)
            if inputs is not None:
                self._stream.see_normed(Weights(tensors).output_norm, inputs.add)
                self._check(inputs, "the head")
            data, found = self._make(head, inputs)
            energy = 0.0 if found is None else found.energy / self._config.vocab_size
            self._write(head, data, found, energy)

    def _moments(self, *entries: TensorEntry) -> Moments | None:
        """Return moments for these matrices' inputs, None if they are finished."""
        if all(entry.name in self._finished for entry in entries):
            return None
        return Moments(entries[0].shape[1], SHARED_WIDTH, self._rounder.workers)

    def _check(self, moments: Moments, where: str) -> None:
        if not moments.are_finite:
            raise ConvertError(
                f"calibration: {where}: expected finite activations, found NaN or infinity. The "
                "checkpoint is damaged: download it again."
            )

    def _make(
        self, entry: TensorEntry, moments: Moments | None
    ) -> tuple[Bytes, OutputErrors | None]:
        """Return a dense tensor's bytes, and its errors unless it is finished, or a vector."""
        if entry.name in self._finished:
            return self._writer.read(entry.name), None
        slices = self._slices[entry.name, entry.name]
        if entry.format == FLOAT32:
            return self._rounder.keep(slices), None
        return self._rounder.round(slices, moments)

    def _write(
        self, entry: TensorEntry, data: Bytes, found: OutputErrors | None, energy: float
    ) -> None:
        """Write a dense tensor, unless it is finished, with what it does to this energy."""
        if entry.name in self._finished:
            return
        if found is not None:
            self._errors.note(entry.name, 0, found.scaled(energy))
        elif entry.spec.role in (Role.ATTN_NORM, Role.FFN_NORM, Role.OUTPUT_NORM):
            self._errors.note(entry.name, 0, np.array([energy]))
        self._put(entry, data)

    def _put(self, entry: TensorEntry, data: Bytes) -> None:
        """Write a whole tensor; only then may the shards go that it was read from."""
        self._writer.write(entry.name, data)
        for part, _ in entry.parts:
            for s in self._slices[entry.name, part]:
                self._written(s)


def _name(entry: TensorEntry) -> str:
    return f"layer {entry.spec.layer}, expert {entry.spec.expert}"
