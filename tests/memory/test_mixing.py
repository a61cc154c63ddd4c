"""Mixes against what they promise: never larger than asked, and of least loss for that."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.fit.known_models import known_model
from cpumix.memory.mixing import (
    NATS_FOR_TIME,
    bits_of,
    compose,
    find_precision,
    groups_of,
    loss_of,
    most_bits,
)
from cpumix.memory.sizes import weight_sizes
from cpumix.quant.precision import PRECISIONS, Precision
from cpumix.quant.sensitivity import MEASURED, LayerLosses, Sensitivity
from cpumix.store import build_entries
from cpumix.store.gguf import align
from cpumix.store.layout import ALIGNMENT


@pytest.fixture(scope="module")
def mixtral() -> ModelConfig:
    return known_model("mixtral-8x7b")


@pytest.mark.parametrize("bits", [2.42, 2.5, 2.93, 3.2, 3.96, 4.4, 6.02, 6.5])
def test_a_mix_fills_its_bits_to_the_last_expert(mixtral: ModelConfig, bits: float) -> None:
    found = bits_of(mixtral, compose(mixtral, bits))
    assert bits - 0.06 < found <= bits  # a layer's experts differ by 0.03 bits of the model or more


def test_sizes_are_those_of_the_file(mixtral: ModelConfig) -> None:
    chosen = compose(mixtral, 3.3)
    entries = build_entries(mixtral, chosen)
    assert weight_sizes(mixtral, chosen).total == sum(align(e.nbytes, ALIGNMENT) for e in entries)
    assert {e.format for e in entries} > {"f32"}


def test_more_bits_lose_less(mixtral: ModelConfig) -> None:
    losses = [loss_of(mixtral, compose(mixtral, bits / 10)) for bits in range(25, 85, 5)]
    assert losses == sorted(losses, reverse=True)
    for level in ("int3", "int4"):  # at equal bytes a mix is better than a level
        bits = bits_of(mixtral, PRECISIONS[level])
        assert loss_of(mixtral, compose(mixtral, bits)) < loss_of(mixtral, PRECISIONS[level])


def test_the_same_name_is_the_same_mix(mixtral: ModelConfig) -> None:
    compose.cache_clear()
    first = compose(mixtral, 3.3)
    compose.cache_clear()
    assert compose(mixtral, 3.3) == first == find_precision("mix-3.3", mixtral)


def test_a_mix_of_one_layer_is_the_best_of_all() -> None:
    """Against every combination, counted out: within what one step of one group gains."""
    small = replace(
        known_model("mixtral-8x7b"), num_hidden_layers=1, hidden_size=256, intermediate_size=512,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, vocab_size=4096,
    )  # fmt: skip
    groups = list(groups_of(small, MEASURED))
    reference = sum(max(o.read for o in g.options) for g in groups)
    fixed = weight_sizes(small, PRECISIONS["int2"]).total - sum(
        next(o for o in g.options if set(o.formats) <= {"q2s", "q6"}).nbytes for g in groups
    )

    def cost(options: tuple) -> float:
        read = sum(o.read for o in options) / reference
        return sum(o.loss for o in options) + 100 * NATS_FOR_TIME * read

    for bits in (4.5, 5.0, 6.0):
        room = int(bits * small_count(small) / 8) - fixed
        fitting = [c for c in product(*(g.options for g in groups)) if size(c) <= room]
        chosen = compose(small, bits)
        total = weight_sizes(small, chosen).total
        assert total - fixed <= room
        loss = loss_of(small, chosen)
        found = next(
            c
            for c in fitting
            if size(c) == total - fixed and sum(o.loss for o in c) == pytest.approx(loss)
        )
        best = min(fitting, key=cost)
        assert cost(found) <= 1.25 * cost(best)


def size(options: tuple) -> int:
    return sum(o.nbytes for o in options)


def small_count(config: ModelConfig) -> int:
    from cpumix.memory.sizes import weight_count

    return weight_count(config)


def test_sensitivities_keep_their_sums_at_any_depth() -> None:
    whole = sum(own.down["q2s"] for own in MEASURED.layers)
    for count in (1, 2, 6, 7, 32, 56):
        laid = MEASURED.of_layers(count)
        assert len(laid) == count
        assert sum(own.down["q2s"] for own in laid) == pytest.approx(whole)
    assert MEASURED.of_layers(32)[0].down["q2s"] == max(
        own.down["q2s"] for own in MEASURED.of_layers(32)
    )


def test_what_a_model_measured_itself_decides(mixtral: ModelConfig) -> None:
    """A model whose last layer alone suffers keeps that one's bits."""
    nothing = {name: 0.0 for name in ("q2s", "q3s", "q4s", "q6", "q8")}
    suffers = {name: loss for name, loss in zip(nothing, (1.0, 0.2, 0.05, 0.01, 0.0), strict=True)}
    layers = [LayerLosses({"q6": 0.0, "q8": 0.0}, nothing, nothing)] * 31
    last = LayerLosses({"q6": 0.0, "q8": 0.0}, suffers, suffers)
    own = Sensitivity((*layers, last), {"q6": 0.0, "q8": 0.0}, {"q6": 0.0, "q8": 0.0})
    chosen = compose(mixtral, 2.6, own)
    assert chosen.layers[31].gate_up == chosen.layers[31].down == "q8"
    assert {layer.gate_up for layer in chosen.layers[:31]} == {"q2s"}


@pytest.mark.parametrize("name", ["mix-2.3", "mix-9", "mix-0", "mix-", "int5", "mix-3.456"])
def test_what_is_no_precision_is_told(mixtral: ModelConfig, name: str) -> None:
    message = r'expected one of bf16, int8, .* or "mix-B" with B of 2.4\d to 8.50 bits for a weight'
    with pytest.raises(ConfigError, match=message):
        find_precision(name, mixtral)


def test_a_mix_does_not_spend_more_than_its_time_is_worth(mixtral: ModelConfig) -> None:
    assert 6.5 < most_bits(mixtral) < bits_of(mixtral, PRECISIONS["int8"])
    largest = compose(mixtral, most_bits(mixtral))
    assert replace(compose(mixtral, 8.4), name="") == replace(largest, name="")


def test_levels_are_found(mixtral: ModelConfig) -> None:
    found: Precision = find_precision("int3", mixtral)
    assert found is PRECISIONS["int3"]
