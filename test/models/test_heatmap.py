# SPDX-License-Identifier: Apache-2.0
"""Peak, confidence and covariance of a heatmap against float64 arithmetic on known posteriors."""

import numpy as np
import pytest

from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits


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


def test_covariance_is_the_posteriors() -> None:
    r, c = np.mgrid[:73, :73]
    logits = -((r - 36.0) ** 2 / (2 * 0.6**2) + (c - 36.0) ** 2 / (2 * 1.0**2))
    covariance = heatmap_from_logits(logits, 4.0).covariance_px
    assert covariance[0, 0] == pytest.approx(16 * (1.0 + 1 / 12), rel=0.05)  # x
    assert covariance[1, 1] == pytest.approx(16 * (0.36 + 1 / 12), rel=0.05)  # y
    assert covariance[0, 1] == pytest.approx(0, abs=1e-6)


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
