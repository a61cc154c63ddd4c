"""Mixes: which groups of a model's matrices take how many bits, so that least is lost.

The groups are each layer's w1 and w3, each layer's w2, each layer's attention, the head and the
embedding. Each takes the format of least

    loss + price of memory x bytes + price of time x bytes that a token reads

where the price of memory is the lowest at which all of them fit, and that of time is fixed: a mix
gives up `NATS_FOR_TIME` nats for each per cent that a token reads less. Bytes that are left are
then spent where they gain most. It is a knapsack, solved by its Lagrange multiplier: exact but for
what is less than one group. How far losses add up: docs/accuracy.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from cpumix.config import ATTENTION_MATRICES, ModelConfig, Role
from cpumix.errors import ConfigError
from cpumix.quant import FLOAT32
from cpumix.quant.precision import PRECISIONS, LayerFormats, Precision
from cpumix.quant.sensitivity import MEASURED, Nats, Sensitivity

from .sizes import dense_bytes, expert_bytes, weight_count, weight_sizes

EXPERT_FORMATS = ("q2s", "q3s", "q4s", "q6", "q8")  # what experts may take, from the smallest on
DENSE_FORMATS = ("q6", "q8")
UNROUNDED = (FLOAT32, "bf16")  # what these lose is nothing beside the others
NATS_FOR_TIME = 5e-5  # for one per cent that a token reads less
STEPS = 60  # of the search for the price of memory, halvings
_MIX = re.compile(r"mix-([1-9]?[0-9](?:\.[0-9]{1,2})?)")


@dataclass(frozen=True)
class Option:
    """What a group may take."""

    formats: tuple[str, ...]
    """Of gate_up and down, or of the one kind of matrix that the group has."""
    loss: float  # nats
    nbytes: int  # in memory, page alignment included
    read: int  # bytes of a token


@dataclass(frozen=True)
class MatrixGroup:
    """Matrices whose sizes depend on each other, and what they may take; the smallest first."""

    role: Role
    layer: int | None
    options: tuple[Option, ...]


def groups_of(config: ModelConfig, sensitivity: Sensitivity) -> Iterator[MatrixGroup]:
    """Yield a model's groups.

    The two parts of a layer's experts are one: they share pages, and so their sizes are not sums.
    """
    layers, active = config.num_hidden_layers, config.num_experts_per_tok
    losses = sensitivity.of_layers(layers)
    for layer, own in enumerate(losses):
        options = []
        for gate_up in EXPERT_FORMATS:
            for down in EXPERT_FORMATS:
                size = expert_bytes(config, LayerFormats("", gate_up, down).expert)
                loss = own.gate_up[gate_up] + own.down[down]
                whole = size * config.num_local_experts
                options.append(Option((gate_up, down), loss, whole, size * active))
        yield MatrixGroup(Role.EXPERT, layer, _on_hull(options))
        yield MatrixGroup(Role.WQ, layer, _dense(config, ATTENTION_MATRICES, own.attention))
    for role, own_losses in (
        (Role.OUTPUT, sensitivity.head),
        (Role.EMBEDDING, sensitivity.embedding),
    ):
        yield MatrixGroup(role, None, _dense(config, (role,), own_losses))


def _dense(config: ModelConfig, roles: tuple[Role, ...], losses: Nats) -> tuple[Option, ...]:
    is_read = Role.EMBEDDING not in roles or config.tie_word_embeddings
    sizes = {name: dense_bytes(config, name, roles) for name in DENSE_FORMATS}
    return tuple(
        Option((name,), losses[name], size, size if is_read else 0) for name, size in sizes.items()
    )


def _on_hull(options: Sequence[Option]) -> tuple[Option, ...]:
    """Return the options that no other beats in both loss and bytes, the smallest first."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.nbytes, o.loss)):
        if not kept or option.loss < kept[-1].loss:
            kept.append(option)
    return tuple(kept)


@lru_cache(maxsize=64)
def compose(config: ModelConfig, bits: float, sensitivity: Sensitivity = MEASURED) -> Precision:
    """Return the mix of least loss with up to `bits` bits for a weight; the smallest if none is."""
    name = f"mix-{bits:g}"
    groups = list(groups_of(config, sensitivity))
    smallest = _precision(name, config, groups, [0] * len(groups))
    fixed = weight_sizes(config, smallest).total - sum(g.options[0].nbytes for g in groups)
    room = int(bits * weight_count(config) / 8) - fixed
    reference = sum(max(o.read for o in g.options) for g in groups)
    time_price = 100 * NATS_FOR_TIME / reference

    def choose(price: float) -> list[int]:
        return [
            min(
                range(len(g.options)),
                key=lambda i, g=g: (  # type: ignore[misc]
                    g.options[i].loss + price * g.options[i].nbytes + time_price * g.options[i].read
                ),
            )
            for g in groups
        ]

    def total(chosen: Sequence[int]) -> int:
        return sum(g.options[i].nbytes for g, i in zip(groups, chosen, strict=True))

    low, high = 0.0, 1e6
    chosen = choose(low)
    if total(chosen) > room:
        for _ in range(STEPS):
            middle = (low * high) ** 0.5 if low else high * 1e-3
            low, high = (low, middle) if total(choose(middle)) <= room else (middle, high)
            if low and high / low < 1 + 1e-9:
                break
        chosen = choose(high)
    _spend(groups, chosen, room - total(chosen), time_price)
    return _precision(name, config, groups, chosen)


def _spend(groups: Sequence[MatrixGroup], chosen: list[int], left: int, time_price: float) -> None:
    """Take better options while there are bytes left, those that gain most for a byte first."""
    while True:
        best, gain = None, 0.0
        for place, (group, index) in enumerate(zip(groups, chosen, strict=True)):
            now = group.options[index]
            for other in range(index + 1, len(group.options)):
                option = group.options[other]
                cost = option.nbytes - now.nbytes
                gained = now.loss - option.loss - time_price * (option.read - now.read)
                if cost <= left and gained > gain * max(cost, 1):
                    best, gain = (place, other), gained / max(cost, 1)
        if best is None:
            return
        place, other = best
        left -= groups[place].options[other].nbytes - groups[place].options[chosen[place]].nbytes
        chosen[place] = other


def _precision(
    name: str, config: ModelConfig, groups: Sequence[MatrixGroup], chosen: Sequence[int]
) -> Precision:
    found = {(g.role, g.layer): g.options[i].formats for g, i in zip(groups, chosen, strict=True)}
    layers = tuple(
        LayerFormats(*found[Role.WQ, layer], *found[Role.EXPERT, layer])
        for layer in range(config.num_hidden_layers)
    )
    (head,), (embedding,) = found[Role.OUTPUT, None], found[Role.EMBEDDING, None]
    return Precision(name, embedding, head, layers)


def loss_of(
    config: ModelConfig, precision: Precision, sensitivity: Sensitivity = MEASURED
) -> float | None:
    """Return what a precision is expected to lose, in nats: the sum over its groups.

    None if a group takes a format that was not measured, as a checkpoint's own 4-bit codes do.
    """
    taken = [(sensitivity.head, precision.head), (sensitivity.embedding, precision.embedding)]
    for index, own in enumerate(sensitivity.of_layers(config.num_hidden_layers)):
        formats = precision.layer(index)
        taken += zip((own.attention, own.gate_up, own.down), formats, strict=True)
    total = 0.0
    for losses, name in taken:
        if name in UNROUNDED:
            continue
        if name not in losses:
            return None
        total += losses[name]
    return total


def mix_bits(name: str) -> float | None:
    """Return the bits of a mix, None for a name that is not one."""
    found = _MIX.fullmatch(name)
    return float(found[1]) if found else None


def find_precision(
    name: str, config: ModelConfig, sensitivity: Sensitivity = MEASURED
) -> Precision:
    """Return the precision with this name, for this model.

    Raises ConfigError for a name that is none, or a mix of fewer bits than can be had.
    """
    if name in PRECISIONS:
        return PRECISIONS[name]
    bits = mix_bits(name)
    least, most = (bits_of(config, PRECISIONS[level]) for level in ("int2", "int8"))
    if bits is not None and least <= bits <= most:
        return compose(config, bits, sensitivity)
    raise ConfigError(
        f'precision: expected one of {", ".join(PRECISIONS)}, or "mix-B" with B of '
        f'{least + 0.005:.2f} to {most:.2f} bits for a weight, found "{name}".'
    )


@lru_cache(maxsize=16)
def most_bits(config: ModelConfig) -> float:
    """Return the bits of the largest mix: what more would gain is not worth its time."""
    return ceil(100 * bits_of(config, compose(config, 32.0))) / 100


def bits_of(config: ModelConfig, precision: Precision) -> float:
    """Return the bits for a weight, those of norms, scales and padding included."""
    return 8 * weight_sizes(config, precision).total / weight_count(config)
