# SPDX-License-Identifier: Apache-2.0
"""Each stress does what its name says, to the amount that it says, and draws from its generator alone."""

import cv2
import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.stress import (
    OCCLUDED_SHARE,
    STRESSES,
    ViewErrors,
    choose_stresses,
    compress,
    hide,
    night,
    unknown_heading,
)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(4)
    coarse = rng.uniform(40, 220, (12, 12, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (120, 100), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def test_headings_fill_the_circle_and_leave_the_rest() -> None:
    rng = np.random.default_rng(0)
    small = ViewErrors(0.1, -0.1, 0.05, 1.03)
    drawn = [unknown_heading(small, rng) for _ in range(400)]
    yaw = np.array([errors.yaw_rad for errors in drawn])
    assert np.histogram(yaw, bins=8, range=(-np.pi, np.pi))[0].min() > 30
    assert {(e.roll_rad, e.pitch_rad, e.scale) for e in drawn} == {(0.1, -0.1, 1.03)}


@pytest.mark.parametrize(
    ("name", "headings_deg", "scales"),
    [
        ("heading-10", {-10.0, 10.0}, {1.05}),
        ("height-20", {5.0}, {0.8, 1.2}),
        ("height-30", {5.0}, {0.7, 1.3}),
        ("both", {-10.0, 10.0}, {0.8, 1.2}),
    ],
)
def test_fixed_errors_of_either_sign_replace_their_own_only(
    name: str, headings_deg: set[float], scales: set[float]
) -> None:
    rng, geometry = np.random.default_rng(0), STRESSES[name].geometry
    assert geometry is not None
    drawn = [geometry(ViewErrors(0.1, -0.1, np.deg2rad(5.0), 1.05), rng) for _ in range(200)]
    pairs = [(round(float(np.rad2deg(errors.yaw_rad)), 9), round(errors.scale, 9)) for errors in drawn]
    # Every combination, and no sign rare.
    assert set(pairs) == {(heading, scale) for heading in headings_deg for scale in scales}
    assert min(pairs.count(pair) for pair in set(pairs)) > 30
    assert {(errors.roll_rad, errors.pitch_rad) for errors in drawn} == {(0.1, -0.1)}


def test_occlusion_hides_its_share_and_nothing_else(image: np.ndarray) -> None:
    for seed in range(20):
        hidden = hide(image, np.random.default_rng(seed))
        mean = np.round(image.mean(axis=(0, 1))).astype(np.uint8)
        covered = (hidden == mean).all(axis=2)
        assert covered.mean() == pytest.approx(OCCLUDED_SHARE, abs=0.01)
        rows, cols = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        assert covered[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].mean() > 0.99
        np.testing.assert_array_equal(hidden[~covered], image[~covered])


def test_night_is_dark_noisy_and_cast_but_still_the_scene(image: np.ndarray) -> None:
    casts = []
    for seed in range(12):
        dark = night(image, np.random.default_rng(seed))
        assert dark.dtype == np.uint8 and dark.shape == image.shape
        assert dark.mean() < 0.75 * image.mean()
        smooth = [cv2.GaussianBlur(p, (0, 0), 3).mean(axis=2) for p in (image, dark)]
        assert np.corrcoef(smooth[0].ravel(), smooth[1].ravel())[0, 1] > 0.85
        grain = [np.std(p.astype(float) - cv2.GaussianBlur(p, (0, 0), 1.5)) / p.mean() for p in (image, dark)]
        assert grain[1] > 2 * grain[0]
        red, blue = dark[..., 0].mean(), dark[..., 2].mean()
        casts.append(red / max(blue, 1e-9))
    assert min(casts) < 0.9 < 1.1 < max(casts)


def test_jpeg_costs_detail_and_keeps_the_colours(image: np.ndarray) -> None:
    packed = compress(image, np.random.default_rng(0))
    error = packed.astype(float) - image
    assert 1.0 < np.abs(error).mean() < 15.0
    assert np.abs(error.mean(axis=(0, 1))).max() < 3.0


def test_same_generator_same_picture(image: np.ndarray) -> None:
    for stress in STRESSES.values():
        if stress.image is not None:
            once, again = (stress.image(image, np.random.default_rng(5)) for _ in range(2))
            np.testing.assert_array_equal(once, again)


def test_names() -> None:
    assert choose_stresses([]) == ["none"]
    assert choose_stresses(["jpeg", "heading"]) == ["none", "heading", "jpeg"]
    assert choose_stresses(["all"]) == list(STRESSES)
    with pytest.raises(GeolocError, match=r"snow.*heading"):
        choose_stresses(["snow"])
