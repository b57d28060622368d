# SPDX-License-Identifier: Apache-2.0
"""The fit of a pose to blocks, against poses that made the blocks."""

import numpy as np
import pytest

from geoloc_models.drl.alignment import Alignment, BlockMatches, PoseSpread, align

SIDE, REACH, STRIDE_PX = 17, 8, 4.0
CENTRES_PX = np.array([(x, y) for y in range(-80, 81, 16) for x in range(-80, 81, 16)], float)
"""(121, 2): of a view of 192 px."""


def displaced(heading_deg: float, scale: float, shift: tuple[float, float], tilt: tuple[float, float]) -> np.ndarray:
    """Displacements of the blocks, nodes, point by point from the definition in Alignment."""
    c, s = np.cos(np.radians(heading_deg)), np.sin(np.radians(heading_deg))
    moved = []
    for x, y in CENTRES_PX:
        # Clockwise in an image, whose y points down.
        turned = scale * np.array([c * x - s * y, s * x + c * y])
        moved.append((np.array(shift) + turned + (np.array(tilt) @ turned) * turned - (x, y)) / STRIDE_PX)
    return np.array(moved)


def blocks(
    displacement: np.ndarray,
    sigma: tuple[float, float] = (0.5, 0.5),
    noise: float = 0.0,
    outliers: float = 0.0,
    seed: int = 0,
) -> BlockMatches:
    """Gaussian posteriors over the displacements, some of them anywhere."""
    rng = np.random.default_rng(seed)
    middle = displacement + rng.normal(0, noise, displacement.shape) if noise else displacement.copy()
    wrong = rng.permutation(len(middle))[: round(outliers * len(middle))]
    middle[wrong] = rng.uniform(-REACH, REACH, (len(wrong), 2))
    axis = np.arange(-REACH, REACH + 1.0)
    x = np.exp(-0.5 * ((axis - middle[:, :1]) / sigma[0]) ** 2)
    y = np.exp(-0.5 * ((axis - middle[:, 1:]) / sigma[1]) ** 2)
    probability = y[:, :, None] * x[:, None, :]
    held = (np.abs(middle) <= REACH).all(1)
    total = probability.sum((1, 2)).clip(min=1e-9)
    probability *= (0.9 * held / total)[:, None, None]
    return BlockMatches(CENTRES_PX, probability, STRIDE_PX, (200.0, 100.0), 0.25)


def errors(found: Alignment, heading_deg: float, scale: float, shift: tuple[float, float]) -> tuple[float, ...]:
    """Heading in degrees, scale as a share, and centre in pixels."""
    x, y = found.centre_xy_px
    off_px = float(np.hypot(x - 200.0 - shift[0], y - 100.0 - shift[1]))
    return abs(np.degrees(found.heading_rad) - heading_deg), abs(np.exp(found.log_scale) / scale - 1), off_px


@pytest.mark.parametrize(
    ("heading_deg", "scale", "shift"), [(0.0, 1.0, (0.0, 0.0)), (-14.0, 0.85, (5.0, -3.0)), (18.0, 1.2, (-9.0, 7.0))]
)
@pytest.mark.parametrize("outliers", [0.0, 0.3])
def test_finds_the_pose_that_moved_the_blocks(
    heading_deg: float, scale: float, shift: tuple[float, float], outliers: float
) -> None:
    found = align(blocks(displaced(heading_deg, scale, shift, (0.0, 0.0)), outliers=outliers))
    heading_error_deg, scale_error, off_px = errors(found, heading_deg, scale, shift)
    # Of blocks that are sure of somewhere else a sixth lies near the truth by chance and pulls.
    assert heading_error_deg < (2.0 if outliers else 0.5)
    assert scale_error < (0.03 if outliers else 0.01)
    assert off_px < (2.0 if outliers else 1.0)


def test_finds_a_tilt_and_its_centre_stays() -> None:
    tilt = (3e-4, -2e-4)
    found = align(blocks(displaced(4.0, 1.05, (2.0, 1.0), tilt)))
    np.testing.assert_allclose(found.tilt_per_px, tilt, atol=6e-5)
    assert errors(found, 4.0, 1.05, (2.0, 1.0))[2] < 0.6


def test_support_and_evidence_fall_with_what_disagrees() -> None:
    truth = displaced(5.0, 1.1, (3.0, 3.0), (0.0, 0.0))
    found = [align(blocks(truth, outliers=share)) for share in (0.0, 0.3, 0.6)]
    for figures in ([a.support for a in found], [a.evidence for a in found]):
        assert figures[0] > figures[1] > figures[2]
    assert found[0].support > 0.8
    chance = align(blocks(truth, outliers=1.0))
    assert chance.support < 0.35
    assert chance.evidence < found[2].evidence
    assert np.trace(found[2].covariance[:2, :2]) > np.trace(found[0].covariance[:2, :2])


def test_along_a_road_the_covariance_is_long() -> None:
    """Blocks that are sharp across and flat along the x axis say little of x."""
    found = align(blocks(np.zeros_like(CENTRES_PX), sigma=(6.0, 0.4)))
    assert found.covariance[0, 0] > 10 * found.covariance[1, 1]
    assert abs(found.centre_xy_px[1] - 100.0) < 0.5


def test_what_the_blocks_do_not_tell_stays_wide() -> None:
    """The prior is not in the answer: whoever has it counts it."""
    narrow = PoseSpread(np.radians(1.5), 0.015, 1e-4)
    flat = align(blocks(np.zeros_like(CENTRES_PX), sigma=(8.0, 8.0)), narrow)
    assert np.sqrt(flat.covariance[2, 2]) > 1.5 * narrow.heading_rad


def test_covariance_holds_errors_of_blocks() -> None:
    """Independent errors of 0.5 nodes: NEES of heading and scale stays in the order of one."""
    heading, scale = [], []
    for seed in range(40):
        found = align(blocks(displaced(3.0, 1.02, (1.0, 1.0), (0.0, 0.0)), noise=0.5, seed=seed))
        heading.append((found.heading_rad - np.radians(3.0)) ** 2 / found.covariance[2, 2])
        scale.append((found.log_scale - np.log(1.02)) ** 2 / found.covariance[3, 3])
    assert 0.05 < np.mean(heading) < 2.0
    assert 0.02 < np.mean(scale) < 2.0
