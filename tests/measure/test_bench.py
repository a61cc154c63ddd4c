"""`cpumix bench`: what it counts and what it prints; how fast a machine is, no test can say."""

from __future__ import annotations

import json
import subprocess
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from paged_models import page, write_paged
from tiny_models import CONFIGS, write_model

import cpumix
from cpumix.cache_dir import CACHE_VARIABLE
from cpumix.cli.main import main
from cpumix.config import ModelConfig
from cpumix.engine.engine import Engine
from cpumix.kernels.compile.isa import active
from cpumix.measure import bench, start
from cpumix.measure.parallel import measure_parallel

pytestmark = pytest.mark.slow

HAS_LIMITS = active().name != "generic"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("bench"), CONFIGS["moe"], "int4")


def invoke(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_active_weights_are_those_of_two_experts_and_one_head(path):
    with cpumix.load(path) as model:
        found, c = bench.active_weights(model.file), model.config
    attention = 2 * c.hidden_size * (c.q_size + c.kv_size)
    experts = c.num_experts_per_tok * 3 * c.hidden_size * c.intermediate_size
    router, norms = c.num_local_experts * c.hidden_size, 2 * c.hidden_size
    one = attention + experts + router + norms
    for_all = 2 * c.hidden_size * c.kv_size  # of the last layer
    assert found.body == (c.num_hidden_layers - 1) * one + for_all + c.hidden_size
    assert found.tail == one - for_all + c.vocab_size * c.hidden_size
    assert 0.5 < found.nbytes / (found.body + found.tail) < 4


def test_tied_head_is_counted_once(tmp_path):
    tied, own = CONFIGS["moe"] | {"tie_word_embeddings": True}, CONFIGS["moe"]
    found = []
    for name, config in (("tied", tied), ("own", own)):
        (tmp_path / name).mkdir()
        with cpumix.load(write_model(tmp_path / name, config)) as model:
            found.append(bench.active_weights(model.file))
    assert found[0] == found[1]


def test_json_has_a_row_for_each_kind_of_work(path):
    result = invoke(path, "--rounds", 2, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    work = [(row["work"], row["tokens"]) for row in report["rows"]]
    prompts = [("prefill", n) for n in bench.PROMPT_TOKENS]
    assert [w for w in work if w[0] == "prefill"] == prompts
    assert ("decode", 1) in work
    assert ("experts", bench.EXPERT_ROWS) in work
    assert (report["threads"], report["rounds"], report["isa"]) == (1, 2, active().name)
    for row in report["rows"]:
        assert row["precision"] == "int4"
        assert 0 < row["tok_s_low"] <= row["tok_s"] <= row["tok_s_high"]
        assert row["gb_s"] > 0 < row["gmac_s"]
        if HAS_LIMITS:
            name = "read_gb_s" if row["work"] == "decode" else "int8_gmac_s"
            assert report["limits"][name] > 0
            assert row["share_of_limit"] > 0


def test_experts_by_themselves_are_those_of_the_model(path):
    with cpumix.load(path) as model:
        found = bench.Experts(model.file, 1)
        c, size = model.config, model.file.tensors[model.file.expert_name(0, 0)].nbytes
        assert found.nbytes == c.num_experts_per_tok * size
        weights = 3 * c.hidden_size * c.intermediate_size
        assert found.macs == bench.EXPERT_ROWS * c.num_experts_per_tok * weights
        found.run()


def test_experts_that_come_and_go_are_not_timed_by_themselves(tmp_path):
    with cpumix.load(write_paged(tmp_path / "model.bin")) as model:
        assert not model.paged
        page(model, experts=6)
        assert model.paged
        timed = bench.Bench(model, None, [16])
        timed.warm_up()
        timed.round()
    rows = timed.rows()
    assert [row.work for row in rows] == ["decode", "prefill"]
    assert all(row.limit is None and row.share_of_limit is None for row in rows)


@pytest.mark.skipif(not HAS_LIMITS, reason="nobody's limits")
def test_products_of_bfloat16_have_no_share_of_byte_products(tmp_path):
    model = write_model(tmp_path, CONFIGS["moe"], "bf16")
    report = json.loads(invoke(model, "--rounds", 1, "--json").stdout)
    assert report["limits"]["read_gb_s"] > 0 < report["limits"]["int8_gmac_s"]
    for row in report["rows"]:
        assert (row["share_of_limit"] is None) == (row["work"] != "decode")


class FakeLimits:
    """A memory whose speed doubles and halves."""

    def __init__(self):
        self.reads = iter([10.0, 10.0, 40.0, 40.0, 40.0, 40.0])

    def read_gb_s(self):
        return next(self.reads)

    def int8_gmac_s(self):
        return 100.0


def test_share_is_of_the_limit_of_the_same_moment(path, monkeypatch):
    with cpumix.load(path) as model:
        timed, size = (
            bench.Bench(model, FakeLimits(), [16]),
            bench.active_weights(model.file).nbytes,
        )
    unit = bench.DECODE_TOKENS * size / 1e10  # seconds at 10 GB/s
    clock = iter([x * unit for x in (0, 1, 2, 2.25, 3, 3.5)])  # all of 10, all and half of 40 GB/s
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    for _ in range(3):
        timed._time("decode", 1, lambda: None, bench.DECODE_TOKENS)
    (row,) = timed.rows()
    assert row.share_of_limit == pytest.approx(1)
    assert row.limit == 40
    assert row.gb_s == pytest.approx(20)


def test_table_can_be_pasted(path):
    result = invoke(path, "--rounds", 1)
    first, second, *rows = result.stdout.splitlines()
    assert first.startswith(f"cpumix {cpumix.__version__}, ")
    assert first.endswith("median of 1 rounds")
    assert second.startswith("limits: ")
    assert rows[0].startswith("int4 decode     1  ")
    assert all(" tok/s (" in row for row in rows)
    assert max(map(len, rows)) <= 100


def test_without_a_model_layers_are_made_up_and_starts_timed(monkeypatch, tmp_path):
    tiny = ModelConfig.from_huggingface(
        CONFIGS["moe"] | {"vocab_size": 4096, "max_position_embeddings": 1024}, "tiny"
    )
    monkeypatch.setattr("cpumix.measure.random_model.mixtral_8x7b", lambda layers: tiny)
    monkeypatch.setattr(bench, "measure_start", lambda: {"cold": 2.5, "warm": 0.5})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = invoke("--rounds", 1, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {row["precision"] for row in report["rows"]} == {"int4", "int8"}
    if HAS_LIMITS:
        for row in report["rows"]:  # of one round
            speed = row["gb_s"] if row["work"] == "decode" else row["gmac_s"]
            assert row["share_of_limit"] == pytest.approx(speed / row["limit"])
        decode = [row["limit"] for row in report["rows"] if row["work"] == "decode"]
        assert len(decode) == 2
        assert report["limits"]["read_gb_s"] == pytest.approx(sum(decode) / 2)
    assert report["start_seconds"] == {"cold": 2.5, "warm": 0.5}
    assert not list(tmp_path.iterdir())  # what was made is gone


def test_cold_start_has_an_empty_cache_and_warm_start_the_same_one(monkeypatch):
    caches = []

    def run(command, env, **options):
        assert options["check"]
        caches.append(env[CACHE_VARIABLE])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(start.subprocess, "run", run)
    assert list(start.measure_start()) == ["cold", "warm"]
    assert caches[0] == caches[1]


def test_parallel_texts_have_a_row_for_each_number(path):
    result = invoke(path, "--parallel", "1,3", "--rounds", 1, "--threads", 1, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["parallel"] for row in rows] == [1, 3]
    for row in rows:
        assert (row["work"], row["precision"]) == ("generate", "int4")
        assert row["tok_s"] == pytest.approx(row["parallel"] * row["tok_s_per_stream"])
        assert (row["share_of_limit"] or 1) > 0
    one, three = (row["experts_read"] for row in rows)
    assert one == 2 <= three <= 6
    table = invoke(path, "--parallel", "2", "--rounds", 1).stdout
    assert "int4 generate   2  " in table


def test_parallel_texts_begin_together_however_long_it_takes_to_ask_for_them(path, monkeypatch):
    write = Engine.write

    def hesitate(self, *arguments):
        time.sleep(0.1)  # in which this model writes whole texts
        return write(self, *arguments)

    monkeypatch.setattr(Engine, "write", hesitate)
    with cpumix.load(path, parallel=3, threads=1) as model:
        (row,) = measure_parallel(model, None, [3], rounds=1)
    assert row.parallel == 3


def test_parallel_wants_numbers(path):
    for text in ("0", "1,x", "-3"):
        result = invoke(path, "--parallel", text)
        assert result.exit_code == 2
        assert "expected numbers of texts such as 1,2,4" in result.stderr
