# SPDX-License-Identifier: Apache-2.0
"""Simulated views and training samples against explicit geometry."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from geoloc_models.datasets.augmentation import build_over
from geoloc_models.datasets.homography import CAMERA_FOV_RAD, ground_from_view, render_view, warp
from geoloc_models.datasets.image_pairs import ImagePair, is_held_out, list_pairs, scene_of
from geoloc_models.datasets.pair_samples import PairSamples, SampleSettings
from geoloc_models.errors import GeolocError


def spot_of(image: np.ndarray) -> np.ndarray:
    """Centroid (x, y) of the red spot, pixel-edge coordinates."""
    red = np.clip(image[..., 0].astype(float) - image[..., 1] - 60, 0, None)
    assert red.sum() > 0
    rows, cols = np.mgrid[: red.shape[0], : red.shape[1]]
    return np.array([(red * cols).sum(), (red * rows).sum()]) / red.sum() + 0.5


def spotted(xy: tuple[float, float], size: int = 400) -> np.ndarray:
    image = np.full((size, size, 3), 90, np.uint8)
    cv2.circle(image, (round((xy[0] - 0.5) * 16), round((xy[1] - 0.5) * 16)), 5 * 16, (255, 0, 0), -1, cv2.LINE_AA, 4)
    return image


def test_untilted_view_is_a_plain_crop() -> None:
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    np.testing.assert_array_equal(render_view(image, (100.0, 90.0), 64, 64), image[58:122, 68:132])


@pytest.mark.parametrize(
    ("roll", "pitch", "yaw", "scale"), [(0.1, 0, 0, 1), (0, -0.1, 0.2, 1.1), (0.1, 0.07, -0.1, 0.93)]
)
def test_view_is_a_pinhole_picture(roll: float, pitch: float, yaw: float, scale: float) -> None:
    """A ground point appears where a pinhole camera written out step by step puts it."""
    centre, ground, side = np.array([200.0, 180.0]), np.array([222.0, 171.0]), 120.0
    view = render_view(spotted(tuple(ground)), tuple(centre), side, 120, roll, pitch, yaw, scale)
    focal, height = 60 / math.tan(CAMERA_FOV_RAD / 2), scale * 60 / math.tan(CAMERA_FOV_RAD / 2)
    rx = cv2.Rodrigues(np.array([roll, 0.0, 0.0]))[0]
    ry = cv2.Rodrigues(np.array([0.0, pitch, 0.0]))[0]
    rz = cv2.Rodrigues(np.array([0.0, 0.0, yaw]))[0]
    rotation = rz @ ry @ rx
    axis = rotation[:, 2]
    camera = np.array([*(centre - axis[:2] / axis[2] * height), -height])
    seen = rotation.T @ (np.array([*ground, 0.0]) - camera)
    expected = focal * seen[:2] / seen[2] + 60
    np.testing.assert_allclose(spot_of(view), expected, atol=0.3)


def test_principal_ray_hits_the_centre() -> None:
    homography = ground_from_view(100, 96, 0.2, -0.1, 0.5, 1.1)
    point = homography @ np.array([48, 48, 1.0])
    np.testing.assert_allclose(point[:2] / point[2], 0, atol=1e-9)


def test_outside_is_filled_with_the_mean_of_the_inside() -> None:
    image = np.random.default_rng(1).integers(0, 255, (50, 50, 3), np.uint8)
    out = warp(image, np.array([[1, 0, -25], [0, 1, 0], [0, 0, 1.0]]), 50)
    np.testing.assert_allclose(out[:, :24].reshape(-1, 3).mean(0), out[:, 26:].reshape(-1, 3).mean(0), atol=1)


def test_strong_reduction_averages() -> None:
    """A fine chequerboard becomes grey, not moiré."""
    board = (np.indices((400, 400)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    small = warp(board, np.diag([8.0, 8.0, 1.0]), 50)
    assert np.abs(small[2:-2, 2:-2].astype(int) - 127).max() <= 3


def test_scenes_are_never_split() -> None:
    assert scene_of("test_1031_new_Base_istrain_True_195_1_2") == scene_of("test1011_1_istrain_True_195_501_6")
    assert is_held_out("test_1031_new_Base_istrain_True_195_1_2") == is_held_out("test1011_1_istrain_True_195_501_6")


def test_a_fifth_of_scenes_is_held_out() -> None:
    share = np.mean([is_held_out(f"x_istrain_True_{i}_1_2") for i in range(1000)])
    assert 0.15 < share < 0.25


def test_scenes_that_overlap_training_scenes_are_in_neither_set(shared_data: Path) -> None:
    both = {
        held_out: {scene_of(p.name) for p in list_pairs(shared_data, "levir", held_out)} for held_out in (True, False)
    }
    everything = {scene_of(p.name) for p in list_pairs(shared_data, "levir")}
    assert not both[True] & both[False]
    assert "istrain_True_19" in everything - both[True] - both[False]
    assert len(both[True]) >= 15


def test_missing_data_says_which_layout(tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match=r"no levir pairs under .*pairs/levir"):
        list_pairs(tmp_path, "levir")
    with pytest.raises(GeolocError, match="unknown pair source 'mars'"):
        list_pairs(tmp_path, "mars")


def test_training_targets_are_where_the_view_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A red spot lies as far from the target on the map as from the centre in the view."""
    cv2.imwrite(str(tmp_path / "a.png"), spotted((210.0, 190.0), 400)[..., ::-1])
    pair = ImagePair("a", "test", tmp_path / "a.png", tmp_path / "a.png", 0.5, np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    settings = SampleSettings(tilt_deg=0, heading_deg=0, height_share=0, map_scale=(1.0, 1.1))
    rng = np.random.default_rng(3)
    # Geometry alone: shadows, erasing, blur and other places' buildings would move the spot's centroid.
    monkeypatch.setattr("geoloc_models.datasets.pair_samples.build_over", lambda image, *_, **__: image)
    monkeypatch.setattr("geoloc_models.datasets.pair_samples.degrade", lambda image, *_: image)
    monkeypatch.setattr("geoloc_models.datasets.pair_samples.occlude", lambda image, _: image)
    samples = PairSamples([pair], settings)
    checked = 0
    for _ in range(40):
        sample = samples.draw(pair, rng)
        assert sample is not None
        for view, target in zip(sample["query"].numpy(), sample["target"].numpy(), strict=True):
            try:
                on_map = spot_of(_plain(sample["map"].numpy()))
                in_view = spot_of(_plain(view)) - settings.query_px / 2
            except AssertionError:
                continue  # the spot is out of sight
            if np.abs(in_view).max() < 35:
                np.testing.assert_allclose(on_map - target[::-1], in_view, atol=0.3)
                checked += 1
    assert checked >= 10


def _plain(chw: np.ndarray) -> np.ndarray:
    return chw.transpose(1, 2, 0)


def test_stream_repeats_with_its_seed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8))
    pair = ImagePair("a", "test", tmp_path / "a.png", tmp_path / "a.png", 0.5, np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    first, second, other = (next(iter(PairSamples([pair], SampleSettings(), seed))) for seed in (5, 5, 6))
    assert torch.equal(first["query"], second["query"])
    assert not torch.equal(first["query"], other["query"])


def test_what_is_built_over_is_of_the_other_place_and_no_more_than_allowed() -> None:
    """Blue ground, buildings of a red place: pixels are blue, red, or between the two on the buildings' edges."""
    blue = np.zeros((96, 96, 3), np.uint8)
    blue[..., 2] = 200
    red = np.zeros((60, 80, 3), np.uint8)  # smaller than the image: enlarged
    red[..., 0] = 200
    shares = []
    for seed in range(40):
        out = build_over(blue, red, np.random.default_rng(seed), most=0.25).astype(int)
        assert np.abs(out[..., 0] + out[..., 2] - 200).max() <= 1
        assert out[..., 1].max() == 0
        shares.append((out[..., 0] > 100).mean())
    assert max(shares) < 0.27
    assert np.mean(shares) > 0.05
