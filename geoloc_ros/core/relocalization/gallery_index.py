# SPDX-License-Identifier: Apache-2.0
"""Which vectors of a gallery are most like a query's: all of them compared up to a city, faiss beyond.

Vectors are rows (N, dim) of float16 at unit length, on disk or in memory; likeness is their product with the query.
Beyond a city faiss keeps short codes in memory, which name candidates; the candidates' own vectors, read from disk,
decide. So every score is exact, and only a tile that is not among the candidates can be missed.
"""

from typing import Any

import numpy as np
import torch

from geoloc_models.errors import GeolocError

EXACT_TILES = 200_000
"""Up to this many vectors a query is compared with every one."""
_CHUNK = 512  # vectors that become float32 at a time, in one place: they stay in the processor's cache
_CODE_BYTES = 192  # a vector's code: this many principal components, a byte each
_CANDIDATES = 512  # at least, and eight for each tile that is asked for
_ADDED = 65_536  # vectors that get their codes at a time
_SCANNED = 0.1  # share of the lists that a query looks through
_NAMED = 0.125  # share of what is looked through that may become candidates; for more, all vectors are compared
_PER_LIST = 40  # training vectors a list
_ROUNDS = 10  # of k-means; faiss's own 25 take longer and find no more


def search_exactly(
    vectors: np.ndarray, queries: np.ndarray, count: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the `count` largest products (Q, K) int64, largest first, and these products (Q, K) float32.

    vectors: (N, dim) float16, writable as torch wants it; queries: (Q, dim) float32; allowed: ascending rows to choose
    from, all by default. K is less than `count` if there are fewer.
    """
    total = len(vectors) if allowed is None else len(allowed)
    asked = torch.from_numpy(np.ascontiguousarray(queries, np.float32))
    stored = torch.from_numpy(vectors)
    rows = None if allowed is None else torch.from_numpy(np.ascontiguousarray(allowed))
    scores = torch.empty(len(queries), total)
    widened = torch.empty(_CHUNK, vectors.shape[1])
    for start in range(0, total, _CHUNK):
        stop = min(start + _CHUNK, total)
        chunk = widened[: stop - start].copy_(stored[start:stop] if rows is None else stored[rows[start:stop]])
        scores[:, start:stop] = asked @ chunk.T
    best, found = torch.topk(scores, min(count, total))
    return (found.numpy() if allowed is None else allowed[found.numpy()]), best.numpy()


class CodeIndex:
    """Codes of many vectors: principal components, a byte each, sorted into lists by their nearest centre (IVF)."""

    def __init__(self, vectors: np.ndarray, stored: np.ndarray) -> None:
        """vectors: (N, dim) float16 that the codes are of; stored: what `build_codes` made, uint8.

        GeolocError: faiss is not installed, or the codes are damaged or of other vectors.
        """
        self._faiss = faiss = _import_faiss(len(vectors))
        self._vectors = vectors
        self.bytes = stored.nbytes  # as many in memory
        try:
            self._index = faiss.deserialize_index(stored)
        except RuntimeError as error:
            raise GeolocError("the gallery's search codes are damaged: build the gallery again") from error
        if (self._index.ntotal, self._index.d) != vectors.shape:
            raise GeolocError(
                f"the gallery's search codes are of {self._index.ntotal} tiles of {self._index.d} numbers, "
                f"it holds {len(vectors)} of {vectors.shape[1]}: build the gallery again"
            )
        lists = faiss.extract_index_ivf(self._index).nlist
        self._probed = max(1, round(_SCANNED * lists))

    def search(
        self, queries: np.ndarray, count: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `search_exactly`, which it leaves the work to where that is little or much is asked for."""
        wanted = max(_CANDIDATES, 8 * count)
        is_much = wanted > max(_CANDIDATES, _NAMED * _SCANNED * len(self._vectors))
        if is_much or (allowed is not None and len(allowed) <= EXACT_TILES):
            return search_exactly(self._vectors, queries, count, allowed)
        count = min(count, len(self._vectors))
        rows = np.empty((len(queries), count), np.int64)
        scores = np.empty((len(queries), count), np.float32)
        candidates = self._candidates(queries, wanted, allowed)
        for number, query in enumerate(queries):
            named = np.sort(candidates[number][candidates[number] >= 0])
            # Few lists may hold few allowed tiles.
            among = named if len(named) >= count else allowed
            found, likeness = search_exactly(self._vectors, query[None], count, among)
            rows[number], scores[number] = found[0], likeness[0]
        return rows, scores

    def _candidates(self, queries: np.ndarray, wanted: int, allowed: np.ndarray | None) -> np.ndarray:
        """(Q, wanted) rows by their codes, -1 if there are fewer."""
        faiss = self._faiss
        selector = None
        if allowed is not None:
            bits = np.zeros(len(self._vectors), bool)
            bits[allowed] = True
            selector = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
        lists = faiss.SearchParametersIVF(nprobe=self._probed, sel=selector)
        parameters = faiss.SearchParametersPreTransform(index_params=lists)
        asked = np.ascontiguousarray(queries, np.float32)
        return np.asarray(self._index.search(asked, wanted, params=parameters)[1])


def build_codes(vectors: np.ndarray) -> np.ndarray:
    """Train and fill the codes of vectors (N, dim) float16; uint8 that `CodeIndex` takes.

    GeolocError: faiss is not installed.
    """
    faiss = _import_faiss(len(vectors))
    total, dim = vectors.shape
    lists = max(1, min(round(2 * total**0.5), total // _PER_LIST))
    # Eight bits on principal components instead of product quantisation: as small as is asked for, trained in a
    # fraction of the time, and nearer to the vectors.
    index = faiss.index_factory(dim, f"PCA{min(_CODE_BYTES, dim)},IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(index).cp.niter = _ROUNDS
    sample = np.unique(np.linspace(0, total - 1, min(total, max(_PER_LIST * lists, 16_384))).astype(np.int64))
    index.train(vectors[sample].astype(np.float32))
    for start in range(0, total, _ADDED):
        index.add(vectors[start : start + _ADDED].astype(np.float32))
    return np.asarray(faiss.serialize_index(index))


def _import_faiss(total: int) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise GeolocError(
            f"a gallery of {total} tiles, more than {EXACT_TILES}, needs faiss: pip install faiss-cpu"
        ) from error
    return faiss
