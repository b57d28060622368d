# SPDX-License-Identifier: Apache-2.0
"""Random scale crop: the label points at the target, the filling is the mean, the draws are the paper's."""

import numpy as np
import pytest

from geoloc_models.datasets.random_scale_crop import (
    RandomScaleCrop,
    crop_with_mean_fill,
    fixed_scales,
    random_scale,
    scales_from_text,
)
from geoloc_models.errors import GeolocError


def marked_picture(side_px: int = 1280) -> np.ndarray:
    """Dark noise with a bright 2x2 marker around the exact centre."""
    image = np.random.default_rng(0).integers(0, 100, (side_px, side_px, 3), dtype=np.uint8)
    half = side_px // 2
    image[half - 1 : half + 1, half - 1 : half + 1] = 255
    return image


@pytest.mark.parametrize("scale", [None, fixed_scales(512), fixed_scales(512, 768, 1000), fixed_scales(701)])
def test_label_points_at_the_marker(scale: object) -> None:
    crop = RandomScaleCrop(scale)  # type: ignore[arg-type]
    image = marked_picture()
    rng = np.random.default_rng(1)
    for _ in range(25):
        sample = crop(image, rng)
        side = sample.image.shape[0]
        assert sample.image.shape == (side, side, 3)
        assert sample.image.dtype == np.uint8
        rows, cols = np.nonzero(sample.image.min(axis=2) == 255)
        measured = (rows.mean() + 0.5, cols.mean() + 0.5)  # pixel edges
        expected = np.array(sample.target) * side
        assert np.abs(np.subtract(measured, expected)).max() < 1.0
        assert 0.07 < min(sample.target) <= max(sample.target) < 0.93


def test_draws_follow_the_paper() -> None:
    """Sides even and in [512, 1000); offsets uniform and independent over 0.85 of the side."""
    crop = RandomScaleCrop()
    image = marked_picture(1280)
    rng = np.random.default_rng(2)
    samples = [crop(image, rng) for _ in range(400)]
    sides = np.array([s.image.shape[0] for s in samples])
    assert sides.min() >= 512
    assert sides.max() <= 998
    assert not (sides % 2).any()
    assert sides.std() == pytest.approx(488 / 12**0.5, rel=0.1)
    targets = np.array([s.target for s in samples])
    assert targets.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.04)
    assert targets.std(axis=0) == pytest.approx([0.85 / 12**0.5] * 2, rel=0.08)
    assert abs(np.corrcoef(targets.T)[0, 1]) < 0.15


def test_random_scale_takes_one_off_odd_sides() -> None:
    rng = np.random.default_rng(3)
    draws = {random_scale(10, 14)(rng) for _ in range(100)}
    assert draws == {10, 12}


def test_text_names_the_variants_of_table_vi() -> None:
    """Single, multiple and random scale draw exactly the sides that their names promise."""
    rng = np.random.default_rng(7)

    def drawn(text: str) -> set[int]:
        scale = scales_from_text(text)
        return {scale(rng) for _ in range(3000)}

    assert drawn("512") == {512}
    assert drawn("512,768,1000") == {512, 768, 1000}
    assert drawn("768-1000") == set(range(768, 1000, 2))


@pytest.mark.parametrize("text", ["", "512-", "1000-512", "512-512", "0", "1", "512,", "512;768", "a", "-5", "0-10"])
def test_text_that_names_nothing_is_told(text: str) -> None:
    with pytest.raises(GeolocError, match=r"names no crop sides; give px as 512 \(single\)"):
        scales_from_text(text)


def test_same_seed_same_crop() -> None:
    crop = RandomScaleCrop()
    image = marked_picture()
    first, second = (crop(image, np.random.default_rng(4)) for _ in range(2))
    assert first.target == second.target
    assert np.array_equal(first.image, second.image)


@pytest.mark.parametrize(("top", "left"), [(-30, 5), (40, -20), (80, 85), (-10, 90)])
def test_outside_gets_the_mean_of_the_inside(top: int, left: int) -> None:
    image = np.random.default_rng(5).integers(0, 255, (120, 120, 3), dtype=np.uint8)
    window = crop_with_mean_fill(image, top, left, 64)
    total, count = np.zeros(3), 0
    for r in range(64):
        for c in range(64):
            if 0 <= top + r < 120 and 0 <= left + c < 120:
                assert (window[r, c] == image[top + r, left + c]).all()
                total += image[top + r, left + c]
                count += 1
    assert count < 64 * 64
    for r in range(64):
        for c in range(64):
            if not (0 <= top + r < 120 and 0 <= left + c < 120):
                assert np.abs(window[r, c] - total / count).max() <= 0.5


def test_crop_is_a_copy() -> None:
    image = marked_picture(1280)
    before = image.copy()
    sample = RandomScaleCrop(fixed_scales(512), centre_coverage=0.0)(image, np.random.default_rng(6))
    sample.image[:] = 0
    assert np.array_equal(image, before)


def test_wrong_use_is_told() -> None:
    with pytest.raises(GeolocError, match="square"):
        RandomScaleCrop()(np.zeros((600, 700, 3), np.uint8), np.random.default_rng(0))
    with pytest.raises(GeolocError, match="coverage of 1"):
        RandomScaleCrop(centre_coverage=1.0)
