"""The bandwidths of this machine: measured once, kept, and never in the way."""

from __future__ import annotations

import json

import pytest

from cpumix.cache_dir import CACHE_VARIABLE
from cpumix.fit import probe
from cpumix.fit.probe import find_bandwidths
from cpumix.fit.speed import ASSUMED, Bandwidths


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "MEMORY_BYTES", 1 << 22)
    monkeypatch.setattr(probe, "DISK_BYTES", 2 * probe.REQUEST)
    return tmp_path / "cache" / "bandwidths.json"


def test_bandwidths_are_measured_once(record, monkeypatch):
    first = find_bandwidths(None)
    assert first.measured_memory
    assert first.memory > 0
    assert first.disk > 0
    assert len(json.loads(record.read_text())) >= 1
    monkeypatch.setattr(probe, "memory_bandwidth", pytest.fail)
    assert find_bandwidths(None).memory == first.memory


def test_bandwidths_of_last_year_are_measured_again(record):
    find_bandwidths(None)
    old = json.loads(record.read_text())
    record.write_text(json.dumps({k: v | {"at": v["at"] - 4e7} for k, v in old.items()}))
    find_bandwidths(None)
    new = json.loads(record.read_text())
    assert all(new[k]["at"] > v["at"] - 1 for k, v in old.items())


@pytest.mark.parametrize("content", ["", "pear", "[]", '{"memory, 1 cores": 7}'])
def test_damaged_record_is_measured_anew(record, content):
    record.parent.mkdir()
    record.write_text(content)
    assert find_bandwidths(None).measured_memory


def test_without_probe_nothing_is_measured(record):
    assert find_bandwidths(None, measure=False) == ASSUMED
    assert not record.parent.exists()


def test_disk_that_cannot_be_measured_is_assumed(record, monkeypatch):
    monkeypatch.setattr(probe, "_read_bandwidth", lambda path: None)
    found = find_bandwidths(None)
    assert (found.disk, found.measured_disk) == (ASSUMED.disk, False)
    assert found.describe().endswith(" disk 2 GB/s, assumed")


def test_disk_of_the_model_is_the_one_that_counts(record, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(probe, "disk_bandwidth", lambda path: seen.append(path))
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(3 * probe.REQUEST))
    (tmp_path / "small.bin").write_bytes(b"x")
    find_bandwidths(tmp_path)
    find_bandwidths(large)
    find_bandwidths(tmp_path / "small.bin")
    assert seen == [large, large, None]


def test_speeds_are_told_with_their_source():
    told = Bandwidths(31.4e9, 1.84e9, True, False).describe()
    assert told == "memory 31.4 GB/s, measured; disk 1.8 GB/s, assumed"
