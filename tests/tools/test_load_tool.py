"""The comparison of servers: what it counts, what it prints, and how it fails."""

from __future__ import annotations

import contextlib
import json
import sys

import click
import load
import pytest
from click.testing import CliRunner
from served_models import serve

import cpumix


@pytest.fixture(scope="module")
def port():
    with cpumix.load(context=256, parallel=2, threads=1) as model, serve(model) as served:
        yield int(served.url.rpartition(":")[2])


@pytest.mark.slow
def test_loads_are_measured(port):
    task = load.Task(words=5, tokens=6, requests=2)
    text = load.write(port, task, load.random.Random(1))
    assert text.asked < text.first < text.last
    assert text.tokens == 6
    found = load.measure(port, 2, task, seed=1)
    assert 0 < found.between < found.first + 1
    assert found.speed > 0
    with pytest.raises(click.ClickException, match="answered with status 400"):
        load.measure(port, 1, load.Task(words=900, tokens=6, requests=1), seed=1)


@pytest.mark.slow
def test_run_is_measured():
    assert load.measure_run(None, 1, load.Task(words=5, tokens=4, requests=1), seed=1) > 0


def test_ratios_are_medians_of_rounds_and_more_is_better():
    ours = [load.Load(1.0, 0.1, 20.0), load.Load(2.0, 0.1, 10.0), load.Load(1.0, 0.1, 30.0)]
    theirs = [load.Load(2.0, 0.2, 10.0), load.Load(2.0, 0.1, 10.0), load.Load(3.0, 0.3, 10.0)]
    found = {(load.OURS, 4): ours, (load.THEIRS, 4): theirs}
    mine, other = load.rows_of(found)
    assert mine["first"] == 1.0
    assert [mine[f"{name}_ratio"] for name in ("first", "between", "speed")] == [2.0, 2.0, 2.0]
    assert "speed_ratio" not in other


def test_servers_take_turns_and_a_table_is_printed(monkeypatch, tmp_path):
    (tmp_path / "llama-server").touch()
    asked, commands = [], {}

    @contextlib.contextmanager
    def started(name, command, port):
        commands[port] = command
        yield port

    def measure(port, clients, task, seed):
        asked.append("llama" if "llama" in commands[port][0] else "cpumix")
        return load.Load(0.5, 0.25, 2.0 if asked[-1] == "llama" else 4.0)

    monkeypatch.setattr(load, "started", started)
    monkeypatch.setattr(load, "measure", measure)
    monkeypatch.setattr(load, "measure_run", lambda *arguments: 0.2)
    server = str(tmp_path / "llama-server")
    options = ["--llama-server", server, "--gguf", server, "--clients", "1,4", "--rounds", "2"]
    found = CliRunner().invoke(load.main, options)
    assert found.exit_code == 0, found.output
    assert asked == ["cpumix", "llama", *["cpumix", *["cpumix", "llama"] * 2] * 2]
    assert (
        "      4  cpumix           500.0 ms   250.00 ms       4.0   1.00  1.00  2.00"
        in found.stdout
    )
    assert "HTTP, one stream: 25.0 % more time for a token than cpumix run" in found.stdout
    told = json.loads(CliRunner().invoke(load.main, [*options, "--json"]).stdout)
    assert told["http_overhead"] == pytest.approx(0.25)
    assert len(told["rows"]) == 4
    for command in commands.values():
        assert "4" in command  # places for all clients
    alone = CliRunner().invoke(load.main, ["--llama-server", server])
    assert "expected it together with --gguf" in alone.stderr


def test_server_that_does_not_begin():
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(click.ClickException, match="other did not begin: no such model"),
        load.started("other", command, load.free_port()),
    ):
        pass
