# SPDX-License-Identifier: Apache-2.0
"""Search by product, exact and by codes, against sorting all products."""

import builtins
from typing import Any

import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.relocalization import gallery_index
from geoloc_ros.core.relocalization.gallery_index import CodeIndex, build_codes, search_exactly

DIM = 32


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clustered(count: int, seed: int = 0) -> np.ndarray:
    """(count, DIM) float16 in groups of about 20."""
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((count // 20, DIM))
    rows = places[rng.integers(0, len(places), count)] + 0.5 * rng.standard_normal((count, DIM))
    return unit(rows).astype(np.float16)


def queries(vectors: np.ndarray, count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(5)
    rows = vectors[rng.integers(0, len(vectors), count)].astype(np.float32)
    return unit(rows + 0.05 * rng.standard_normal(rows.shape)).astype(np.float32)


def sorted_products(
    vectors: np.ndarray, asked: np.ndarray, count: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    products = asked.astype(np.float64) @ vectors[allowed].astype(np.float64).T
    order = np.argsort(-products, axis=1)[:, :count]
    return allowed[order], np.take_along_axis(products, order, 1)


def recall(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, right, strict=True)]))


@pytest.mark.parametrize("part", [None, np.arange(3, 1700, 7)])
def test_exact_search_sorts_all_products(part: np.ndarray | None) -> None:
    """Over several chunks, the last one short, all rows or some."""
    vectors = clustered(1700)
    asked = queries(vectors)
    found, scores = search_exactly(vectors, asked, 9, part)
    right, products = sorted_products(vectors, asked, 9, np.arange(1700) if part is None else part)
    np.testing.assert_array_equal(found, right)
    np.testing.assert_allclose(scores, products, atol=1e-6)


@pytest.mark.parametrize("part", [None, np.array([4, 8, 15]), np.zeros(0, np.int64)])
def test_more_than_there_are_gives_all(part: np.ndarray | None) -> None:
    vectors = clustered(40)
    found, scores = search_exactly(vectors, queries(vectors, 2), 100, part)
    rows = np.arange(40) if part is None else part
    assert found.shape == scores.shape == (2, len(rows))
    np.testing.assert_array_equal(np.sort(found), np.tile(rows, (2, 1)))


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return clustered(6000)


@pytest.fixture(scope="module")
def index(many: np.ndarray) -> CodeIndex:
    return CodeIndex(many, build_codes(many))


def test_codes_find_nearly_all_and_score_exactly(index: CodeIndex, many: np.ndarray) -> None:
    asked = queries(many, 50)
    found, scores = index.search(asked, 10)
    right, _ = sorted_products(many, asked, 10, np.arange(len(many)))
    assert recall(found, right) >= 0.95
    products = np.take_along_axis(asked @ many.astype(np.float32).T, found, 1)
    np.testing.assert_allclose(scores, products, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_codes_stay_small(index: CodeIndex) -> None:
    """A byte a component and the row's number; the rest does not grow with the gallery."""
    assert index.bytes < 6000 * (DIM + 8) + 60_000


def test_codes_within_an_area(index: CodeIndex, many: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the exact limit faiss itself looks at allowed rows only; below it and for all rows the search is exact."""
    allowed = np.arange(1, 6000, 2)
    asked = queries(many, 50)
    right, _ = sorted_products(many, asked, 10, allowed)
    np.testing.assert_array_equal(index.search(asked, 10, allowed)[0], right)
    monkeypatch.setattr(gallery_index, "EXACT_TILES", 100)
    found, _ = index.search(asked, 10, allowed)
    assert (found % 2 == 1).all()
    assert recall(found, right) >= 0.95
    found, _ = index.search(asked[:1], 10_000)
    assert sorted(found[0]) == list(range(6000))


@pytest.mark.parametrize(("count", "compared"), [(2, 20), (10, 80), (76, 6000)])
def test_candidates_grow_with_what_is_asked_for(
    count: int, compared: int, index: CodeIndex, many: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the given share of the 600 tiles that are looked through, then all are compared."""
    monkeypatch.setattr(gallery_index, "_CANDIDATES", 20)
    monkeypatch.setattr(gallery_index, "_NAMED", 1.0)
    seen = []

    def spy(vectors: np.ndarray, asked: np.ndarray, count: int, allowed: np.ndarray | None = None) -> Any:
        seen.append(len(vectors) if allowed is None else len(allowed))
        return search_exactly(vectors, asked, count, allowed)

    monkeypatch.setattr(gallery_index, "search_exactly", spy)
    asked = queries(many, 1)
    found, _ = index.search(asked, count)
    assert seen == [compared]
    assert recall(found, sorted_products(many, asked, count, np.arange(6000))[0]) >= 0.9


def test_too_few_candidates_end_in_an_exact_search(
    index: CodeIndex, many: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Allowed rows that lie in other lists than the query's are found all the same."""
    monkeypatch.setattr(gallery_index, "EXACT_TILES", 5)
    asked = queries(many, 3)
    far = np.sort(np.argsort(asked @ many.astype(np.float32).T, axis=1)[0, :30])
    right, _ = sorted_products(many, asked, 20, far)
    np.testing.assert_array_equal(index.search(asked, 20, far)[0], right)


def test_codes_of_something_else_are_refused(index: CodeIndex, many: np.ndarray) -> None:
    stored = build_codes(many[:400])
    with pytest.raises(GeolocError, match="codes are of 400 tiles of 32 numbers, it holds 6000 of 32"):
        CodeIndex(many, stored)
    with pytest.raises(GeolocError, match="search codes are damaged"):
        CodeIndex(many[:400], stored[: len(stored) // 2].copy())


def test_without_faiss_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(GeolocError, match="needs faiss: pip install faiss-cpu"):
        build_codes(clustered(40))
