"""The part of the file that every token uses: read once, before the first pass, and kept.

Where memory is short, the embedding table is not: a token uses one row of it, so its rows come one
by one, and all of them go when they have become many. (A tied one is the output matrix too, and
stays.)
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from cpumix.config import Role, tensor_name
from cpumix.quant.tiles import TILE_ROWS
from cpumix.store.reader import ModelFile
from cpumix.units import MIB

from .readers import THREADS, first_piece
from .region import MappedRegion

EMBEDDING = tensor_name(Role.EMBEDDING)
ROWS_BYTES = 16 * MIB  # of embedding rows that may gather


class DensePart:
    """Brings the dense part of one file."""

    def __init__(self, file: ModelFile, region: MappedRegion) -> None:
        self._region, self._embedding = region, file.tensors[EMBEDDING]
        dense = [t for t in file.tensors.values() if t.spec.expert is None]
        self._all_rows = file.config.tie_word_embeddings
        self._tensors = [t for t in dense if self._all_rows or t.name != EMBEDDING]
        self._tile_bytes = self._embedding.nbytes // -(-self._embedding.shape[0] // TILE_ROWS)
        self._tiles: set[int] = set()

    def bring(self) -> None:
        """Read everything but the embedding table, the first time."""
        pieces = []
        for t in self._tensors:
            at, end = t.offset, t.offset + t.nbytes
            while at < end:
                pieces.append((at, nbytes := first_piece(at, end - at)))
                at += nbytes
        if pieces:
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(lambda piece: self._region.bring(*piece), pieces))
        self._tensors = []

    def bring_rows(self, ids: Iterable[int], keep: bool) -> None:
        """Read the embedding rows of some tokens and let go of many others; all rows if `keep`."""
        if self._all_rows:
            return
        if keep:
            self._tensors, self._all_rows = [self._embedding], True
            self.bring()
            return
        tiles = {int(i) // TILE_ROWS for i in ids} - self._tiles
        if tiles and len(self._tiles) * self._tile_bytes > ROWS_BYTES:
            self._region.give_back(self._embedding.offset, self._embedding.nbytes)
            self._tiles.clear()
        for tile in tiles:
            self._region.bring(self._embedding.offset + tile * self._tile_bytes, self._tile_bytes)
        self._tiles |= tiles
