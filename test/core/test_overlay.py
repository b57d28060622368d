# SPDX-License-Identifier: Apache-2.0
"""The overlay marks fix and truth where they lie on the map."""

import math

import numpy as np
import pytest

from geoloc_models.drl.heatmap import heatmap_from_logits
from geoloc_ros.core.localizer import Estimate, State
from geoloc_ros.core.maps import CropStatus, MapCrop
from geoloc_ros.core.overlay import FIX_RGB, REFUSED_RGB, TRUTH_RGB, draw_overlay

CROP = MapCrop(np.zeros((128, 128, 3), np.uint8), 48.0, 11.0, 64.0, 0.5, 1.0, CropStatus.OK, "covered")


def estimate(valid: bool, east_m: float, north_m: float, covariance: np.ndarray) -> Estimate:
    """A fix so far from the crop's middle."""
    lat_deg, lon_deg = CROP.pixel_to_geodetic(64 + 2 * east_m, 64 - 2 * north_m)
    empty = {"filtered": None, "heatmap": None, "crop": None, "view": None, "search_size_m": 64.0}
    return Estimate(0.0, State.TRACKING, valid, "", lat_deg, lon_deg, covariance, latencies_ms={}, **empty)


def drawn_in(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(n, 2) x and y of the pixels of nearly this colour; lines are smoothed."""
    return np.argwhere(np.abs(image.astype(int) - colour).max(axis=2) < 90)[:, ::-1]


@pytest.mark.parametrize(("valid", "colour"), [(True, FIX_RGB), (False, REFUSED_RGB)])
def test_ellipse_lies_about_the_fix_along_its_covariance(valid: bool, colour: tuple[int, int, int]) -> None:
    """5 m by 1 m of standard deviation towards the north-east: 3 sigma reach 15 m, that is 21 px each way."""
    along = np.array([1.0, 1.0]) / math.sqrt(2)
    covariance = np.eye(2) + 24.0 * np.outer(along, along)
    flat = heatmap_from_logits(np.zeros((33, 33), np.float32), 4.0)
    image = draw_overlay(CROP, flat, estimate(valid, 6.0, 4.0, covariance), None)
    background = draw_overlay(CROP, flat, estimate(valid, 900.0, 900.0, covariance), None)
    xy = np.argwhere((image != background).any(axis=2))[:, ::-1]
    np.testing.assert_allclose(xy.mean(axis=0), [64 + 12, 64 - 8], atol=0.7)
    np.testing.assert_allclose(np.ptp(xy, axis=0), [2 * 21.2 + 1, 2 * 21.2 + 1], atol=3.5)
    assert np.corrcoef(xy.T)[0, 1] < -0.5  # north-east is up and to the right
    assert len(drawn_in(image, colour)) > 5


def test_truth_and_heatmap() -> None:
    logits = np.zeros((33, 33), np.float32)
    logits[8, 24] = 20.0
    heatmap = heatmap_from_logits(logits, 4.0)
    truth = CROP.pixel_to_geodetic(30.0, 90.0)
    image = draw_overlay(CROP, heatmap, estimate(True, 0.0, 0.0, np.eye(2)), truth)
    green = drawn_in(image, TRUTH_RGB)
    np.testing.assert_allclose((green.min(axis=0) + green.max(axis=0) + 1) / 2, [30.0, 90.0], atol=1.5)
    hottest = image[8 * 4, 24 * 4].astype(int)
    assert hottest[0] > 100  # red over black where the heatmap peaks
    assert image[100, 10].max() < 60
