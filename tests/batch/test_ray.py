"""Batches on Ray: the same bytes as in one process, whatever dies, and columns of a dataset."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from batches import run_batch, write_lines
from served_models import serve

import cpumix
from cpumix.batch import ray_actor, ray_crew
from cpumix.batch.files.json_lines import JsonLines
from cpumix.batch.here import CrewHere
from cpumix.batch.job import BatchJob, Crew
from cpumix.batch.parts import PartsFolder
from cpumix.batch.settings import Settings
from cpumix.batch.worker import ModelOptions, Worker, look_at
from cpumix.errors import BudgetError, ConfigError
from cpumix.ray import Generate, generate

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    # Ray's own: sockets that it leaves open, names that pandas is about to drop.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PAGE = (Path(__file__).parents[2] / "docs" / "batches.md").read_text("utf-8")
LINES = [
    b"no" if i % 9 == 4 else {"prompt": f"Hello you {i}", "max_tokens": 5 + i % 7, "row": i}
    for i in range(40)
]


@pytest.fixture(scope="module", autouse=True)
def quiet_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as change:
        change.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield
        ray.shutdown()


@pytest.fixture
def cluster() -> None:
    """A small cluster on this machine, which the tests of a process share."""
    if not ray.is_initialized():
        ray.init(
            "local",
            num_cpus=4,
            object_store_memory=80 << 20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@pytest.fixture
def loading(chat_file: Path) -> tuple[ModelOptions, Settings]:
    found = look_at(chat_file, 512, "auto")
    return ModelOptions(chat_file, found.fingerprint, 3), Settings(found.context, found.kv)


def written(folder: Path, crew: Crew, show: Any = lambda done, counts: None) -> bytes:
    """Let a crew answer `LINES`; return the output."""
    folder.mkdir()
    source = JsonLines(write_lines(folder / "in.jsonl", LINES), None)
    job = BatchJob(source, folder / "out.jsonl", 2)
    try:
        with PartsFolder(job.target, {}) as parts:
            report = job.run(parts, crew, show)
            job.join(parts, report, force=False)
    finally:
        crew.close()
    assert report.failed == 4
    assert report.counts.lines == 40
    return job.target.read_bytes()


def wait_for_all(crew: ray_crew.RayCrew) -> None:
    """Return when each actor has opened the model."""
    while not all(member.opened for member in crew.members):
        crew.take(1.0)


def test_two_actors_of_which_one_is_killed(cluster, loading, tmp_path):
    alone = written(tmp_path / "alone", CrewHere(*loading))
    said: list[str] = []
    crew = ray_crew.RayCrew(*loading, actors=2, say=said.append)
    wait_for_all(crew)  # else one may be done with everything before the other has begun
    killed: list[int] = []

    def kill(done, counts):
        opened = [member for member in crew.members if member.opened and member.parts]
        if done >= 4 and len(opened) == 2 and not killed:
            assert [member.opened.threads for member in opened] == [1, 1]
            killed.append(opened[0].opened.process)
            os.kill(killed[0], signal.SIGKILL)

    assert written(tmp_path / "ray", crew, kill) == alone
    assert killed
    assert any("an actor is gone, its parts are done elsewhere. The actor" in note for note in said)


def test_command(cluster, chat_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(Path("in.jsonl"), LINES[:4])
    for out, options in (("here.jsonl", []), ("ray.jsonl", ["--ray"])):
        done = run_batch("in.jsonl", out, "-m", chat_file, *options)
        assert done.exit_code == 0, done.stderr
    assert Path("here.jsonl").read_bytes() == Path("ray.jsonl").read_bytes()


def test_all_processors_are_asked_for_and_nothing_else_is(cluster, loading):
    crew = ray_crew.RayCrew(*loading, actors=3)
    try:
        assert [member.cpus for member in crew.members] == [1, 1, 1]
        wait_for_all(crew)
        # An actor that reads the model, and calls of `counts`, wait for nothing.
        assert ray.get(crew._source.read.remote(0, 4), timeout=60) == b"GGUF"
    finally:
        crew.close()


def test_model_that_does_not_fit_is_told_in_its_own_words(cluster, loading):
    options, settings = loading
    small = ModelOptions(options.path, options.fingerprint, 3, ram=1 << 20)
    crew = ray_crew.RayCrew(small, settings)
    try:
        with pytest.raises(BudgetError, match="memory: a budget of"):
            while True:
                crew.take(1.0)
    finally:
        crew.close()


def test_actor_that_waits_is_told(cluster, loading, monkeypatch):
    monkeypatch.setattr(ray_crew, "PATIENCE", 0.0)
    said: list[str] = []

    @ray.remote(num_cpus=4)
    class Other:
        def here(self) -> bool:
            return True

    other = Other.remote()
    assert ray.get(other.here.remote())
    crew = ray_crew.RayCrew(*loading, say=said.append)
    try:
        while not said:
            crew.take(0.1)
            crew._looked = 0.0
        assert "an actor waits for 4 free processors" in said[0]
        assert crew.free == 0
        ray.kill(other)
        while not crew.free:
            crew.take(1.0)
    finally:
        crew.close()


def test_no_node(cluster, loading, monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [])
    with pytest.raises(ConfigError, match="expected a node that can run the model, found none"):
        ray_crew.RayCrew(*loading)


def test_no_cluster(monkeypatch):
    def refuse(**options):
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError, match=r"expected a cluster at auto, found none \(nobody there"):
        ray_crew.connect("auto")


def test_nobody_listens_at_an_address(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", None)
    with pytest.raises(ConfigError, match=f"expected a cluster at 127.0.0.1:{port}, found none"):
        ray_crew.connect(f"127.0.0.1:{port}")


@pytest.fixture
def elsewhere(loading, tmp_path, monkeypatch):
    """A node that does not have the model: where it would be, and how it is sent."""
    monkeypatch.setenv("CPUMIX_CACHE_DIR", str(tmp_path / "cache"))
    options, _ = loading
    data = options.path.read_bytes()
    sent: list[int] = []

    def read(offset, count):
        sent.append(offset)
        return data[offset : offset + count]

    return ModelOptions(tmp_path / "no" / "chat.bin", options.fingerprint, 1), read, sent, data


def test_model_is_fetched_once_for_a_node(elsewhere, monkeypatch):
    options, read, sent, data = elsewhere
    monkeypatch.setattr(ray_actor, "PIECE", 1 << 16)
    path = ray_actor.node_file(options, read)
    assert path.read_bytes() == data
    count = -(-len(data) // (1 << 16)) + 1  # the last one finds the end
    assert len(sent) == count
    assert ray_actor.node_file(options, read) == path
    assert len(sent) == count
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_actors_that_start_together_fetch_the_model_once(elsewhere, monkeypatch):
    options, read, sent, data = elsewhere
    monkeypatch.setattr(ray_actor, "PIECE", 1 << 16)

    def slow(offset, count):
        time.sleep(0.02)
        return read(offset, count)

    with ThreadPoolExecutor(2) as actors:
        first, second = actors.map(ray_actor.node_file, [options] * 2, [slow] * 2)
    assert first == second
    assert first.read_bytes() == data
    assert len(sent) == len({*sent})


def test_what_a_dead_actor_fetched_is_removed(elsewhere):
    options, read, _, _ = elsewhere
    path = ray_actor.node_file(options, read)
    path.unlink()
    path.with_name(f".{path.name}.0123abcd.partial").write_bytes(b"half")
    assert ray_actor.node_file(options, read) == path
    assert [*path.parent.iterdir()] == [path]


def test_model_that_changed_is_not_fetched(elsewhere):
    options, read, _, _ = elsewhere
    with pytest.raises(ConfigError, match="found that another one was sent"):
        ray_actor.node_file(options, lambda offset, count: bytes(len(read(offset, count))))
    folder = options.path.parent.parent / "cache" / "models"
    assert [*folder.iterdir()] == []


def test_no_room_for_a_copy(elsewhere, monkeypatch):
    options, read, _, _ = elsewhere
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr(ray_actor.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match="free for a copy in"):
        ray_actor.node_file(options, read)


def test_model_that_was_replaced(loading):
    options, settings = loading
    with pytest.raises(ConfigError, match="expected the one that the batch began with"):
        Worker(ModelOptions(options.path, "0-1", 1), settings)


PROMPTS = ["Hello", None, "you", "all that"] * 3
OPTIONS: dict[str, Any] = {"context": 256, "max_tokens": 4, "seed": 2}


def table() -> pa.Table:
    return pa.table({"text": PROMPTS, "n": range(12)})


def test_columns_of_a_dataset(cluster, chat_file):
    made = generate(ray.data.from_arrow(table()), chat_file, column="text", batch_size=5, **OPTIONS)
    rows = sorted(made.take_all(), key=lambda row: row["n"])
    alone = Generate(chat_file, column="text", threads=1, **OPTIONS)
    try:
        expected = alone.answer(table())
        assert rows == expected.to_pylist()
        assert alone.answer({"text": PROMPTS, "n": range(12)}) == expected
        with pytest.raises(ConfigError, match=r"expected one of the dataset's \(n\), found .text"):
            alone.answer({"n": [1]})
    finally:
        alone.close()
    assert expected.schema.names[2:] == Generate.schema().names
    assert expected.schema.field("error").type == pa.string()
    assert [row["error"] is None for row in rows] == [prompt is not None for prompt in PROMPTS]


def test_class_of_map_batches(cluster, chat_file):
    made = ray.data.from_arrow(table()).map_batches(
        Generate,
        batch_size=3,
        fn_constructor_kwargs={"model": chat_file, "column": "text", "id_column": "n", **OPTIONS},
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    rows = sorted(made.take_all(), key=lambda row: row["n"])
    assert [row["text"] for row in rows] == PROMPTS
    texts = [row["generated_text"] for row in rows if row["text"] == "Hello"]
    assert len({*texts}) == 3  # by the id, not by the prompt
    assert json.dumps(rows[0]["completion_tokens"]) == "4"


def test_programs_of_the_page(cluster, capsys):
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(programs) == 3
    shared: dict[str, Any] = {}
    with cpumix.load(parallel=2, context=256, threads=1) as model, serve(model) as served:
        for program in programs:
            text = program.replace("http://localhost:8080", served.url)
            exec(compile(text, "docs/batches.md", "exec"), shared)
            assert capsys.readouterr().out.strip()


def test_nodes_that_join_and_die(loading, tmp_path):
    """With a cluster of its own: a process has one connection."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    alone = written(tmp_path / "alone", CrewHere(*loading))
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        crew = ray_crew.RayCrew(*loading)
        joined: list[Any] = []
        removed: list[Any] = []

        def change(done, counts):
            if done and not joined:
                joined.append(cluster.add_node(**node))
                os.kill(crew.members[0].opened.process, signal.SIGSTOP)  # it leaves work for others
            new = [member for member in crew.members if member.node != first.node]
            if new and new[0].answered and not removed:
                os.kill(first.opened.process, signal.SIGCONT)
                cluster.remove_node(joined[0], allow_graceful=False)
                removed.append(new[0])

        (first,) = crew.members
        assert written(tmp_path / "ray", crew, change) == alone
        assert removed
    finally:
        ray.shutdown()
        cluster.shutdown()
