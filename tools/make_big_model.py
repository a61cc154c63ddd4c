"""Write a model file of Mixtral 8x7B's shape with random weights, larger than most memories.

    python tools/make_big_model.py big.bin [--precision int4] [--layers 32] [--tokenizer FOLDER]

It is made in place, without a checkpoint: 25 GiB at int4, as fast as the disk writes. Its text is
noise and its routing nearly uniform, which is the worst case for what memory keeps of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from make_checkpoint import synthetic_tokenizer

from cpumix.measure.random_model import mixtral_8x7b, write_random_model
from cpumix.quant.precision import PRECISIONS
from cpumix.units import format_size

SIDE_FILES = ("tokenizer.model", "tokenizer_config.json")


def main(arguments: list[str] | None = None) -> int:
    """Write the file, with a line of progress."""
    parser = argparse.ArgumentParser(description="Write a model file with random weights.")
    parser.add_argument("target", type=Path)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="int4")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="Take its tokenizer.")
    options = parser.parse_args(arguments)
    config = mixtral_8x7b(options.layers)
    if options.tokenizer is None:
        files = {"tokenizer.model": synthetic_tokenizer(config.vocab_size)}
    else:
        files = {n: p.read_bytes() for n in SIDE_FILES if (p := options.tokenizer / n).exists()}

    def show(done: int, total: int) -> None:
        print(f"\r{format_size(done)} of {format_size(total)} ", end="", file=sys.stderr)

    write_random_model(options.target, config, options.precision, files, show)
    print(f"\n{options.target}: {format_size(options.target.stat().st_size)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
