"""A model whose experts come and go writes the same text, and reads no more than it must."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from paged_models import (
    ACTIVE,
    EXPERTS,
    LAYERS,
    Recorder,
    page,
    share_in_memory,
    small_config,
    write_paged,
)

import cpumix
from cpumix.experts import madvise
from cpumix.experts.lease import Lease
from cpumix.model import Model

TOKENS = 24
needs_mincore = pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"), reason="the system does not tell what is in memory"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paged(tmp_path_factory.mktemp("paged") / "model.bin")


@pytest.fixture
def model(path):
    with cpumix.load(path, context=256, threads=1) as model:
        yield model


def ids_of(count: int, seed: int = 1) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(3, 384, count).tolist()
    return ids


def write(model: Model, prompt: int) -> tuple[list[int], bytes]:
    """Return the tokens after a prompt, and the logits of each on the way."""
    model.restart()
    logits = model.advance(ids_of(prompt))
    tokens, seen = [], [logits.tobytes()]
    for _ in range(TOKENS):
        tokens.append(int(logits.argmax()))
        logits = model.advance(tokens[-1:])
        seen.append(logits.tobytes())
    return tokens, b"".join(seen)


def drop_cache(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture(scope="module")
def expected(path):
    """What each prompt gives when everything is in memory."""
    with cpumix.load(path, context=256, threads=1) as model:
        return {prompt: write(model, prompt) for prompt in (1, 5, 100)}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [1, 5, 100])  # one token, a few experts' worth, all experts'
@pytest.mark.parametrize("predict", [False, True])
@pytest.mark.parametrize("experts", [2, 3, 7.5, 12, 23, 24])
def test_output_is_the_same_for_every_budget(model, expected, experts, predict, prompt):
    pager = page(model, experts, predict=predict)
    assert write(model, prompt) == expected[prompt]
    counters = pager.counters
    assert (counters.evictions > 0) == (experts < LAYERS * EXPERTS)
    assert counters.peak_resident_bytes <= counters.budget_bytes
    assert predict or counters.predicted == 0


def test_guesses_are_read_and_used(model, expected, monkeypatch):
    pager = page(model, 12)
    pager._trust = 1.0
    prefetch = pager.prefetch

    def prefetch_and_wait(*arguments, **options):  # until the reader threads have had their turn
        prefetch(*arguments, **options)
        with pager._changed:
            while pager._prefetch_queue and not pager._prefetched:
                pager._changed.wait(0.001)

    monkeypatch.setattr(pager, "prefetch", prefetch_and_wait)
    assert write(model, 100) == expected[100]
    counters = pager.counters
    assert 0 < counters.predicted_used <= counters.predicted


def test_system_without_advice_writes_the_same_and_says_one_line(model, expected):
    def refuse(*_):
        raise madvise.Refused("Function not implemented")

    page(model, 5, platform=madvise.Platform(refuse, refuse))
    assert model.notes == []
    assert write(model, 5) == expected[5]
    (note,) = model.notes
    assert note.startswith("paging: this system or file system takes no advice on memory")


@needs_mincore
@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no way to empty the page cache")
def test_first_token_of_a_cold_file_reads_two_experts_a_layer(tmp_path):
    drop_cache(path := write_paged(tmp_path / "model.bin", small_config(512, 2048, 32000)))
    with cpumix.load(path, context=64, threads=1) as model:
        tensors, region = model.file.tensors, model._engine.pager.region
        if model.file.resident_bytes() == model.file.mapped_bytes:
            pytest.skip("this file system keeps its files in memory")
        # the header, and what the system reads ahead of it
        assert model.file.resident_bytes() <= 8 << 20
        for name in ("output.weight", "blk.2.router.weight", "blk.0.expert.0"):
            assert region.missing(tensors[name].offset, tensors[name].nbytes) > 0
        model.advance([5])
        for layer in range(LAYERS):
            experts = [tensors[f"blk.{layer}.expert.{e}"] for e in range(EXPERTS)]
            shares = [share_in_memory(region, t.offset, t.nbytes) for t in experts]
            assert sum(shares) == pytest.approx(ACTIVE, rel=0.02)
            assert sorted(shares)[-ACTIVE:] == [1.0] * ACTIVE
        counters, size = model._engine.pager.counters, tensors["blk.0.expert.0"].nbytes
        assert (counters.misses, counters.hits) == (LAYERS * ACTIVE, 0)
        assert counters.bytes_read == pytest.approx(counters.misses * size, rel=0.05)


@needs_mincore
@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no way to empty the page cache")
def test_what_leaves_is_given_back_by_process_and_page_cache(path, model):
    drop_cache(path)  # large pages of the cache, which hold neighbours too, would stay
    pager = page(model, 6)
    write(model, 5)
    tensors, region = model.file.tensors, pager.region
    with pager._changed:
        assert pager._changed.wait_for(lambda: pager._readers.settled, 600)
    books = pager._resident_set
    counted = books.present | books._remains.keys()  # those that were read in part, too
    present = {f"blk.{n}.expert.{e}" for n, e in counted}
    gone = [t for t in tensors.values() if t.spec.expert is not None and t.name not in present]
    assert len(gone) >= LAYERS * EXPERTS - 6
    left = sum(t.nbytes - region.missing(t.offset, t.nbytes) for t in gone)
    if sys.platform == "linux":
        # Pages of the cache of up to 64 KiB that reach into a neighbour stay: measured 48 KiB each.
        assert left <= len(gone) * (48 << 10)


@pytest.mark.parametrize("experts", [2, 12])
def test_prompt_reads_each_expert_once(model, experts):
    recorder = Recorder()
    pager = page(model, experts, predict=False, platform=recorder.platform)
    model.restart()
    model.advance(ids_of(200))
    counters, address = pager.counters, model.file.address
    # in the last layer, only for the last token
    used = (LAYERS - 1) * EXPERTS + ACTIVE
    assert counters.hits == 0
    assert counters.misses == used
    brought = [(a - address, nbytes) for a, nbytes in recorder.brought]
    whole = 0
    for (layer, _), p in pager._ranges.items():
        pieces = [n for first, n in brought if p.offset <= first < p.offset + p.nbytes]
        assert sum(pieces) in ((p.nbytes,) if layer < LAYERS - 1 else (0, p.nbytes))
        whole += sum(pieces) == p.nbytes
    assert whole == used
    # the next batch finds what the budget holds, and reads the rest once
    model.advance(ids_of(50))
    again = pager.counters.since(counters)
    assert again.hits + again.misses == used
    assert again.misses <= used - experts + ACTIVE


def test_long_prompt_leaves_the_working_set(model):
    pager = page(model, 12, predict=False)
    favourites = ids_of(4, seed=9)
    for _ in range(8):
        model.restart()
        for token in favourites:
            model.advance([token])
    before = set(pager._resident_set.present)
    model.restart()
    model.advance(ids_of(250, seed=3))
    assert pager.counters.evictions > 0
    assert (
        len(before & pager._resident_set.present) >= len(before) - 4
    )  # those of equal use may change


def test_experts_that_are_there_and_stay_ask_the_books_no_more(model):
    pager = page(model, None)
    with pager.lease(0, [0, 2], np.array([[0, 2]], np.int32)) as parts:
        for expert, ready in zip([0, 2], parts, strict=True):  # as they come
            assert list(ready.experts) == [expert]
            ready.wait_for_down()
    lease = pager.lease(0, [0, 2], np.array([[0, 2]], np.int32))
    assert not isinstance(lease, Lease)
    with lease as parts:
        assert [list(ready.experts) for ready in parts] == [[0, 2]]
    assert isinstance(pager.lease(0, [0, 1], np.array([[0, 1]], np.int32)), Lease)
    assert (pager.counters.hits, pager.counters.misses) == (3, 3)


def test_pages_that_the_system_took_are_read_again(model, expected, monkeypatch):
    from cpumix.experts import pager as module

    pager = page(model, None)
    write(model, 100)
    file_range = pager._ranges[0, 0]
    taken = [True]
    missing = pager.region.missing
    monkeypatch.setattr(module, "faults_from_disk", lambda: 10**9)
    monkeypatch.setattr(
        pager.region,
        "missing",
        lambda o, n: n if o == file_range.offset and taken else missing(o, n),
    )
    before = pager.counters.misses
    assert write(model, 100) == expected[100]
    assert pager.counters.misses > before


def test_trace_has_a_line_for_each_layer_and_pass(model, tmp_path):
    pager = page(model, 6)
    with open(tmp_path / "trace.tsv", "w") as stream:
        model.trace(stream)
        model.advance(ids_of(3))
        model.advance([7])
    head, *lines = [line.split("\t") for line in (tmp_path / "trace.tsv").read_text().splitlines()]
    assert head == [
        "position", "tokens", "layer", "experts", "found", "milliseconds", "resident_bytes"
    ]  # fmt: skip
    assert [line[:3] for line in lines] == [
        *(["0", "3", str(n)] for n in range(LAYERS)),
        *(["3", "1", str(n)] for n in range(LAYERS)),
    ]
    counted = [found for line in lines for found in line[4].split(",")]
    assert counted.count("hit") == pager.counters.hits
    assert counted.count("miss") == pager.counters.misses
    assert all(len(line[3].split(",")) == len(line[4].split(",")) for line in lines)
    assert all(0 < int(line[6]) <= pager.counters.budget_bytes for line in lines)


def test_interrupt_during_a_read_leaves_a_model_that_works(model, expected):
    import signal
    import threading

    if os.name == "nt":
        pytest.skip("Windows has no SIGINT for another process")
    reading, go_on = threading.Event(), threading.Event()

    def bring(address, nbytes):
        reading.set()
        while not go_on.wait(0.01):  # a signal that comes just before a wait does not end it
            pass
        madvise.this_platform().bring(address, nbytes)

    def interrupt():
        reading.wait(600)
        os.kill(os.getpid(), signal.SIGINT)

    pager = page(model, 5)
    model._engine.pager.dense.bring()
    pager.region._platform = madvise.Platform(bring, madvise.give_back_nothing)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.advance([5])
    finally:
        go_on.set()
    assert write(model, 5) == expected[5]
    own = {t for t in threading.enumerate() if t.name.startswith("cpumix")}
    model.close()
    left = {t for t in threading.enumerate() if t.name.startswith("cpumix")}
    assert own and len(left) <= len(own) - 4  # readers; other tests' models may have some too


def test_failing_disk_is_an_error_and_the_next_read_works(model, expected):
    pager = page(model, 5)
    write(model, 1)
    healthy = pager.region._platform

    def fail(address, nbytes):
        raise OSError(5, "Input/output error")

    pager.region._platform = madvise.Platform(fail, healthy.give_back)
    with pytest.raises(cpumix.errors.FormatError, match="cannot be read while running"):
        write(model, 100)
    pager.region._platform = healthy
    assert write(model, 100) == expected[100]
