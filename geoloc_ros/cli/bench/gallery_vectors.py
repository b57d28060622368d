# SPDX-License-Identifier: Apache-2.0
"""Generated galleries whose vectors are distributed like those of real tiles, and timed searches in them."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from geoloc_models.ast.retriever import Retriever
from geoloc_ros.cli.bench.measuring import percentiles
from geoloc_ros.core.relocalization.gallery_index import CodeIndex, build_codes, search_exactly

TOP = 10
_SPECTRUM = {
    1: 0.12,
    2: 0.118,
    4: 0.051,
    8: 0.034,
    16: 0.0154,
    32: 0.0047,
    64: 0.0016,
    128: 4.3e-4,
    256: 5.9e-5,
    512: 1e-7,
}
"""Rank -> share of the variance along a principal component: vectors by dinov2_ast of 630 tiles of 120 m (LEVIR-CD,
Estonia, Joplin, a village)."""
_COMMON = 0.19
"""Product of two unlike tiles' vectors, on average: the mean vector's square. The rest varies with the spectrum."""
_ALIKE = ((200, 0.3), (20, 0.38))
"""Tiles of a part of town, of a place -> share of that variance they have in common: 0.68 together, as tiles 50 m apart
have there, and 0.3, as tiles 170 m apart."""
_VIEW = 0.57
"""Correlation of the view of another date with its tile."""
_PLACE_BYTES = 20  # latitude, longitude and side of a tile
_CHUNK = 50_000


def embedding_ms(retriever: Retriever, times: int) -> dict[str, float]:
    """Percentiles of embedding one view."""
    view = np.random.default_rng(0).integers(0, 256, (1, retriever.input_px, retriever.input_px, 3), np.uint8)
    retriever.embed(view)  # the first one allocates
    return _timed(lambda _: retriever.embed(view), np.zeros(times))[1]


def measure(tiles: int, dim: int, queries: int, codes: bool, folder: Path) -> list[dict[str, Any]]:
    """A row for the gallery's search, one for NumPy's product: ms, recall, MB of index and file, seconds to build."""
    vectors, asked = generate(tiles, dim, queries, folder / "vectors.raw")
    ours, row = _search(vectors, asked, codes)
    whole = vectors.astype(np.float32)
    theirs, their_ms = _timed(lambda query: _brute_force(whole, query), asked)
    recall = float(np.mean([len(set(a) & set(b)) / TOP for a, b in zip(ours, theirs, strict=True)]))
    numpys = {"search": "NumPy", "ms": their_ms, "index_mb": whole.nbytes / 1e6, "file_mb": 0.0, "build_s": 0.0}
    return [{"tiles": tiles, **row, "recall": recall}, {"tiles": tiles, **numpys, "recall": 1.0}]


def _search(vectors: np.ndarray, asked: np.ndarray, codes: bool) -> tuple[list[np.ndarray], dict[str, Any]]:
    """What the gallery's search finds, and its row; the index is gone when NumPy's turn comes."""
    build_s, index_bytes = 0.0, len(vectors) * _PLACE_BYTES
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    if codes:
        start = time.perf_counter()
        stored = build_codes(vectors)
        build_s = time.perf_counter() - start
        index_bytes += stored.nbytes
        search = CodeIndex(vectors, stored).search
        del stored
    else:
        search = functools.partial(search_exactly, vectors)
    search(asked[:1], TOP)  # the first one loads libraries
    found, ms = _timed(lambda query: search(query[None], TOP)[0][0], asked)
    name, file_mb = "by codes" if codes else "exact", vectors.nbytes / 1e6
    return found, {
        "search": name, "ms": ms, "index_mb": index_bytes / 1e6, "file_mb": file_mb, "build_s": build_s
    }  # fmt: skip


def _timed(search: Callable[[np.ndarray], np.ndarray], asked: np.ndarray) -> tuple[list[np.ndarray], dict[str, float]]:
    found, took = [], []
    for query in asked:
        start = time.perf_counter()
        found.append(search(query))
        took.append(1e3 * (time.perf_counter() - start))
    return found, percentiles(took)


def _brute_force(whole: np.ndarray, query: np.ndarray) -> np.ndarray:
    scores = whole @ query
    best = np.argpartition(-scores, TOP)[:TOP]
    return best[np.argsort(-scores[best])]


def generate(tiles: int, dim: int, queries: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (tiles, dim) float16 in a file, as a gallery's are, and queries (queries, dim) float32.

    Normal, with the mean, spectrum and likeness of neighbours and of views that vectors of real tiles have; directions
    are arbitrary, they do not matter to a search.
    """
    rng = np.random.default_rng(0)
    rank = np.arange(1, dim + 1)
    share = np.exp(np.interp(np.log(rank), np.log(list(_SPECTRUM)), np.log(list(_SPECTRUM.values()))))
    spread = np.sqrt((1 - _COMMON) * share / share.sum()).astype(np.float32)
    # The mean lies along the directions of all components alike.
    mean = np.full(dim, (_COMMON / dim) ** 0.5, np.float32)

    def draw(count: int) -> np.ndarray:
        return rng.standard_normal((count, dim), np.float32) * spread

    groups = [(size, part**0.5 * draw(-(-tiles // size))) for size, part in _ALIKE]
    own = (1 - sum(part for _, part in _ALIKE)) ** 0.5
    vectors = np.memmap(path, np.float16, "w+", shape=(tiles, dim))
    for start in range(0, tiles, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, tiles))
        vectors[rows] = _unit(mean + own * draw(len(rows)) + sum(common[rows // size] for size, common in groups))
    seen = vectors[rng.integers(0, tiles, queries)] - mean
    return vectors, _unit(mean + _VIEW * seen + (1 - _VIEW**2) ** 0.5 * draw(queries))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
