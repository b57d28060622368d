# SPDX-License-Identifier: Apache-2.0
"""The fit of a pose to blocks, against poses that made the blocks."""

import numpy as np
import pytest

from geoloc_models.drl.alignment import VOTE_SHIFT_NODES, Alignment, BlockMatches, PoseSpread, _Fit, align

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


@pytest.mark.parametrize(("heading_deg", "scale"), [(23.0, 1.0), (-23.0, 1.3), (0.0, 0.72), (20.0, 1.4)])
def test_poses_two_sigma_off_are_found(heading_deg: float, scale: float) -> None:
    spread = PoseSpread(np.radians(12.0), 0.18)
    found = align(blocks(displaced(heading_deg, scale, (0.0, 0.0), (0.0, 0.0))), spread)
    heading_error_deg, scale_error, off_px = errors(found, heading_deg, scale, (0.0, 0.0))
    assert (heading_error_deg < 1.0, scale_error < 0.02, off_px < 1.0) == (True, True, True)


def test_half_of_the_blocks_may_be_wrong() -> None:
    errors_px, supports = [], []
    for seed in range(8):
        found = align(blocks(displaced(8.0, 1.1, (4.0, -6.0), (0.0, 0.0)), outliers=0.5, seed=seed))
        heading_error_deg, scale_error, off_px = errors(found, 8.0, 1.1, (4.0, -6.0))
        assert heading_error_deg < 3.0
        assert scale_error < 0.05
        errors_px.append(off_px)
        supports.append(found.support)
    assert np.median(errors_px) < 1.5
    assert 0.4 < np.mean(supports) < 0.7


def test_the_vote_is_that_of_loops() -> None:
    """All headings, scales, blocks and shifts one by one; the mean log likelihood of 3 x 3 displacements each."""
    some = blocks(displaced(6.0, 1.06, (8.0, -4.0), (0.0, 0.0)), outliers=0.4, noise=0.3)
    spread = PoseSpread(np.radians(3.0), 0.06)
    nowhere = (1 - some.probability.sum((1, 2))).clip(min=1e-6) / SIDE**2
    odds = np.log((some.probability + nowhere[:, None, None]) * SIDE**2)
    mirrored = np.pad(odds, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    best, winner = -np.inf, np.zeros(6)
    for heading in np.radians([-6.0, -3.0, 0.0, 3.0, 6.0]):
        for log_scale in np.linspace(-0.12, 0.12, 7):
            for down in range(-VOTE_SHIFT_NODES, VOTE_SHIFT_NODES + 1):
                for right in range(-VOTE_SHIFT_NODES, VOTE_SHIFT_NODES + 1):
                    total = -0.5 * (heading / spread.heading_rad) ** 2 - 0.5 * (log_scale / spread.log_scale) ** 2
                    moved = np.rint(displaced(np.degrees(heading), np.exp(log_scale), (0, 0), (0, 0))).astype(int)
                    for number, (x, y) in enumerate(moved):
                        x, y = x + right + REACH, y + down + REACH
                        if 0 <= x < SIDE and 0 <= y < SIDE:
                            total += some.share * mirrored[number, y : y + 3, x : x + 3].mean()
                    if total > best:
                        best = total
                        winner = np.array([right * STRIDE_PX, down * STRIDE_PX, heading, log_scale, 0.0, 0.0])
    np.testing.assert_allclose(_Fit(some, np.eye(6)).vote(spread), winner, atol=1e-9)


def test_a_step_is_that_of_a_loop_over_blocks() -> None:
    """Of the blocks' means, spreads and weights: normal equations block by block."""
    some = blocks(displaced(6.0, 1.06, (8.0, -4.0), (1e-4, 0.0)), outliers=0.3, noise=0.3)
    fit, start = _Fit(some, np.diag(np.arange(1.0, 7.0))), np.array([6.0, -2.0, 0.08, 0.04, 0.0, 1e-4])
    expected, jacobian = fit._expected(start)
    means, spreads, weights = fit._near(expected)
    normal, right = fit.prior.copy(), -fit.prior @ start
    for number in range(len(means)):
        of_pixels = jacobian[number] / STRIDE_PX
        weighted = of_pixels.T @ np.linalg.inv(spreads[number] + fit.relief[number]) * weights[number] * some.share
        normal += weighted @ of_pixels
        right += weighted @ (means[number] - expected[number])
    parameters, information, support = fit.refined(start)
    np.testing.assert_allclose(information, normal, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(parameters, start + np.linalg.solve(normal, right), rtol=1e-9, atol=1e-12)
    assert support == pytest.approx(weights.mean())


def test_a_magnified_alignment_places_the_same_ground() -> None:
    """The definition in Alignment, in this map's pixels and in those of one that is drawn 1.3 times as small."""
    small = align(blocks(displaced(9.0, 1.1, (8.0, -4.0), (2e-4, -1e-4))))
    large = small.magnified(1.3)
    for q in np.array([(0.0, 0.0), (80.0, -60.0), (-70.0, 33.0)]):
        on = []
        for a in (small, large):
            c, s = np.cos(a.heading_rad) * np.exp(a.log_scale), np.sin(a.heading_rad) * np.exp(a.log_scale)
            turned = np.array([c * q[0] - s * q[1], s * q[0] + c * q[1]])
            on.append(np.array(a.centre_xy_px) + turned + (np.array(a.tilt_per_px) @ turned) * turned)
        np.testing.assert_allclose(on[1], 1.3 * on[0], rtol=1e-12)
    np.testing.assert_allclose(large.covariance[:2, :2], 1.69 * small.covariance[:2, :2])
    np.testing.assert_allclose(large.covariance[4:, 4:], small.covariance[4:, 4:] / 1.69)
    assert large.covariance[0, 4] == pytest.approx(small.covariance[0, 4])
