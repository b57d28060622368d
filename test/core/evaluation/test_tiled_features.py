# SPDX-License-Identifier: Apache-2.0
"""Features in tiles are those of the whole image, and no tile is larger than allowed."""

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from geoloc_ros.core.evaluation.baselines import tiled_features
from geoloc_ros.core.evaluation.baselines.tiled_features import MARGIN_PX, TILE_PX, Features, features_in_tiles


class Dots:
    """Finds bright pixels; the descriptor is what surrounds them, the strength how bright they are."""

    def __init__(self) -> None:
        self.sides: list[int] = []

    def __call__(self, image: np.ndarray) -> Features:
        self.sides += image.shape[:2]
        rows, cols = np.nonzero(image > 50)
        around = np.pad(image, 2)
        patches = [around[r : r + 5, c : c + 5].ravel() for r, c in zip(rows, cols, strict=True)]
        descriptors = np.array(patches, np.float32).reshape(-1, 25)
        return Features(np.stack([cols, rows], axis=1) + 0.5, descriptors, image[rows, cols].astype(float))


def dotted(height: int, width: int) -> np.ndarray:
    """Dots of different strengths, among them on both sides of every border that tiles could have."""
    rng = np.random.default_rng(4)
    image = rng.integers(0, 50, (height, width)).astype(np.uint16)
    places = rng.choice(height * width, 900, replace=False)
    image.flat[places] = 51 + np.arange(900)
    return image


@pytest.mark.parametrize(
    "shape", [(TILE_PX + 1, 300), (2100, 2309), (400, 3 * (TILE_PX - MARGIN_PX)), (TILE_PX, TILE_PX)]
)
def test_tiles_find_what_the_whole_picture_has(shape: tuple[int, int]) -> None:
    image, tiled = dotted(*shape), Dots()
    found, whole = features_in_tiles(tiled, image, 1000), Dots()(image)
    assert max(tiled.sides) <= TILE_PX
    assert len(found.xy_px) == 900  # none lost between tiles, none found twice
    ours, theirs = np.argsort(found.strength), np.argsort(whole.strength)
    np.testing.assert_array_equal(found.xy_px[ours], whole.xy_px[theirs])
    np.testing.assert_array_equal(found.descriptors[ours], whole.descriptors[theirs])


def test_the_strongest_of_all_tiles_are_kept() -> None:
    image = dotted(1500, 1500)
    found = features_in_tiles(Dots(), image, 100)
    np.testing.assert_array_equal(found.strength, np.arange(950, 850, -1))


def test_a_blank_picture_has_none() -> None:
    found = features_in_tiles(Dots(), np.zeros((1400, 2000), np.uint16), 100)
    assert found.xy_px.shape == (0, 2)
    assert found.descriptors.shape == (0, 25)


def test_sift_of_tiles_is_sift_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    grey = cv2.GaussianBlur(rng.integers(0, 256, (300, 640)).astype(np.uint8), (0, 0), 2)
    grey = cv2.normalize(grey, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    sift = cv2.SIFT_create(100_000)  # type: ignore[attr-defined]

    def extract(part: np.ndarray) -> Features:
        points, descriptors = sift.detectAndCompute(part, None)
        return Features(
            np.array([point.pt for point in points]) + 0.5, descriptors, np.array([point.response for point in points])
        )

    whole = extract(grey)
    monkeypatch.setattr(tiled_features, "TILE_PX", 384)
    tiled = features_in_tiles(extract, grey, 100_000)
    assert len(tiled.xy_px) == pytest.approx(len(whole.xy_px), rel=0.01)
    distance, nearest = cKDTree(tiled.xy_px).query(whole.xy_px)
    same = distance < 0.1
    assert same.mean() > 0.98
    # Some points have several orientations, and so descriptors.
    off = np.abs(tiled.descriptors[nearest[same]] - whole.descriptors[same]).mean(axis=1)
    assert np.median(off) < 1.0
