# SPDX-License-Identifier: Apache-2.0
"""Peak, confidence and covariance of a heatmap against float64 arithmetic on known posteriors."""

import numpy as np
import pytest

from geoloc_models.drl.heatmap import CREDIBLE_MASS, Heatmap, heatmap_from_logits


def gaussian_logits(rows: float, cols: float, sigma: float, size: int = 73) -> np.ndarray:
    r, c = np.mgrid[:size, :size]
    return -((r - rows) ** 2 + (c - cols) ** 2) / (2 * sigma**2)


@pytest.mark.parametrize(("row", "col"), [(30.0, 40.0), (30.37, 40.81), (2.5, 70.2)])
def test_peak_is_sub_pixel(row: int, col: int) -> None:
    heatmap = heatmap_from_logits(gaussian_logits(row, col, 0.8), 4.0)
    assert heatmap.peak_xy_px[0] == pytest.approx(col * 4, abs=0.4)
    assert heatmap.peak_xy_px[1] == pytest.approx(row * 4, abs=0.4)
    assert heatmap.probability.sum() == pytest.approx(1, rel=1e-5)
    assert heatmap.peak == pytest.approx(1, abs=0.02)


def test_covariance_of_the_peak_is_the_posteriors() -> None:
    r, c = np.mgrid[:73, :73]
    logits = -((r - 36.0) ** 2 / (2 * 0.6**2) + (c - 36.0) ** 2 / (2 * 1.0**2))
    covariance = heatmap_from_logits(logits, 4.0).peak_covariance_px
    assert covariance[0, 0] == pytest.approx(16 * (1.0 + 1 / 12), rel=0.05)  # x
    assert covariance[1, 1] == pytest.approx(16 * (0.36 + 1 / 12), rel=0.05)  # y
    assert covariance[0, 1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("second", [0.02, 0.3, 1.0])
def test_covariance_holds_the_stated_share_of_all_places(second: float) -> None:
    both = np.logaddexp(gaussian_logits(20, 20, 1.5), gaussian_logits(40, 55, 1.5) + np.log(second))
    heatmap = heatmap_from_logits(both, 4.0)

    def held(sigmas: float) -> float:
        inverse = np.linalg.inv(heatmap.covariance_px)
        mass = 0.0
        for row, col in np.ndindex(73, 73):
            off = np.array([4.0 * col, 4.0 * row]) - heatmap.peak_xy_px
            mass += float(heatmap.probability[row, col]) * (off @ inverse @ off <= sigmas**2)
        return mass

    assert held(2.0 + 1e-6) >= CREDIBLE_MASS
    # A quarter of the peak's own standard deviation less would not do.
    own = np.sqrt(np.trace(heatmap.peak_covariance_px) / np.trace(heatmap.covariance_px))
    assert held(2.0 - 0.26 * own) < CREDIBLE_MASS
    reach_m = 2 * np.sqrt(np.linalg.eigvalsh(heatmap.covariance_px)[-1]) / 4
    assert (reach_m > np.hypot(20, 35) - 4) == (second > 0.1)


def test_two_equal_places_are_told_as_ambiguous() -> None:
    both = np.logaddexp(gaussian_logits(20, 20, 0.8), gaussian_logits(50, 55, 0.8))
    heatmap = heatmap_from_logits(both, 4.0)
    assert heatmap.peak == pytest.approx(0.5, abs=0.02)
    assert heatmap.peak_ratio == pytest.approx(1.0, abs=0.01)


def test_flat_logits_have_full_entropy_and_no_peak() -> None:
    heatmap = heatmap_from_logits(np.zeros((40, 60)), 4.0)
    assert heatmap.entropy == pytest.approx(1.0, abs=1e-6)
    assert heatmap.peak < 0.03
    assert heatmap.peak_ratio < 1.01


def test_temperature_softens() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 30)) * 4
    cold, warm = heatmap_from_logits(logits, 4.0, 0.5), heatmap_from_logits(logits, 4.0, 2.0)
    assert cold.entropy < warm.entropy
    assert cold.peak > warm.peak


def test_resized_puts_nodes_on_pixel_edges() -> None:
    probability = np.zeros((19, 19), np.float32)
    probability[7, 11] = 1.0
    heatmap = Heatmap(probability, 4.0, (44.0, 28.0), np.eye(2), 1.0, np.inf)
    full = heatmap.resized(72, 72)
    assert full.shape == (72, 72)
    rows, cols = np.nonzero(full >= full.max() - 1e-6)
    assert rows.mean() + 0.5 == pytest.approx(28.0)
    assert cols.mean() + 0.5 == pytest.approx(44.0)


def test_a_prior_chooses_between_look_alikes() -> None:
    both = np.logaddexp(gaussian_logits(20, 20, 0.8), gaussian_logits(50, 55, 0.8) + 0.3)
    alone = heatmap_from_logits(both, 4.0)
    given = alone.given((84.0, 76.0), np.diag([60.0**2, 40.0**2]))
    assert alone.peak_xy_px == pytest.approx((220, 200), abs=0.5)
    assert given.peak_xy_px == pytest.approx((80, 80), abs=0.5)
    assert given.peak > 0.9
    assert given.probability.sum() == pytest.approx(1, rel=1e-5)
    # What the network alone saw there stays known.
    assert alone.mass_near(given.peak_xy_px) == pytest.approx(1 / (1 + np.exp(0.3)), abs=0.02)


def test_prior_is_bayes_rule() -> None:
    rng = np.random.default_rng(0)
    alone = heatmap_from_logits(rng.normal(size=(20, 24)), 4.0)
    covariance = np.array([[300.0, 80.0], [80.0, 200.0]])
    given = alone.given((40.0, 30.0), covariance)
    expected = np.zeros((20, 24))
    for row in range(20):
        for col in range(24):
            off = np.array([col * 4 - 40.0, row * 4 - 30.0])
            expected[row, col] = alone.probability[row, col] * np.exp(-0.5 * off @ np.linalg.inv(covariance) @ off)
    np.testing.assert_allclose(given.probability, expected / expected.sum(), rtol=1e-4, atol=1e-9)


def test_a_prior_that_excludes_everything_changes_nothing() -> None:
    alone = heatmap_from_logits(gaussian_logits(5, 5, 0.3), 4.0)
    assert alone.given((280.0, 280.0), np.eye(2)) is alone
