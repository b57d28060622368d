# SPDX-License-Identifier: Apache-2.0
"""Search over poses and alignment with the default network, on the generated world and on images of its own."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from geoloc_models.drl.alignment import PoseSpread
from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_models.engines.placer import Placer, Prior, placing, poses_within, prior_logits
from geoloc_models.engines.pose_search import posed
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.world.generate import generate_world

KNOWN = PoseSpread(math.radians(1.5), 0.015)


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine("default", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """(H, W, 3) RGB of a generated world."""
    return generate_world(450.0, 0.5).date1


def view_of(ground: np.ndarray, centre: tuple[int, int], heading_deg: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """192 px about (x, y), as a vehicle shows it whose heading and height are off by so much."""
    x, y = centre
    wide = ground[y - 160 : y + 160, x - 160 : x + 160]
    return posed(wide, -heading_deg, 1 / scale)[64:256, 64:256]


@pytest.mark.parametrize(("heading_deg", "scale"), [(0.0, 1.0), (10.0, 1.0), (-20.0, 1.0), (0.0, 1.2), (10.0, 0.8)])
def test_heading_and_height_are_found(
    engine: TorchEngine, ground: np.ndarray, heading_deg: float, scale: float
) -> None:
    search_map = ground[200:632, 200:632]
    view = view_of(ground, (430, 400), heading_deg, scale)
    placed = Placer(engine).place(view, search_map)
    assert placed.alignment is not None
    assert math.dist(placed.centre_xy_px, (230, 200)) < 3.0
    assert math.degrees(placed.alignment.heading_rad) == pytest.approx(heading_deg, abs=1.5)
    assert math.exp(placed.alignment.log_scale) == pytest.approx(scale, rel=0.02)
    assert placed.alignment.support > 0.5


def test_tensors_and_a_prior_serve_too(engine: TorchEngine, ground: np.ndarray) -> None:
    search_map, view = ground[200:632, 200:632], view_of(ground, (430, 400))
    plain = Placer(engine).place(view, search_map, KNOWN)
    tensor = Placer(engine).place(torch.from_numpy(view), search_map, KNOWN)
    np.testing.assert_allclose(tensor.centre_xy_px, plain.centre_xy_px, atol=1e-3)
    near = Placer(engine).place(view, search_map, KNOWN, Prior((225.0, 205.0), np.eye(2) * 400.0))
    assert near.alone is not None
    np.testing.assert_allclose(near.alone.probability, plain.heatmap.probability, atol=1e-6)
    assert math.dist(near.centre_xy_px, (230, 200)) < 3.0


def test_a_view_of_elsewhere_is_not_supported(engine: TorchEngine, ground: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.integers(0, 255, (192, 192, 3), dtype=np.uint8), (0, 0), 3.0)
    placed = Placer(engine).place(cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX), ground[200:632, 200:632])  # type: ignore[call-overload]
    assert placed.alignment is not None
    assert placed.alignment.support < 0.3


def test_without_a_head_it_answers_as_the_engine() -> None:
    compact = TorchEngine("mix_compact", device="cpu")
    rng = np.random.default_rng(1)
    search_map = cv2.resize(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8), (288, 288))
    view = np.ascontiguousarray(search_map[80:208, 60:188])
    placed = Placer(compact).place(view, search_map)
    assert placed.alignment is None
    np.testing.assert_array_equal(placed.heatmap.probability, compact.infer(view, search_map).probability)
    assert placed.centre_xy_px == placed.heatmap.peak_xy_px


def test_only_networks_are_wrapped(engine: TorchEngine) -> None:
    class Matcher:
        spec = engine.spec

        def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
            return heatmap_from_logits(np.zeros((3, 3), np.float32), 4.0)

        def prepare(self, search_map: np.ndarray) -> None: ...

    matcher = Matcher()
    assert placing(matcher) is matcher
    assert isinstance(placing(engine), Placer)


def test_poses_cover_two_sigma() -> None:
    assert poses_within(KNOWN) == ([0.0], [1.0])
    headings, scales = poses_within(PoseSpread(math.radians(12.0), 0.18))
    assert headings == [-18.0, 0.0, 18.0]
    np.testing.assert_allclose(scales, [1 / 1.3, 1.0, 1.3])
    every, _ = poses_within(PoseSpread(math.pi, 0.0))
    assert len(every) == 20
    assert {round(heading) % 360 for heading in every} == set(range(0, 360, 18))


def test_a_view_of_less_or_more_ground_is_searched_whole(engine: TorchEngine, ground: np.ndarray) -> None:
    """A height 30 % off, on a map twice as wide as the view: warped to the map's pixels, the view would show half."""
    search_map = ground[200:632, 200:632]
    for scale in (0.72, 1.35):
        placed = Placer(engine).place(view_of(ground, (400, 420), 12.0, scale), search_map)
        assert placed.alignment is not None
        assert math.dist(placed.centre_xy_px, (200, 220)) < 3.0
        assert math.exp(placed.alignment.log_scale) == pytest.approx(scale, rel=0.03)
        assert math.degrees(placed.alignment.heading_rad) == pytest.approx(12.0, abs=1.5)
        assert math.dist(placed.heatmap.peak_xy_px, (200, 220)) < 20.0


def test_the_prior_is_a_gaussian() -> None:
    prior = Prior((40.0, 24.0), np.array([[100.0, 30.0], [30.0, 50.0]]))
    found = prior_logits(prior, (12, 20), 4.0)
    for row, column in [(0, 0), (6, 10), (11, 3)]:
        off = np.array([4.0 * column - 40.0, 4.0 * row - 24.0])
        assert found[row, column] == pytest.approx(-0.5 * off @ np.linalg.inv(prior.covariance_px) @ off, abs=1e-4)
    assert found.max() == 0.0


def test_the_exported_head_ships(engine: TorchEngine) -> None:
    """The default's index entry is the file that carries the head."""
    import geoloc_models.weights as weights

    assert weights.load_weights("default").model.alignment is not None
    assert Path(weights.FOLDER / "mix_hybrid.safetensors").stat().st_size < 20e6
