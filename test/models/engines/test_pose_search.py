# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from geoloc_models.datasets.homography import ground_from_view, warp
from geoloc_models.engines.pose_search import PoseSearch, posed
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine("mix_compact", device="cpu")


def _map_and_view(heading_deg: float, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A map of random blocks, and what a camera over (x 220, y 150) sees that flies on `heading_deg`."""
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    search_map = np.kron(blocks, np.ones((16, 16, 1), np.uint8))
    at = np.array([[1, 0, 220.0], [0, 1, 150.0], [0, 0, 1]])
    view = ground_from_view(128, 128, yaw_rad=np.deg2rad(heading_deg), scale=scale)
    return search_map, warp(search_map, at @ view, 128)


def test_posed_undoes_heading_and_height() -> None:
    search_map, turned = _map_and_view(40.0, 1.2)
    north_up = posed(turned, 40.0, 1.2)[40:88, 40:88].astype(float)
    truth = search_map[150 - 24 : 150 + 24, 220 - 24 : 220 + 24].astype(float)
    assert np.corrcoef(north_up.ravel(), truth.ravel())[0, 1] > 0.9
    wrong = posed(turned, -40.0, 1.2)[40:88, 40:88].astype(float)
    assert np.corrcoef(wrong.ravel(), truth.ravel())[0, 1] < 0.6


def test_finds_the_place_and_the_heading_of_a_turned_view(engine: TorchEngine) -> None:
    search_map, turned = _map_and_view(160.0)
    search = PoseSearch.all_headings(engine)
    heatmap, heading_deg, scale = search.search(turned, search_map)
    assert np.hypot(heatmap.peak_xy_px[0] - 220, heatmap.peak_xy_px[1] - 150) < 8
    assert (heading_deg, scale) == (160.0, 1.0)
    alone = engine.infer(turned, search_map)
    assert np.hypot(alone.peak_xy_px[0] - 220, alone.peak_xy_px[1] - 150) > 20 or alone.peak < heatmap.peak


def test_one_pose_is_the_engine_itself(engine: TorchEngine) -> None:
    search_map, view = _map_and_view(0.0)
    ours, plain = PoseSearch(engine).infer(view, search_map), engine.infer(view, search_map)
    np.testing.assert_allclose(ours.probability, plain.probability, atol=1e-6)


@pytest.mark.parametrize(("headings", "scales"), [([], [1.0]), ([0.0], []), ([0.0], [-1.0])])
def test_nothing_to_try_is_refused(engine: TorchEngine, headings: list[float], scales: list[float]) -> None:
    with pytest.raises(GeolocError, match="give at least one"):
        PoseSearch(engine, headings, scales)
