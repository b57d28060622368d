# SPDX-License-Identifier: Apache-2.0
"""Overlays mark fix, candidates and truth where they lie on the map."""

import math
from dataclasses import replace

import numpy as np
import pytest

from geoloc_models.drl.heatmap import heatmap_from_logits
from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.overlay import (
    FIX_RGB,
    PANEL_PX,
    REFUSED_RGB,
    TRUTH_RGB,
    WINNER_RGB,
    draw_candidates,
    draw_overlay,
    odds_text,
)
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.core.matching.match_frame import Match
from geoloc_ros.core.matching.tracker import Tracker
from geoloc_ros.core.relocalization.hypotheses import Hypothesis

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


VIEW = RectifiedView(np.full((64, 64, 3), (200, 30, 90), np.uint8), 0.5, (0.0, 0.0), 1.0)


def candidate(x_px: float, y_px: float, log_odds: float, seen: bool = True) -> Hypothesis:
    """A place in the crop, with its heatmap's peak there if this frame shows it."""
    logits = np.zeros((33, 33), np.float32)
    logits[int(y_px / 4), int(x_px / 4)] = 20.0
    place = CROP.pixel_to_geodetic(x_px, y_px)
    match = Match(*place, np.eye(2), heatmap_from_logits(logits, 4.0), 1.0, CROP)
    return Hypothesis(Tracker(*place, 5.0, 5.0, 0.0), log_odds, 0.0, 0.7, 3, match if seen else None, place)


def panel(sheet: np.ndarray, number: int) -> np.ndarray:
    """One panel without the lines of text above and below."""
    row, col = divmod(number, 3)
    rows, cols = (
        slice(row * PANEL_PX + 30, (row + 1) * PANEL_PX - 30),
        slice(col * PANEL_PX, (col + 1) * PANEL_PX - 2),
    )
    return sheet[rows, cols]


@pytest.mark.parametrize("accepted", [True, False])
def test_candidates_are_drawn_best_first(accepted: bool) -> None:
    found = (candidate(32.0, 80.0, 7.0), candidate(96.0, 48.0, 0.5), candidate(64.0, 64.0, -2.0, seen=False))
    shown = replace(estimate(accepted, 0.0, 0.0, np.eye(2)), view=VIEW, candidates=found)
    sheet = draw_candidates(shown, CROP.pixel_to_geodetic(34.0, 84.0))
    assert sheet.shape == (2 * PANEL_PX, 3 * PANEL_PX, 3)
    assert (panel(sheet, 0) == VIEW.image[0, 0]).all()
    for number, (x_px, y_px) in ((1, (32, 80)), (2, (96, 48))):
        drawn = panel(sheet, number)
        # Two pixels of the sheet are one of the crop.
        assert drawn[2 * y_px - 30, 2 * x_px - 3].min() > 150  # an arm of the cross, white
        assert (drawn.max(axis=2) > 60).mean() < 0.05  # and nothing elsewhere
    truth = drawn_in(panel(sheet, 1), TRUTH_RGB)
    np.testing.assert_allclose((truth.min(axis=0) + truth.max(axis=0) + 1) / 2, [68, 168 - 30], atol=2.0)
    for number in (3, 4, 5):
        assert np.ptp(panel(sheet, number)) == 0  # nothing to show
    frame = (sheet[PANEL_PX // 2, PANEL_PX + 3] == WINNER_RGB).all()
    assert frame == accepted
    assert len(drawn_in(sheet[:, 2 * PANEL_PX :], WINNER_RGB)) == 0


def test_a_sheet_is_as_large_with_many_candidates_and_no_view() -> None:
    found = tuple(candidate(64.0, 64.0, -float(number)) for number in range(9))
    shown = replace(estimate(False, 0.0, 0.0, np.eye(2)), candidates=found)
    assert draw_candidates(shown).shape == (2 * PANEL_PX, 3 * PANEL_PX, 3)


@pytest.mark.parametrize(
    ("odds", "text"), [(250.0, "250:1"), (1 / 30, "1:30"), (1.0, "1:1"), (3e6, "1e6:1"), (1e-9, "1:1e9")]
)
def test_odds_in_words(odds: float, text: str) -> None:
    assert odds_text(math.log(odds)) == text
