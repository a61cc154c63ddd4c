"""Files of torch.save: real ones of PyTorch 2.13 (tests/data/torch), made ones, hostile ones."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch_files
from torch_files import View, number, state_dict, text, write_entries, write_legacy, write_zip

from cpumix.checkpoint.containers import read_tensors
from cpumix.errors import ConvertError

DATA = Path(__file__).parents[1] / "data" / "torch"
TENSORS = {
    "bits": np.arange(24, dtype=np.uint16).reshape(4, 6),
    "half": np.arange(12, dtype=np.float16).reshape(3, 4).T,
    "wide": np.arange(5, dtype=np.float32),
}


def refused(path: Path, message: str) -> None:
    with pytest.raises(ConvertError, match=message) as error:
        read_tensors(path)
    assert str(path) in str(error.value)


def pickled(path: Path, program: bytes) -> Path:
    write_entries(path, {"x/data.pkl": program, "x/data/0": bytes(64)})
    return path


def widen(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("name", ["zip.bin", "nested.pt", "legacy.bin"])
def test_files_of_pytorch(name: str) -> None:
    found = read_tensors(DATA / name)
    big = np.arange(60, dtype=np.float32).reshape(10, 6)
    assert np.array_equal(widen(found["bf16"].read()), np.arange(24).reshape(4, 6))
    assert np.array_equal(found["top"].read(), big[:4])
    assert np.array_equal(found["bottom"].read(), big[4:])
    assert found["bottom"].offset - found["top"].offset == 4 * 6 * 4  # one storage
    assert np.array_equal(found["turned"].read(), np.arange(12).reshape(3, 4).T)
    assert found["turned"].strides == (1, 4)
    assert found["parameter"].read().tolist() == [1.5, -2.5]
    if name == "zip.bin":
        assert (found["f8"].dtype, found["f8"].shape) == ("F8_E4M3", (1, 3))
        assert found["f8"].read().tolist() == [[0x38, 0xC0, 0x7E]]
        assert found["steps"].shape == () and found["empty"].read().shape == (0, 3)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_made_files(tmp_path: Path, write) -> None:
    write(tmp_path / "x.bin", TENSORS)
    found = read_tensors(tmp_path / "x.bin")
    assert {name: t.read().tolist() for name, t in found.items()} == {
        name: array.tolist() for name, array in TENSORS.items()
    }


def test_parameters(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.bin", TENSORS, parameters=True, byteorder="little")
    assert read_tensors(tmp_path / "x.bin")["wide"].read().tolist() == [0, 1, 2, 3, 4]


# ---- programs in pickles: none is ever run


class Shell:
    def __reduce__(self):
        return os.system, ("touch executed",)


class Builtin:
    def __reduce__(self):
        return eval, ("__import__('os').system('touch executed')",)


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("attack", [Shell(), Builtin()])
def test_call_of_a_function_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, attack: object
) -> None:
    monkeypatch.chdir(tmp_path)
    program = pickle.dumps({"w": attack}, protocol)
    refused(
        pickled(tmp_path / "x.bin", program),
        r'expected nothing but tensors, found the name "\w+\.(system|eval)". Nothing in it was run',
    )
    legacy = torch_files.LEGACY_START + torch_files.LITTLE_ENDIAN + program
    (tmp_path / "y.bin").write_bytes(legacy)
    refused(tmp_path / "y.bin", "expected nothing but tensors, found the name")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("program", "found"),
    [
        (b"", "a pickle without an end|a damaged pickle"),
        (b"\x80\x02.", r"a damaged pickle \(IndexError\)"),
        (b"\x80\x02K\x01.", "a int in place of a dict of tensors"),
        (b"\x80\x02}.", "no dict of tensors by name"),
        (b"\x80\x02ctorch\nload\n(tR.", "a call of something else than a tensor"),
        (b"\x80\x02](K\x01K\x02u.", "a list in place of a dict"),
        (b"\x80\x02}(" + text("a") * 4 + b"u.", 'the name "a" twice'),
        (b"\x80\x02}()K\x02u.", "a dict with a tuple as key"),
        (b"\x80\x02}(K\x01u.", "a damaged pickle"),
        (b"\x80\x02h\x05.", "a damaged pickle"),
        (b"\x80\x04" + text("os") + b"]\x93.", "a name that is no text"),
        (b"\x80\x02" + b"X\xff\xff\xff\x7fx.", "a damaged pickle"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".", "a damaged pickle"),
        (b"\x80\x02ios\nsystem\n.", "the instruction INST"),
        (b"\x80\x02}(" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(tRu.", "without a stor"),
        (b"\x80\x02}(" + text("w") + b"ccollections\nOrderedDict\nK\x01Ru.", "a call without arg"),
        (b"\x80\x02}(" + text("w") + b"ctorch\nSize\n)Ru.", "something that is no tensor"),
    ],
)
def test_strange_pickle_is_refused(tmp_path: Path, program: bytes, found: str) -> None:
    refused(pickled(tmp_path / "x.bin", program), f"expected nothing but tensors, found .*{found}")


def test_endless_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpumix.checkpoint.containers.pickles._MOST_STEPS", 1000)
    refused(pickled(tmp_path / "x.bin", b"\x80\x02" + b"N" * 2000), "found too many instructions")


def test_nested_tuples_take_no_time(tmp_path: Path) -> None:
    doubled = b"\x80\x02)" + b"q\x00h\x00\x86" * 5000  # 2^5000 tuples for whoever walks them
    refused(pickled(tmp_path / "x.bin", doubled + b"."), "a tuple in place of a dict of tensors")
    refused(pickled(tmp_path / "y.bin", doubled + b"}R."), "a call of something else than a ten")


@pytest.mark.parametrize(
    ("kind", "count", "view", "message"),
    [
        ("FloatStorage", 16, View("1", 0, (4, 4), (4, 1)), "expected it inside its storage"),
        ("FloatStorage", 17, View("0", 0, (4, 4), (4, 1)), "expected it inside its storage"),
        ("FloatStorage", 16, View("0", 1, (4, 4), (4, 1)), "expected it inside its storage"),
        ("FloatStorage", 16, View("0", 0, (4, 4), (5, 1)), "expected it inside its storage"),
        ("FloatStorage", 16, View("0", 0, (1 << 40, 1 << 40), (1 << 40, 1)), "inside its storage"),
        ("FloatStorage", 16, View("0", 0, (-4, 4), (4, 1)), 'an unknown type "F32" or shape'),
        ("FloatStorage", 16, View("0", 0, (4, 4), (-4, 1)), 'an unknown type "F32" or shape'),
        ("FloatStorage", 16, View("0", 0, (1 << 60,), (1,)), 'an unknown type "F32" or shape'),
        ("FloatStorage", 16, View("0", -1, (4, 4), (4, 1)), "a tensor of an impossible shape"),
        ("FloatStorage", -1, View("0", 0, (4, 4), (4, 1)), "a tensor of an impossible shape"),
        ("FloatStorage", 16, View("0", 0, (1,) * 9, (1,) * 9), "a tensor of an impossible shape"),
        ("FloatStorage", 16, View("0", 0, (4, 4), (1,)), "a tensor of an impossible shape"),
        ("QInt8Storage", 16, View("0", 0, (4, 4), (4, 1)), 'a storage of kind "QInt8Storage"'),
    ],
)
def test_impossible_tensor_is_refused(
    tmp_path: Path, kind: str, count: int, view: View, message: str
) -> None:
    body = text("w") + torch_files.tensor(view.storage, kind, count, view)
    refused(pickled(tmp_path / "x.bin", b"\x80\x02}(" + body + b"u."), message)


# ---- damaged zip files


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"not a file of torch.save")
    refused(path, "expected a file of torch.save, found another one. The file is damaged")
    path.write_bytes(b"PK\x03\x04 and nothing else")
    refused(
        path, r"expected a zip file, found a damaged one \(.*\). The zip file is damaged: download"
    )
    write_entries(path, {"x/version": b"3"})
    refused(path, "expected an entry data.pkl, found none")
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(path, "found a git-lfs pointer to it")
    path.unlink()
    refused(path, "cannot read this part of the checkpoint")


def test_big_endian_file_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.bin", TENSORS, byteorder="big")
    refused(tmp_path / "x.bin", "expected little-endian numbers, found big-endian ones")
    machine = torch_files.LITTLE_ENDIAN.replace(b"\x88", b"\x89")
    (tmp_path / "y.bin").write_bytes(torch_files.LEGACY_START + machine + b"\x80\x02}.")
    refused(tmp_path / "y.bin", "expected little-endian numbers, found big-endian ones")


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    bomb = {"x/data.pkl": state_dict(*torch_files.whole(TENSORS)), "x/data/0": bytes(1 << 20)}
    write_entries(tmp_path / "x.bin", bomb, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "x.bin", "expected it stored as it is, found it compressed or encrypted")


def test_entry_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", b"1")
        file.writestr("x/data.pkl", b"2")
    refused(path, 'expected the entry "x/data.pkl" once, found it twice')


def edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def test_entries_with_wrong_places_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_entries(path, {"x/data.pkl": b"pickle", "x/data/0": b"number"})
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    second = whole.index(b"PK\x01\x02", directory + 1)
    for place, value, message in (
        (second + 42, 0, r'the entries "x/data\.pkl" and "x/data/0" overlap|overlap'),
        (second + 42, len(whole) - 4, 'expected the entry "x/data/0" inside the file'),
        (second + 42, 5, 'expected the entry "x/data/0" inside the file'),
        (second + 20, 1 << 30, 'entry "x/data/0": its two sizes differ'),
    ):
        path.write_bytes(whole[:place] + struct.pack("<I", value) + whole[place + 4 :])
        refused(path, message)
    both = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(whole[: second + 20] + both + whole[second + 28 :])
    refused(path, 'expected the entry "x/data/0" inside the file')


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpumix.checkpoint.containers.zip_entries._MOST", 3)
    write_zip(tmp_path / "x.bin", TENSORS)
    refused(tmp_path / "x.bin", "expected at most 3 entries, found 5")


def test_large_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read before its entries are counted."""
    monkeypatch.setattr("cpumix.checkpoint.containers.zip_entries._MOST_DIRECTORY", 100)
    write_zip(tmp_path / "x.bin", TENSORS)
    refused(tmp_path / "x.bin", "expected a zip file, found a damaged one .*directory")


def test_large_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpumix.checkpoint.containers.torch._MOST_PICKLE", 10)
    write_zip(tmp_path / "x.bin", TENSORS)
    refused(tmp_path / "x.bin", r"data.pkl: expected at most 10 bytes, found \d+")


# ---- damaged legacy files


def test_truncated_legacy_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_legacy(path, TENSORS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(path, 'expected the storage "2" inside the file, once')
    end = whole.index(b"\x80\x02](")  # the list of keys
    path.write_bytes(whole[:end] + b"\x80\x02](" + text("0") * 2 + b"e." + bytes(64))
    refused(path, 'expected the storage "0" inside the file, once')
    path.write_bytes(whole[:end] + b"\x80\x02K\x01.")
    refused(path, "found no list of storages")
    path.write_bytes(whole[:end] + b"\x80\x02](" + number(1) + b"e.")
    refused(path, "found no list of storages")
