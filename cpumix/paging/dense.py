"""The part of the file that every token uses: read once, before the first pass, and kept.

Except the embedding table: a token uses one row of it, so its rows come one by one, and all of them
go when they have become many. (A tied one is the output matrix too, and stays.)
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from ..quant.tiles import ROWS
from ..store.reader import ModelFile
from ..units import MIB
from .readers import PIECE, THREADS
from .region import MappedRegion

EMBEDDING = "token_embd.weight"
ROWS_BYTES = 16 * MIB  # of embedding rows that may gather


class DensePart:
    """Brings the dense part of one file."""

    def __init__(self, file: ModelFile, region: MappedRegion) -> None:
        self._region, self._embedding = region, file.tensors[EMBEDDING]
        tied = file.config.tie_word_embeddings
        dense = [t for t in file.tensors.values() if ".expert." not in t.name]
        self._tensors = [t for t in dense if tied or t.name != EMBEDDING]
        self._tile_bytes = self._embedding.nbytes // -(-self._embedding.shape[0] // ROWS)
        self._tiles: set[int] = set()
        self._tied, self._ready = tied, False

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the file that need no memory."""
        return 0 if self._tied else max(self._embedding.nbytes - ROWS_BYTES, 0)

    def bring(self) -> None:
        """Read everything but the embedding table, the first time."""
        if self._ready:
            return
        pieces = []
        for t in self._tensors:
            for first in range(0, t.nbytes, PIECE):
                pieces.append((t.offset + first, min(PIECE, t.nbytes - first)))
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda piece: self._region.bring(*piece), pieces))
        self._ready = True

    def bring_rows(self, ids: Iterable[int], keep: bool) -> None:
        """Read the embedding rows of some tokens; unless `keep`, let go of many others."""
        tiles = {int(i) // ROWS for i in ids} - self._tiles
        if self._tied or not tiles:
            return
        if not keep and len(self._tiles) * self._tile_bytes > ROWS_BYTES:
            self._region.give_back(self._embedding.offset, self._embedding.nbytes)
            self._tiles.clear()
        for tile in tiles:
            self._region.bring(self._embedding.offset + tile * self._tile_bytes, self._tile_bytes)
        self._tiles |= tiles
