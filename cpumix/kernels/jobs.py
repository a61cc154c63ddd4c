"""The job table: products of matrices as `matmul` runs them, one row of int64 each.

The two tiles of a pair lie half a matrix apart, or in the same place of two matrices (w1 and w3):
then the pair's output is silu(first) x second, and the intermediate values never reach memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .blocks import InputRows, TilePair
from .codecs.codec import Codec
from .compile.jit import kernel, specialised
from .gemm import MOST_ROWS
from .rows import Rows, address_of
from .simd.lanes import mul
from .simd.level import LEVEL
from .simd.math import silu
from .simd.vectors import Address, load_f32, read_i64, store_f32

if TYPE_CHECKING:
    from .operands import Matmul, MatmulGroup, TiledMatrix

# A product's fields, int64 each; addresses, steps and strides in bytes. SINGLE is the pair that has
# one tile only, or -1; APART leads from the first tile's outputs to the second's, and is 0 where
# they become one.
# fmt: off
(W0, W1, TILE_STEP, SINGLE, APART, BLOCKS, BOOK, X, X_STRIDE, HEADER, ROW_COUNT, OUT, OUT_STRIDE,
 FIRST_ITEM) = range(14)
# fmt: on
JOB_FIELDS = 14
BOOK_BYTES = 16  # what kernels look up in


@kernel
def field(job: Address, index: int) -> Any:
    """Read one field of a product."""
    return read_i64(job + 8 * index)


@kernel
def pair_of(job: Address, pair: int) -> Any:
    """Return a pair's tiles; an odd last tile pairs with itself."""
    second = W0 if pair == field(job, SINGLE) else W1
    place = pair * field(job, TILE_STEP)
    w0, w1 = field(job, W0) + place, field(job, second) + place
    return TilePair(w0, w1, field(job, BLOCKS), field(job, BOOK))


@kernel
def inputs_of(job: Address) -> Any:
    """Return a product's rows of activations."""
    return InputRows(field(job, X), field(job, X_STRIDE), field(job, HEADER))


@lru_cache
def store_rows(codec: Codec) -> Any:
    """Make the kernel that stores all rows' results of a pair: both, or silu(w1 x) * w3 x."""
    head = codec.head_bytes

    @specialised(kernel, codec.name)
    def store_rows(job: Address, pair: int, totals: Address) -> None:
        out, apart = field(job, OUT) + 64 * pair, field(job, APART)
        w0, w1, _, _ = pair_of(job, pair)
        for _ in range(field(job, ROW_COUNT)):
            first, second = load_f32(totals), load_f32(totals + 64)
            if head:  # a constant: the scales of rows stand before their tiles
                first, second = mul(first, load_f32(w0 - head)), mul(second, load_f32(w1 - head))
            if apart == 0:
                store_f32(out, mul(silu(first), second))
            else:
                store_f32(out, first)
                if pair != field(job, SINGLE):
                    store_f32(out + apart, second)
            out, totals = out + field(job, OUT_STRIDE), totals + 128

    return store_rows


class Jobs(NamedTuple):
    """Products of one weight format, laid out."""

    format: str
    table: NDArray[np.int64]
    """(jobs, JOB_FIELDS)."""
    items: int
    """Pairs of tiles in all of them."""


class MatrixFields(NamedTuple):
    """What the table says of a matrix, in every product."""

    w0: int
    """The address of its first tile, behind the head if it has one."""
    step: int
    """Bytes from 16 rows to the next."""
    tiles: int
    blocks: int
    book: int


def fields_of(matrix: TiledMatrix) -> MatrixFields:
    """Return a matrix's fields."""
    w0, tiles = matrix.address + matrix.definition.head_bytes, matrix.tiles
    rest = tiles.strides[0], len(tiles), matrix.blocks, book_address(matrix)
    return MatrixFields(w0, *rest)


def by_format(matmuls: Iterable[Matmul]) -> list[Jobs]:
    """Lay products out, those of each format in a table of their own."""
    formats: dict[str, list[Matmul]] = {}
    for p in matmuls:
        formats.setdefault(p.weight.format, []).append(p)
    return [Jobs(name, *job_table(products)) for name, products in formats.items()]


def job_table(matmuls: Sequence[Matmul]) -> tuple[NDArray[np.int64], int]:
    """Lay products of one format out: the table, and how many items they are in all."""
    jobs: list[tuple[int, ...]] = []
    items = 0
    for p in matmuls:
        if p.layout is None:
            p.layout = lay_out(p)
        pairs, rows = p.layout
        for row in rows:
            jobs.append((*row, items))
            items += pairs
    return np.array(jobs, np.int64).reshape(-1, JOB_FIELDS), items


def lay_out(p: Matmul) -> tuple[int, list[tuple[int, ...]]]:
    """Return how many pairs of tiles a product has, and its rows, but for their first items.

    A product of more rows than a thread has room for becomes several; weights are then read again,
    but the rows stay in the second-level cache meanwhile.
    """
    w0, step, tiles, blocks, book = fields_of(p.weight)
    if p.second is not None:
        w1, pairs, single, apart = fields_of(p.second).w0, tiles, -1, 0
    else:
        pairs = -(-tiles // 2)
        w1, apart = w0 + pairs * step, 64 * pairs
        single = pairs - 1 if tiles % 2 else -1
    out, stride = address_of(p.out), p.out.strides[0]
    made: list[tuple[int, ...]] = [
        (
            w0, w1, step, single, apart, blocks, book,
            *p.x.operand(p.first + first, p.weight.takes_codes),
            rows, out + first * stride, stride,
        )
        for first, rows in shares(p.rows)
    ]  # fmt: skip
    return pairs, made


def input_rows(group: MatmulGroup) -> NDArray[np.int64]:
    """List the rows to be quantized, see `Rows.to_quantize`; what products share, once."""
    lists = []
    for x, begins, end in stretches(group) if group.quantize_inputs else ():
        lists.append(x.to_quantize(begins, end - begins))
    return np.concatenate(lists) if lists else np.empty((0, 4), np.int64)


def stretches(group: MatmulGroup) -> list[tuple[Rows, int, int]]:
    """Return which rows products read as codes: of a buffer, from the first to before the last."""
    found: list[tuple[Rows, int, int]] = []
    spans = {(id(p.x), p.first, p.rows, p.x) for p in group.matmuls if p.weight.takes_codes}
    for _, first, count, x in sorted(spans, key=lambda span: span[:3]):
        if found and found[-1][0] is x and first <= found[-1][2]:
            found[-1] = x, found[-1][1], max(found[-1][2], first + count)
        else:
            found.append((x, first, first + count))
    return found


def shares(rows: int) -> list[tuple[int, int]]:
    """Cut rows into equal pieces of at most MOST_ROWS, whole groups of 16: (first, count) each."""
    if rows <= MOST_ROWS:
        return [(0, rows)]
    pieces = -(-rows // MOST_ROWS)
    size = -(-rows // (16 * pieces)) * 16
    return [(first, min(size, rows - first)) for first in range(0, rows, size)]


_books: dict[bytes, tuple[NDArray[np.uint8], int]] = {}


def book_address(matrix: TiledMatrix) -> int:
    """Return where kernels find a matrix's code book; 0 if its format has none.

    16 bytes or more, as `dot4` wants weights; they live as long as the process.
    """
    if matrix.book is None:
        return 0
    key = matrix.book.tobytes()
    if key not in _books:
        # Shorter books are repeated: look-ups then need not clear the bits above a code.
        book = np.tile(matrix.book, BOOK_BYTES // len(matrix.book))
        values = book.astype(np.int16) + (128 if LEVEL.unsigned else 0)
        table = values.astype(np.uint8)
        _books[key] = table, address_of(table)
    return _books[key][1]
