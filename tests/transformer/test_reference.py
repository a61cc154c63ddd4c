"""The reference forward pass answers as transformers did, and its parts mean what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
from oracle_cases import CASES, LOGITS_TOLERANCE, MISTRAL, MIXTRAL, Case, Golden, weights_crc
from tiny_checkpoint import noise, to_bf16, to_f32

from cpumix.config import ModelConfig


def config_of(case: Case) -> ModelConfig:
    return ModelConfig.from_huggingface(dict(case.config), where=case.name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_equals_transformers(case: Case) -> None:
    golden = Golden.load(case.name)
    bits = case.weights()
    assert weights_crc(bits) == golden.weights, "the generator no longer makes these weights"
    np.testing.assert_array_equal(case.prompt(), golden.prompt)

    ids = np.concatenate([golden.prompt, golden.greedy])
    weights = {name: to_f32(value) for name, value in bits.items()}
    logits = reference.forward(config_of(case), weights, ids.tolist())

    assert logits.shape == (len(ids), case.config["vocab_size"])
    assert golden.error(logits) <= LOGITS_TOLERANCE
    after = logits[len(golden.prompt) - 1 : -1]  # each row here chose the next greedy token
    np.testing.assert_array_equal(after.argmax(axis=1), golden.greedy)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prompt-3000", {"rope_theta": 1e4}),
        ("window-16", {"sliding_window": 17}),
        ("dense-mistral-window", {"sliding_window": None}),
        ("dense-llama3-rope", {"rope_scaling": None}),
        ("tied", {"rms_norm_eps": 1e-5}),
        ("top3-of-8", {"num_experts_per_tok": 2}),
    ],
    ids=str,
)
def test_golden_notices_a_wrong_field(name: str, change: dict[str, Any]) -> None:
    case = next(case for case in CASES if case.name == name)
    golden = Golden.load(name)
    weights = {name: to_f32(bits) for name, bits in case.weights().items()}
    logits = reference.forward(replace(config_of(case), **change), weights, golden.prompt.tolist())
    assert golden.error(logits) > 10 * LOGITS_TOLERANCE


def test_visible_window_of_two_sees_itself_and_the_one_before() -> None:
    seen = reference.visible(4, 2)
    np.testing.assert_array_equal(seen, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]])


def test_visible_without_window_sees_everything_before() -> None:
    np.testing.assert_array_equal(reference.visible(5, None), np.tri(5, dtype=bool))


def test_rotate_turns_first_and_second_half_together() -> None:
    turned = reference.rotate(
        np.array([[1.0, 0.0, 0.0, 2.0]]), np.cos([[0.5, 1.0]]), np.sin([[0.5, 1.0]])
    )
    expected = [[math.cos(0.5), -2 * math.sin(1), math.sin(0.5), 2 * math.cos(1)]]
    np.testing.assert_allclose(turned, expected, rtol=1e-15)


def test_feed_forward_softmax_over_chosen_experts() -> None:
    # Softmax of all, pick two, divide by their sum: what the Mixtral paper does in other words.
    case = Case("routing", 0, MIXTRAL)
    part = {
        name.removeprefix("blk.0."): to_f32(bits).astype(np.float64)
        for name, bits in case.weights().items()
        if name.startswith("blk.0.")
    }
    config = config_of(case)
    h = noise("routing", 64).reshape(1, 64)
    shares = reference.softmax(h[0] @ part["router.weight"].T)
    best = np.argsort(shares)[-2:]
    expected = sum(shares[e] * reference.expert(part, e, h[0]) for e in best) / shares[best].sum()
    np.testing.assert_allclose(reference.feed_forward(config, part, h)[0], expected, rtol=1e-12)


def test_dense_model_of_one_expert_equals_router_of_one() -> None:
    case = Case("one", 0, MISTRAL)
    config = config_of(case)
    weights = {name: to_f32(bits) for name, bits in case.weights().items()}
    routed = weights | {f"blk.{layer}.router.weight": np.ones((1, 64)) for layer in range(2)}
    ids = [1, 5, 9, 5]
    np.testing.assert_allclose(
        reference.forward(config, weights, ids),
        reference.forward(config, routed, ids),
        rtol=1e-9,
    )


def test_noise_is_standard_and_fixed() -> None:
    sample = noise("any", 1 << 16)
    assert abs(sample.mean()) < 0.02
    assert abs(sample.std() - 1) < 0.02
    # These bits are the weights of every golden file: they may never change.
    assert to_bf16(noise("fixed", 4)).tolist() == FIXED


def test_bf16_rounds_ties_to_even() -> None:
    values = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, -0.0, 3.0e38], dtype=np.float32)
    rounded = to_f32(to_bf16(values))
    np.testing.assert_array_equal(rounded[:4], [1.0, 1.0, 1.0 + 2**-6, -0.0])
    assert np.isfinite(rounded).all()


FIXED = [16322, 49185, 48965, 15997]
