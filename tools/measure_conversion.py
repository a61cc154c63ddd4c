"""Measure how fast checkpoints of each encoding convert, beside the same model in bfloat16.

    python tools/measure_conversion.py SCRATCH
    python tools/measure_conversion.py SCRATCH --encoding gptq-act-order --also Q4_K=model.gguf

SCRATCH is a folder that gets one layer of Mixtral 8x7B's width (`--layers`) with random weights in
bfloat16 and in each encoding, as the programs of its people write it; what is there already is
measured again. Each `--also NAME=PATH` is one more checkpoint. All are converted in turns, each in
a process of its own. Printed are the medians of seconds and of the processors' seconds, those as
multiples of bfloat16's, and the most memory that a process had. Needs a quiet machine: the
processors' seconds suffer less where it is not.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import make_checkpoint
import numpy as np
from numpy.typing import NDArray

Parts = dict[str, NDArray[Any]]
GROUP = 128
DTYPES = {"u1": "U8", "i1": "I8", "i4": "I32", "u4": "U32", "i8": "I64", "f2": "F16", "f4": "F32"}
PLAIN = "bf16"


def words(rng: np.random.Generator, *shape: int) -> NDArray[np.int32]:
    """Return random bits: whatever they are, they are codes."""
    count = int(np.prod(shape)) * 4
    return np.frombuffer(rng.bytes(count), np.int32).reshape(shape)


def scales(rng: np.random.Generator, *shape: int) -> NDArray[np.float16]:
    """Return scales as weights of 4 bits have them."""
    return rng.uniform(0.002, 0.006, shape).astype(np.float16)


def gptq(rng: np.random.Generator, rows: int, columns: int, act_order: bool = False) -> Parts:
    """Return a matrix of GPTQ in 4 bits, its zeros not all the same."""
    groups = np.arange(columns, dtype=np.int32) // GROUP
    return {
        "qweight": words(rng, columns // 8, rows),
        "qzeros": words(rng, columns // GROUP, rows // 8),
        "scales": scales(rng, columns // GROUP, rows),
        "g_idx": rng.permutation(groups) if act_order else groups,
    }


def gptq_act_order(rng: np.random.Generator, rows: int, columns: int) -> Parts:
    """Return a matrix of GPTQ in 4 bits whose groups are no runs of columns."""
    return gptq(rng, rows, columns, act_order=True)


def awq(rng: np.random.Generator, rows: int, columns: int) -> Parts:
    """Return a matrix of AWQ."""
    return {
        "qweight": words(rng, columns, rows // 8),
        "qzeros": words(rng, columns // GROUP, rows // 8),
        "scales": scales(rng, columns // GROUP, rows),
    }


def compressed(rng: np.random.Generator, rows: int, columns: int) -> Parts:
    """Return a matrix of compressed-tensors in 4 bits."""
    return {
        "weight_packed": words(rng, rows, columns // 8),
        "weight_scale": scales(rng, rows, columns // GROUP),
        "weight_shape": np.array([rows, columns]),
    }


def nf4(rng: np.random.Generator, rows: int, columns: int) -> Parts:
    """Return a matrix of bitsandbytes in nf4 with double quantization."""
    blocks = rows * columns // 64
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "nested_blocksize": 256}
    state |= {"shape": [rows, columns], "nested_dtype": "float32", "nested_offset": 0.02}
    return {
        "weight": words(rng, rows * columns // 8, 1).view(np.uint8).reshape(-1, 1),
        "weight.absmax": words(rng, -(-blocks // 4)).view(np.uint8)[:blocks],
        "weight.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
        "weight.nested_absmax": np.full(-(-blocks // 256), 0.01, np.float32),
        "weight.nested_quant_map": np.linspace(-1, 1, 256, dtype=np.float32),
        "weight.quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }


def mlx(rng: np.random.Generator, rows: int, columns: int) -> Parts:
    """Return a matrix of MLX in 4 bits."""
    return {
        "weight": words(rng, rows, columns // 8).view(np.uint32),
        "scales": scales(rng, rows, columns // GROUP),
        "biases": -8 * scales(rng, rows, columns // GROUP),
    }


def hqq(rng: np.random.Generator, rows: int, columns: int) -> Parts:
    """Return a matrix of HQQ in 4 bits."""
    groups = rows * columns // 64
    return {
        "W_q": words(rng, rows, columns // 8).view(np.uint8).reshape(groups // 2, 64),
        "scale": scales(rng, groups, 1),
        "zero": rng.integers(6, 10, (groups, 1)).astype(np.float16),
        "shape": np.array([rows, columns]),
        "axis": np.array(1, np.int32),
        "group_size": np.array(64, np.int32),
        "nbits": np.array(4, np.int32),
        "packing": np.frombuffer(b"4bit_u8", np.uint8),
    }


class Form(NamedTuple):
    """What a quantizer writes."""

    settings: Mapping[str, Any]
    """Fields of config.json."""
    make: Callable[[np.random.Generator, int, int], Parts]
    head: bool = False
    """Whether it quantizes embedding and head, too."""


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False}
_NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
_WEIGHTS = {"num_bits": 4, "group_size": GROUP, "strategy": "group", "symmetric": True}
_COMPRESSED = {"group_0": {"targets": ["Linear"], "weights": {**_WEIGHTS, "type": "int"}}}
_HQQ = {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}}
FORMS = {
    "gptq": Form({"quantization_config": {**_GPTQ, "desc_act": False}}, gptq),
    "gptq-act-order": Form({"quantization_config": {**_GPTQ, "desc_act": True}}, gptq_act_order),
    "awq": Form(
        {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}, awq
    ),
    "compressed-tensors": Form(
        {
            "quantization_config": {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": _COMPRESSED,
            }
        },
        compressed,
    ),
    "bnb-nf4": Form({"quantization_config": _NF4}, nf4),
    "mlx": Form({"quantization": {"group_size": GROUP, "bits": 4}}, mlx, head=True),
    "hqq": Form({"quantization_config": {"quant_method": "hqq", "quant_config": _HQQ}}, hqq),
}


def tensors_of(form: Form, config: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the tensors of a checkpoint: its matrices in the form's parts, the rest in float16."""
    rng = np.random.default_rng(0)
    for name, shape in make_checkpoint.list_tensors(dict(config), fused=False):
        module = name.removesuffix(".weight")
        is_head = module in ("model.embed_tokens", "lm_head")
        if len(shape) == 1:
            yield name, np.ones(shape, np.float16)
        elif module.endswith(".gate") or (is_head and not form.head):
            yield name, rng.normal(0, 0.02, shape).astype(np.float16)
        else:
            for part, values in form.make(rng, *shape).items():
                yield f"{module}.{part}", values


def write(folder: Path, form: Form, sizes: Mapping[str, int]) -> None:
    """Write a checkpoint beside `folder`, and move it there when it is complete."""
    config = make_checkpoint.build_config({"head_dim": None, "experts_per_token": None, **sizes})
    new = folder.with_name(folder.name + ".new")
    new.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for name, values in tensors_of(form, config):
        header[name] = {
            "dtype": DTYPES[values.dtype.str[1:]],
            "shape": values.shape,
            "data_offsets": [end, end + values.nbytes],
        }
        end += values.nbytes
    text = json.dumps(header).encode()
    with (new / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors_of(form, config):
            file.write(np.ascontiguousarray(values).data)
    make_checkpoint.write_side_files(new, {**config, **form.settings}, None)
    new.rename(folder)


def make(folder: Path, name: str, sizes: Mapping[str, int]) -> None:
    """Make the checkpoint of a name."""
    if name == PLAIN:
        options = [f"--{field.replace('_', '-')}={size}" for field, size in sizes.items()]
        make_checkpoint.main([f"--out={folder}", *options], standalone_mode=False)
    else:
        write(folder, FORMS[name], sizes)


class Taken(NamedTuple):
    """What one conversion took."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


RUN = """
import atexit
from cpumix.cli.main import main
from cpumix.machine import peak_rss_bytes
atexit.register(lambda: print(peak_rss_bytes()))
main()
"""


def convert(source: Path, target: Path, precision: str) -> Taken:
    """Convert a checkpoint in a new process. Raises ClickException if it fails."""
    command = ["convert", str(source), str(target), "--force", "--precision", precision]
    before, began = processor_seconds(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", RUN, *command], capture_output=True, text=True, check=False
    )
    seconds, worked = time.perf_counter() - began, processor_seconds() - before
    if done.returncode:
        raise click.ClickException(f"{source.name}: {done.stderr.strip() or 'no message'}")
    return Taken(seconds, worked, int(done.stdout.split()[-1]))


def processor_seconds() -> float:
    """Return what all processes that this one has started, and that have ended, have worked."""
    times = os.times()
    return times.children_user + times.children_system


def table(taken: Mapping[str, Sequence[Taken]]) -> Iterator[str]:
    """Yield a line for each checkpoint."""
    yield f"{'checkpoint':20} {'s':>6} {'':>6} {'processor s':>12} {'':>6} {'peak MB':>8}"
    plain = taken[PLAIN]
    for name, runs in taken.items():
        times = [round_.seconds / base.seconds for round_, base in zip(runs, plain, strict=True)]
        work = [r.processor_seconds / b.processor_seconds for r, b in zip(runs, plain, strict=True)]
        seconds = statistics.median(run.seconds for run in runs)
        processor = statistics.median(run.processor_seconds for run in runs)
        yield (
            f"{name:20} {seconds:6.1f} {statistics.median(times):5.2f}x {processor:12.1f} "
            f"{statistics.median(work):5.2f}x {max(run.peak_bytes for run in runs) / 1e6:8.0f}"
        )


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("scratch", type=click.Path(path_type=Path, file_okay=False))
@click.option("--layers", default=1, show_default=True, type=click.IntRange(1))
@click.option("--hidden", default=4096, show_default=True, type=click.IntRange(512))
@click.option("--intermediate", default=14336, show_default=True, type=click.IntRange(512))
@click.option("--vocab", default=32000, show_default=True, type=click.IntRange(512))
@click.option("--encoding", "chosen", multiple=True, type=click.Choice([*FORMS]), help="Not all.")
@click.option("--also", multiple=True, metavar="NAME=PATH", help="One more checkpoint.")
@click.option("--precision", default="int4", show_default=True, help="What all are converted to.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
def main(
    scratch: Path,
    chosen: Sequence[str],
    also: Sequence[str],
    precision: str,
    rounds: int,
    **sizes: int,
) -> None:
    """Make what is missing, convert all in turns, print the table."""
    sizes |= {"heads": 32, "kv_heads": 8, "experts": 8, "positions": 32768}
    sources = {name: scratch / name for name in (PLAIN, *(chosen or FORMS))}
    for name, source in sources.items():
        if not source.exists():
            click.echo(f"making {name}", err=True)
            make(source, name, sizes)
    sources |= {name: Path(path) for name, _, path in (text.partition("=") for text in also)}
    taken: dict[str, list[Taken]] = {name: [] for name in sources}
    for round_ in range(rounds + 1):
        for name, source in sources.items():
            click.echo(f"round {round_}: {name}", err=True)
            found = convert(source, scratch / "converted.bin", precision)
            if round_:  # the first one compiles, and brings the files into memory
                taken[name].append(found)
    click.echo("\n".join(table(taken)))


if __name__ == "__main__":
    main()
