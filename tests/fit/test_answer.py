"""The answers of `cpumix fit` for Mixtral 8x7B on machines of every size, without any machine."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cpumix.config import ModelConfig
from cpumix.errors import BudgetError, ConfigError
from cpumix.fit.answer import Answer, answer
from cpumix.fit.known_models import MODEL_NAMES
from cpumix.fit.sources import Source, open_source
from cpumix.fit.speed import ASSUMED, Bandwidths, tokens_per_second
from cpumix.machine import MachineInfo
from cpumix.memory.limit import make_budget
from cpumix.memory.planner import make_plan
from cpumix.quant.precision import CODED, PRECISIONS, find_level

GIB = 2**30
FIELDS = {  # of `--json`, which other programs read
    "ram_bytes",
    "target_bytes",
    "ceiling_bytes",
    "context",
    "kv",
    "choice",
    "rows",
}
ROW_FIELDS = {
    "precision",
    "bits_per_weight",
    "file_bytes",
    "weight_bytes",
    "kv_bytes",
    "buffer_bytes",
    "total_bytes",
    "share_of_ram",
    "verdict",
    "read_bytes_per_token",
    "tok_s",
}


def ask(gib: float, context: int | None = None, **options) -> Answer:
    return answer(open_source("mixtral-8x7b"), int(gib * GIB), context, ASSUMED, **options)


@pytest.mark.parametrize(
    ("gib", "context", "kv", "precision", "verdict", "status"),
    [
        (256, None, "auto", "bf16", "fits", 0),
        (192, None, "auto", "bf16", "fits", 0),
        (96, None, "auto", "int8", "fits", 0),
        (96, 32768, "auto", "int8", "fits", 0),
        (64, None, "auto", "int8", "tight", 0),
        (64, 8192, "auto", "int8", "tight", 0),
        (64, 32768, "f16", "mix-6.69", "fits", 0),
        (64, 16384, "int8", "int8", "tight", 0),
        (48, None, "auto", "mix-6.02", "fits", 0),
        (32, None, "auto", "mix-3.96", "fits", 0),
        (24, None, "auto", "mix-2.93", "fits", 0),
        (19, None, "auto", "int2", "tight", 0),
        (16, None, "auto", "int2", "pages", 3),
        (8, None, "auto", "int2", "pages", 3),
        (4, None, "auto", "int2", "pages", 3),
        (4, 32768, "f16", "int2", "no", 4),
        (2, None, "auto", "int2", "no", 4),
    ],
)
def test_choice_for_mixtral(gib, context, kv, precision, verdict, status):
    found = ask(gib, context, kv=kv)
    plan = found.choice.plan
    assert (plan.precision, plan.verdict, found.exit_status) == (precision, verdict, status)
    assert found.choice in found.rows
    low, high = found.choice.tok_s
    assert (low == high == 0) if verdict == "no" else 0 < low < high


def test_choice_at_64_gib_with_the_whole_context_says_what_else_would_do():
    found = ask(64, 32768)
    explained, sentence = found.advice
    assert explained.startswith("mix-6.69: experts q8 ")
    assert sentence.startswith("int8 fits into memory with a context of up to ")
    most = int(sentence.split("up to ")[1].split()[0])
    assert 8192 < most < 32768
    assert make_plan(found.source.config, "int8", most, 64 * GIB).verdict == "tight"
    assert make_plan(found.source.config, "int8", most + 64, 64 * GIB).verdict == "pages"


def test_no_level_stays_in_16_gib_and_int2_pages_with_figures():
    found = ask(16)
    assert {row.plan.verdict for row in found.rows} == {"pages"}
    plan = found.choice.plan
    read = {row.plan.precision: row.plan.read_bytes_per_token for row in found.rows}
    assert 0 < 4 * plan.read_bytes_per_token < read["int4"]
    assert found.advice[-1] == "int2 stays in memory with 19 GiB of memory."


@pytest.mark.parametrize(
    ("precision", "gb", "gib"),
    [("float32", 186.8, 174.0), ("bf16", 93.4, 87.0), ("int8", 49.6, 46.2), ("int4", 25.3, 23.6)],
)
def test_weights_count_every_expert_and_their_scales(precision, gb, gib):
    (row,) = (row for row in ask(64).rows if row.plan.precision == precision)
    assert row.file_bytes / 1e9 == pytest.approx(gb, abs=0.1)
    assert row.file_bytes / GIB == pytest.approx(gib, abs=0.05)
    assert row.plan.bits_per_weight == pytest.approx(8 * row.file_bytes / 46.7028e9, rel=1e-3)


def test_active_weights_count_two_experts():
    found = ask(64)
    assert found.choice.plan.weights == 46_702_792_704
    assert found.active_weights == 12_879_925_248


def test_rows_are_the_levels_and_the_mix_that_fills_the_memory():
    names = [row.plan.precision for row in ask(48).rows]
    assert names == ["float32", "bf16", "int8", "mix-6.02", "int4", "int3", "int2"]
    names = [row.plan.precision for row in ask(16).rows]
    assert names == ["float32", "bf16", "int8", "int4", "int3", "int2"]


def test_json_has_every_number():
    found = json.loads(json.dumps(ask(48).to_dict()))
    assert found.keys() >= FIELDS
    assert all(row.keys() >= ROW_FIELDS for row in found["rows"])
    assert (found["ram_bytes"], found["context"], found["kv"]) == (48 * GIB, 4096, "f16")
    assert found["target_bytes"] == int(0.70 * 48 * GIB)
    assert found["ceiling_bytes"] == 36 * GIB
    (row,) = (row for row in found["rows"] if row["precision"] == found["choice"])
    parts = row["weight_bytes"] + row["kv_bytes"] + row["buffer_bytes"]
    assert row["total_bytes"] == parts
    assert row["share_of_ram"] == row["total_bytes"] / found["ram_bytes"] <= 0.70


def test_a_named_precision_is_the_choice_and_a_better_one_is_told():
    found = ask(48, precision="int8")
    assert found.choice.plan.verdict == "pages"
    assert "mix-6.02 fits into memory as it is: 70 %." in found.advice
    assert ask(64, precision="mix-3").choice.plan.precision == "mix-3"


def test_what_does_not_run_says_what_would():
    *_, first, second = ask(4, 32768).advice
    assert first == "int2 stays in memory with 24 GiB of memory."
    assert second.startswith("int2 runs, reading from disk, with a context of up to ")
    assert ask(4, 32768).commands == ()


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_known_model_has_an_answer(name):
    found = answer(open_source(name), 64 * GIB, None, ASSUMED)
    assert found.choice.plan.verdict in ("fits", "tight", "pages")
    assert found.commands[0].startswith(f"cpumix convert CHECKPOINT {name}-")


def test_commands_name_what_differs_from_the_usual(tmp_path):
    source = Source("mine", open_source(None).config, tmp_path)
    found = answer(source, 96 * GIB, 32768, ASSUMED, kv="int8")
    assert found.commands == (
        f"cpumix convert {tmp_path} mine-int8.bin --precision int8",
        "cpumix run mine-int8.bin -p 'Why is the sky blue?' --context 32768 --kv int8",
    )


@pytest.mark.parametrize(
    ("precision", "loss"),
    [
        (find_level("int4"), "; about 0.0069 nats lost"),
        (CODED, None),  # a checkpoint's own numbers: how far rounding them went, nobody measured
        (replace(CODED, layers=PRECISIONS["bf16"].layers), "; about 0.0001 nats lost"),
    ],
)
def test_losses_are_told_where_they_were_measured(precision, loss):
    config = open_source(None).config
    explained, *_ = answer(Source("m", config, precision=precision), 96 * GIB, None, ASSUMED).advice
    assert explained.startswith(f"{precision.name}: experts ")
    assert (loss in explained) if loss else "nats" not in explained


@pytest.mark.parametrize("context", [0, 32769])
def test_context_that_the_model_does_not_have(context):
    with pytest.raises(ConfigError, match="expected 1 to 32768 tokens, which is what the model"):
        ask(64, context)


def test_speed_is_bound_by_memory_or_disk():
    config = open_source(None).config
    fits, pages = (make_plan(config, "int4", 4096, gib * GIB) for gib in (64, 16))
    slow, fast = (Bandwidths(w, 2e9, True, True) for w in (30e9, 60e9))
    low, high = tokens_per_second(fits, 32, slow)
    assert high < slow.memory / fits.token_bytes
    assert tokens_per_second(fits, 32, fast) > (1.5 * low, 1.5 * high)
    assert tokens_per_second(pages, 32, fast)[1] == 2e9 / pages.read_bytes_per_token


def test_run_refuses_a_context_and_says_which_one_runs():
    config = open_source(None).config
    machine = MachineInfo(4 * GIB, 4 * GIB, None, 2, 4096)
    level = find_level("int2")
    with pytest.raises(
        BudgetError, match=r"Use --ram \d+M or more, or a --context of at most"
    ) as e:
        make_budget(config, level, 32768, "f16", None, machine)
    most = int(str(e.value).split()[-1].rstrip("."))
    assert make_budget(config, level, most, "f16", None, machine)[0] is not None
    with pytest.raises(BudgetError):
        make_budget(config, level, most + 64, "f16", None, machine)
    *_, sentence = ask(4, 32768).advice
    assert f"with a context of up to {most} tokens" in sentence  # `fit` knew


def test_the_largest_model_is_planned_from_one_expert(monkeypatch):
    """A million experts are alike: a plan looks at one, or it would not end."""
    asked = []
    original = ModelConfig.expert_tensors
    monkeypatch.setattr(
        ModelConfig, "expert_tensors", lambda *args: asked.append(args) or original(*args)
    )
    largest = {"num_hidden_layers": 1000, "num_local_experts": 1000, "num_experts_per_tok": 1000}
    config = ModelConfig.from_huggingface({"model_type": "mixtral", **largest}, "config.json")
    found = answer(Source("largest", config), 64 << 30, 4096, ASSUMED)
    attention, norms, router = 2 * 4096 * (4096 + 1024), 2 * 4096, 1000 * 4096
    layer = attention + norms + router + 1000 * 3 * 4096 * 14336
    assert found.choice.plan.weights == 1000 * layer + 2 * 32000 * 4096 + 4096
    assert len(found.rows) == 6
    assert len(asked) < 60


@pytest.mark.parametrize(("gib", "offered"), [(96, True), (64, False), (24, False), (2, False)])
def test_low_copies_are_offered_where_they_win(gib, offered):
    found = ask(gib)
    sentences = [s for s in found.advice if "--low-copy" in s]
    assert bool(sentences) == offered
    if offered:
        config, precision = found.source.config, find_level("int8")
        low = make_plan(config, replace(precision, low="q2s"), 4096, gib * GIB)
        assert low.verdict == found.choice.plan.verdict == "fits"
        faster, _ = tokens_per_second(low, 32, ASSUMED)
        assert faster > 1.05 * found.choice.tok_s[0]
        assert f"{faster:.2g}-" in sentences[0]
