"""Damages small checkpoint files in many ways, and expects a sentence or a sound answer of each.

    python tools/fuzz/containers.py --cases 100000 [--kind npz] [--seed 1]

A case is a valid file with a few mutations, drawn from its number: a failure is repeated with
--seed NUMBER --cases 1. A reader fails that raises anything but a CpumixError, takes more than
`SECONDS`, returns a tensor that lies outside the file, or allocates more than `MOST_BYTES` (asked
of the system's limit, so only by hand: a test suite cannot lower its own).
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cpumix.checkpoint.containers import read_tensors
from cpumix.checkpoint.stored import NUMPY_DTYPES, StoredTensor
from cpumix.errors import CpumixError
from cpumix.store import gguf

SECONDS = 5.0
MOST_BYTES = 1 << 30
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63)
Random = np.random.Generator


def safetensors() -> bytes:
    """Return a file of three tensors."""
    entries = {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "BF16", "shape": [4, 6], "data_offsets": [0, 48]},
        "b.weight": {"dtype": "F32", "shape": [3], "data_offsets": [48, 60]},
        "c": {"dtype": "U8", "shape": [2, 2], "data_offsets": [60, 64]},
    }
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(64)


def npz() -> bytes:
    """Return a file of three arrays."""
    stream = io.BytesIO()
    turned = np.asfortranarray(np.ones((3, 4), np.float16))
    np.savez(stream, a=np.ones((4, 6), np.uint32), b=turned, c=np.float32(2))
    return stream.getvalue()


def torch_pickle() -> bytes:
    """Return the pickle of a state dict of two tensors in one storage."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
        storage = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x18"
        numbers = [b"(" + bytes(b for n in ns for b in (75, n)) + b"t" for ns in (shape, strides)]
        call = b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQK" + bytes([offset])
        return call + b"".join(numbers) + b"\x89ccollections\nOrderedDict\n)RtR"

    first = text("a.weight") + tensor(0, (4, 4), (4, 1))
    second = text("b.weight") + b"q\x01" + tensor(16, (2, 4), (1, 2))
    return b"\x80\x02}q\x00(" + first + second.replace(b"q\x01", b"") + b"u."


def torch_zip(pickled: bytes | None = None) -> bytes:
    """Return a file of torch.save with this pickle, or a sound one."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("x/data.pkl", torch_pickle() if pickled is None else pickled)
        file.writestr("x/byteorder", b"little")
        file.writestr("x/data/0", bytes(96))
        file.writestr("x/version", b"3\n")
    return stream.getvalue()


def torch_legacy() -> bytes:
    """Return a file of torch.save before version 1.6."""
    start = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    machine = b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
    keys = b"\x80\x02](X\x01\x00\x00\x000e."
    return start + machine + torch_pickle() + keys + struct.pack("<q", 24) + bytes(96)


def foreign_gguf() -> bytes:
    """Return a GGUF file of another program, of two tensors."""
    metadata = {"general.architecture": "llama", "llama.block_count": 1, "general.alignment": 32}
    tokens = {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.scores": np.zeros(2, np.float32)}
    tensors = [
        gguf.TensorInfo("token_embd.weight", (2, 32), 0, 0),
        gguf.TensorInfo(
            "blk.0.attn_q.weight", (4, 32), 8, 256
        ),  # Q8_0 is 8: 34 bytes a row; F32 is 0
    ]
    header = gguf.encode_header(metadata | tokens, tensors)
    return header.ljust(gguf.align(len(header), 32), b"\0") + bytes(256 + 4 * 34 + 24)


def whole(make: Callable[[], bytes]) -> Callable[[Random], bytes]:
    """Return what damages any byte of a file."""
    return lambda rng: mutate(make(), rng)


# The suffix that finds the reader, and what draws a damaged file. A pickle is damaged inside a
# sound zip file too: otherwise hardly a case gets so far.
KINDS: dict[str, tuple[str, Callable[[Random], bytes]]] = {
    "safetensors": (".safetensors", whole(safetensors)),
    "npz": (".npz", whole(npz)),
    "torch-zip": (".bin", whole(torch_zip)),
    "torch-pickle": (".bin", lambda rng: torch_zip(mutate(torch_pickle(), rng))),
    "torch-legacy": (".bin", whole(torch_legacy)),
    "gguf": (".gguf", whole(foreign_gguf)),
}


def mutate(data: bytes, rng: Random) -> bytes:
    """Return data with one to three damages."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, max(len(damaged), 1)))
        kind = rng.integers(0, 7)
        if kind == 0 and damaged:
            damaged[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1:
            size = int(rng.choice([1, 2, 4, 8]))
            value = int(EXTREMES[int(rng.integers(0, len(EXTREMES)))]) & (1 << 8 * size) - 1
            damaged[at : at + size] = value.to_bytes(size, "little")
        elif kind == 2:
            del damaged[at : at + int(rng.integers(1, 20))]
        elif kind == 3:
            other = int(rng.integers(0, max(len(damaged), 1)))
            damaged[at:at] = damaged[other : other + int(rng.integers(1, 40))]
        elif kind == 4:
            del damaged[at:]
        elif kind == 5:  # digits of JSON and of NumPy's headers
            digits = [i for i, byte in enumerate(damaged[:2000]) if 48 <= byte < 58]
            if digits:
                place = digits[int(rng.integers(0, len(digits)))]
                number = str(int(rng.choice([0, 9, 1 << 31, 1 << 62])))
                damaged[place : place + 1] = number.encode()
        else:
            damaged[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(damaged)


def check(path: Path, data: bytes) -> str:
    """Read a damaged file; return what came of it. Raises AssertionError for a fault of ours."""
    path.write_bytes(data)
    began = time.thread_time()
    try:
        tensors = read_tensors(path)
    except CpumixError as error:
        text = str(error)
        assert "\n" not in text and text.isprintable(), f"not one clean line: {text!r}"
        return "refused"
    finally:
        took = time.thread_time() - began
        assert took < SECONDS, f"{took:.1f} seconds of the processor"
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, len(data))
    return "read"


def _check_tensor(name: str, tensor: StoredTensor, size: int) -> None:
    itemsize = NUMPY_DTYPES[tensor.dtype].itemsize if tensor.dtype in NUMPY_DTYPES else 1
    strides = tensor.strides
    span = tensor.nbytes
    if strides is not None and span:
        steps = zip(tensor.shape, strides, strict=True)
        span = (1 + sum((n - 1) * step for n, step in steps)) * itemsize
    assert span == 0 or 0 <= tensor.offset <= size - span, f"{name} lies outside"
    if tensor.nbytes <= size and tensor.dtype in NUMPY_DTYPES:
        tensor.read()


def cases(kind: str, count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each damaged file."""
    draw = KINDS[kind][1]
    for number in range(seed, seed + count):
        yield number, draw(np.random.Generator(np.random.PCG64(number)))


def main() -> int:
    """Run all cases and say what came of them; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--kind", choices=KINDS, help="only this one")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + MOST_BYTES,) * 2)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind in [arguments.kind] if arguments.kind else KINDS:
            outcomes: dict[str, int] = {}
            for number, data in cases(kind, arguments.cases, arguments.seed):
                try:
                    outcome = check(Path(folder) / ("x" + KINDS[kind][0]), data)
                except Exception as error:
                    outcome = f"FAILED: {type(error).__name__}"
                    failed += 1
                    print(f"{kind}, --seed {number}: {error!r}")
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
            print(kind, outcomes)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
