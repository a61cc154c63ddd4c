"""Opening a model file: what it gives, what it verifies, and how long views live."""

import dataclasses
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from model_files import CONFIG, FILES, content, with_, write

from cpumix.errors import FormatError
from cpumix.store import ModelFile, build_entries, reader, residency


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "m.cpumix")


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_file_gives_back_what_was_written(tmp_path: Path, precision: str) -> None:
    path = write(tmp_path / "m.cpumix", precision)
    with ModelFile(path) as file:
        assert (file.path, file.config, file.precision) == (path, CONFIG, precision)
        assert file.files == FILES
        assert file.mapped_bytes == path.stat().st_size
        entries = build_entries(CONFIG, precision)
        assert list(file.tensors) == [e.name for e in entries]
        for e in entries:
            tensor = file.tensors[e.name]
            assert (tensor.format, tensor.shape, tensor.nbytes) == (e.format, e.shape, e.nbytes)
            assert tensor.offset % 16384 == 0
            data = file.data(e.name)
            assert (data.dtype, data.shape, data.flags.writeable) == (np.uint8, (e.nbytes,), False)
            assert data.ctypes.data % mmap.PAGESIZE == 0
            assert data.tobytes() == content(e)
        assert file.data("blk.0.router.weight").view(np.float32).shape == (3 * 40,)
        file.verify()


def test_dense_model_with_tied_embeddings_round_trips(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        architecture="MistralForCausalLM",
        num_local_experts=1,
        num_experts_per_tok=1,
        tie_word_embeddings=True,
        sliding_window=16,
    )
    with ModelFile(write(tmp_path / "m", config=config)) as file:
        assert file.config == config
        assert not {"output.weight", "blk.0.router.weight"} & file.tensors.keys()
        assert file.expert_name(1, 0) in file.tensors
        assert file.metadata["llama.attention.sliding_window"] == 16
        assert "llama.expert_count" not in file.metadata


def test_verify_names_the_damaged_tensor(model: Path) -> None:
    with ModelFile(model) as file:
        offset = file.tensors["blk.1.expert.1"].offset
    with open(model, "r+b") as stream:
        stream.seek(offset + 100)
        stream.write(b"\xff")
    with ModelFile(model) as file:
        with pytest.raises(
            FormatError, match=r'checksum of "blk.1.expert.1": expected \w{8}, found'
        ):
            file.verify()


def test_released_tensors_are_read_again(model: Path) -> None:
    with ModelFile(model) as file:
        before = {name: bytes(file.data(name)) for name in file.tensors}
        for name in file.tensors:
            file.release(name)
        assert {name: bytes(file.data(name)) for name in file.tensors} == before
    file.release(next(iter(before)))  # nothing to let go of any more


def test_verify_reports_progress(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_VERIFY_BYTES", 4096)
    with ModelFile(model) as file:
        total = sum(t.nbytes for t in file.tensors.values())
        seen: list[tuple[int, int]] = []
        file.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (total, total)
    steps = np.diff([done for done, _ in seen])
    assert steps.min() > 0 and steps.max() == 4096


def test_views_outlive_the_file(model: Path) -> None:
    file = ModelFile(model)
    view = file.data("output_norm.weight").view(np.float32)
    expected = view.copy()
    file.close()
    file.close()
    np.testing.assert_array_equal(view, expected)
    assert file.resident_bytes() is None
    with pytest.raises(ValueError, match=r"m.cpumix is closed"):
        file.data("output_norm.weight")


def test_map_is_released_on_close(model: Path) -> None:
    file = ModelFile(model)
    file.close()
    assert file._map.closed


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be replaced there")
def test_file_replaced_while_mapped_keeps_its_content(model: Path) -> None:
    with ModelFile(model) as old:
        expected = old.data("token_embd.weight").tobytes()
        write(model, "int8")
        assert old.data("token_embd.weight").tobytes() == expected
        old.verify()
        with ModelFile(model) as new:
            assert (old.precision, new.precision) == ("int4", "int8")


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no mincore")
def test_resident_bytes_counts_what_is_in_memory(model: Path) -> None:
    with ModelFile(model) as file:
        file.verify()  # reads everything
        resident = file.resident_bytes()
        assert resident is not None
        assert 0 < resident <= file.mapped_bytes
        assert resident % mmap.PAGESIZE == 0


def test_resident_bytes_is_unknown_elsewhere(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency.sys, "platform", "win32")
    with ModelFile(model) as file:
        assert file.resident_bytes() is None


@pytest.mark.skipif(sys.platform != "linux", reason="macOS says 0")
def test_resident_bytes_of_no_map_is_unknown() -> None:
    assert residency.resident_bytes(mmap.PAGESIZE, mmap.PAGESIZE) is None


def test_work_to_open_grows_with_the_number_of_tensors(tmp_path: Path) -> None:
    """Not with their size, nor with the square of it: calls of functions are counted."""

    def count(layers: int, tokenizer: int) -> float:
        config = dataclasses.replace(CONFIG, num_hidden_layers=layers, num_local_experts=8)
        change = with_("cpumix.file.tokenizer.json", bytes(tokenizer))
        path = write(tmp_path / "m", change=change, config=config)
        calls = [0]

        def note(frame: object, event: str, argument: object) -> None:
            calls[0] += event in ("call", "c_call")

        ModelFile(path).close()  # what is done once is done
        sys.setprofile(note)
        try:
            ModelFile(path).close()
        finally:
            sys.setprofile(None)
        return calls[0]

    few, many = count(8, 2 << 20), count(32, 2 << 20)
    print(few, many, count(8, 4 << 20))
    assert count(8, 4 << 20) == few
    assert 3 < many / few < 4
