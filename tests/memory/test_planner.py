"""The planner against figures worked out by hand; no machine is looked at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import cpumix
from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.fit.known_models import known_model
from cpumix.memory.planner import choose_precision, make_plan
from cpumix.memory.sizes import PREFILL_TOKENS, buffer_bytes

GIB = 2**30


@pytest.fixture(scope="module")
def mixtral() -> ModelConfig:
    return known_model("mixtral-8x7b")


@pytest.mark.parametrize(
    ("precision", "gib"),
    [("bf16", 87.0), ("int8", 46.2), ("int4", 23.6), ("int3", 18.3), ("int2", 13.1)],
)
def test_weights_of_mixtral(mixtral, precision, gib):
    plan = make_plan(mixtral, precision, 4096, 64 * GIB)
    assert plan.file_bytes / GIB == pytest.approx(gib, abs=0.05)
    assert plan.file_bytes == plan.dense_bytes + plan.expert_bytes


def test_experts_of_mixtral_are_exact(mixtral):
    one = 3 * 4096 * 14336 * 17 // 32  # 4.25 bits a weight
    one += 64 * (2 * 14336 + 4096) // 16  # and a head for 16 rows
    plan = make_plan(mixtral, "int4", 4096, 64 * GIB)
    assert plan.expert_bytes == 32 * 8 * one  # every expert counts for memory
    assert plan.layer_active_bytes == 2 * one
    assert plan.token_expert_bytes == 32 * 2 * one  # two count for time
    embeddings = 32000 * 4096 * 13 // 16  # of which a token reads one row
    assert plan.token_bytes == plan.dense_bytes - embeddings + plan.token_expert_bytes


@pytest.mark.parametrize(
    ("ram_gib", "context", "precision", "verdict"),
    [
        (192, 4096, "bf16", "fits"),
        (96, 4096, "int8", "fits"),
        (64, 4096, "int8", "tight"),
        (64, 32768, "mix-6.69", "fits"),
        (48, 4096, "mix-6.02", "fits"),
        (32, 4096, "mix-3.96", "fits"),
        (24, 4096, "mix-2.93", "fits"),
        (19, 4096, "int2", "tight"),
        (16, 4096, "int2", "pages"),
        (8, 4096, "int2", "pages"),
        (4, 4096, "int2", "pages"),
        (2, 4096, "int2", "no"),
        (4, 32768, "int2", "no"),
    ],
)
def test_chosen_precision_of_mixtral(mixtral, ram_gib, context, precision, verdict):
    plan = choose_precision(mixtral, ram_gib * GIB, context)
    assert (plan.precision, plan.verdict) == (precision, verdict)


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.70, "fits"), (0.7001, "tight"), (0.75, "tight"), (0.7501, "pages")]
)
def test_verdict_at_its_borders(mixtral, share, verdict):
    plan = make_plan(mixtral, "int4", 4096, GIB)
    plan = replace(plan, ram_bytes=math.ceil(plan.total_bytes / share))
    assert plan.share == pytest.approx(share)
    assert plan.verdict == verdict


def test_plan_says_no_below_its_minimum(mixtral):
    plan = make_plan(mixtral, "int8", 4096, 8 * GIB)
    enough = -(-plan.minimum_bytes * 4 // 3)
    assert replace(plan, ram_bytes=enough).verdict == "pages"
    assert replace(plan, ram_bytes=enough - 4).verdict == "no"


def kv_bytes(config: ModelConfig, context: int, kv: str = "f16") -> int:
    return make_plan(config, "int4", context, GIB, kv).kv_bytes


def test_kv_cache_is_as_exact_as_the_weights(mixtral):
    assert make_plan(mixtral, "bf16", 4096, GIB).kv == "f32"
    assert make_plan(mixtral, "int8", 4096, GIB).kv == "f16"
    assert make_plan(mixtral, "bf16", 4096, GIB, "f16").kv == "f16"


def test_kv_cache_of_mixtral(mixtral):
    assert kv_bytes(mixtral, 4096) == GIB // 2  # 128 KiB a token
    assert kv_bytes(mixtral, 32768) == 4 * GIB
    assert kv_bytes(mixtral, 4096, "f32") == GIB
    assert kv_bytes(mixtral, 4096, "int8") == GIB // 4 * 130 // 128  # a scale to 128 codes


def test_kv_cache_honours_heads_and_head_dim(mixtral):
    assert kv_bytes(replace(mixtral, head_dim=256), 4096) == GIB
    assert kv_bytes(replace(mixtral, num_key_value_heads=2), 4096) == GIB // 8


def test_kv_cache_stops_growing_at_the_sliding_window(mixtral):
    rolling = replace(mixtral, sliding_window=4096)
    assert kv_bytes(rolling, 32768) == kv_bytes(rolling, 8192)
    assert kv_bytes(rolling, 32768) < GIB  # the window and one batch, not 4 GiB
    assert kv_bytes(rolling, 1024) == kv_bytes(mixtral, 1024)


def test_buffers_stop_growing_at_a_prefill_batch(mixtral):
    assert buffer_bytes(mixtral, 1) < buffer_bytes(mixtral, 512)
    assert buffer_bytes(mixtral, 512) == buffer_bytes(mixtral, 32768)


def test_buffers_are_those_of_the_model(mixtral):
    from cpumix.transformer.buffers import Buffers
    from cpumix.transformer.forward import PREFILL_CHUNK

    assert PREFILL_CHUNK == PREFILL_TOKENS
    small = replace(mixtral, hidden_size=512, intermediate_size=1792, head_dim=32)
    buffers = Buffers(small, PREFILL_CHUNK, small.num_local_experts)
    rows = {name: row for name, row in vars(buffers).items() if hasattr(row, "codes")}
    touched = sum(row.values.nbytes for row in rows.values())
    for name in ("h", "attn_out", "expert_in", "expert_hidden"):  # the rows that matrices read
        touched += rows[name].nbytes - rows[name].values.nbytes
    assert buffer_bytes(small, 4096) == pytest.approx(touched, rel=0.1)  # spare rows and columns


@pytest.mark.parametrize(
    ("precision", "ram_gib", "sentence"),
    [
        ("int4", 64, "fits: 38 % of the memory, up to 70 % is at ease"),
        ("int8", 64, "tight: 74 % of the memory, 75 % is the most"),
        ("int4", 32, "76 % of the memory; experts come from disk as the router picks them"),
        ("int4", 2, "no: even paging needs 2.3 GiB, at most 1.5 GiB (75 %) can be used"),
    ],
)
def test_explanation_says_why(mixtral, precision, ram_gib, sentence):
    text = make_plan(mixtral, precision, 4096, ram_gib * GIB).explain()
    assert text.startswith(f"{precision}, context 4096, memory {ram_gib}.0 GiB\n  dense part")
    assert sentence in text.splitlines()[-1]


def test_public_plan_reads_sizes(mixtral):
    chosen = cpumix.plan(mixtral, ram="64G")
    assert chosen == choose_precision(mixtral, 64 * GIB, 4096)
    assert cpumix.plan(mixtral, ram=64 * GIB) == chosen
    assert cpumix.plan(mixtral, ram="64G", precision="bf16").verdict == "pages"


@pytest.mark.parametrize("context", [0, -1, 32769])
def test_context_that_the_model_does_not_have(mixtral, context):
    sentence = "expected 1 to 32768 tokens, which is what the model was made for, found"
    with pytest.raises(ConfigError, match=sentence):
        make_plan(mixtral, "int4", context, GIB)


def test_sequences_count_with_their_context(mixtral):
    one, eight = (make_plan(mixtral, "int4", 4096, 64 * GIB, parallel=n) for n in (1, 8))
    assert eight.kv_bytes == 8 * one.kv_bytes
    assert eight.buffer_bytes == one.buffer_bytes  # a chunk is as long as before
    with pytest.raises(ConfigError, match="parallel: expected 1 sequence or more, found 0"):
        make_plan(mixtral, "int4", 4096, 64 * GIB, parallel=0)
    with pytest.raises(
        ConfigError, match=r"parallel: expected at most 1048576 sequences, found 10"
    ):
        make_plan(mixtral, "int4", 4096, 64 * GIB, parallel=10**400)


def test_unknown_precision(mixtral):
    with pytest.raises(ConfigError, match=r'precision: expected one of .*, found "int5"'):
        make_plan(mixtral, "int5", 4096, GIB)


def test_unknown_kv_format(mixtral):
    with pytest.raises(ConfigError, match='KV cache: expected one of f16, int8, f32, found "int3"'):
        make_plan(mixtral, "int4", 4096, GIB, kv="int3")


@pytest.mark.parametrize("ram", ["0", -5, "64X", 64])
def test_ram_that_is_no_amount_of_memory(mixtral, ram):
    with pytest.raises(ConfigError, match="powers of two"):
        cpumix.plan(mixtral, ram=ram)
