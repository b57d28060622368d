# SPDX-License-Identifier: Apache-2.0
"""The paper's networks in the engine's interface: where the published reading puts the answer, and how sure it is."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from geoloc_models.drl.heatmap import published_heatmap
from geoloc_models.engines import EngineSpec
from geoloc_models.engines.published_engine import PublishedEngine, heatmap_around, open_network
from geoloc_models.engines.torch_engine import TorchEngine


def network(logits: np.ndarray) -> Any:
    return SimpleNamespace(
        spec=EngineSpec("w", "cpu", query_px=128, map_multiple_px=16, gsd_range_m=(0.3, 1.0)),
        logits=lambda queries, search_map: (logits[None], 16.0),
    )  # fmt: skip


def image(side_px: int) -> np.ndarray:
    return np.zeros((side_px, side_px, 3), np.uint8)


def test_answer_is_the_published_pixel() -> None:
    logits = np.random.default_rng(7).normal(-4.0, 2.0, (24, 24)).astype(np.float32)
    score, (row, col) = published_heatmap(logits, 3, 384)
    heatmap = PublishedEngine(network(logits), 3).infer(image(128), image(384))
    assert heatmap.peak_xy_px == (col, row)
    assert heatmap.peak == pytest.approx(float(score.max()))
    assert heatmap.probability.shape == (384, 384)
    assert heatmap.probability.sum() == pytest.approx(1.0, abs=1e-4)
    assert np.unravel_index(int(heatmap.probability.argmax()), (384, 384)) == (row, col)


def test_a_map_without_any_score_is_flat() -> None:
    heatmap = PublishedEngine(network(np.full((24, 24), -200.0, np.float32)), 1).infer(image(128), image(384))
    assert heatmap.probability.sum() == pytest.approx(1.0, abs=1e-4)
    assert heatmap.peak == 0.0


def test_moments_about_the_peak_equal_a_loop() -> None:
    rng = np.random.default_rng(2)
    probability = rng.uniform(0, 1, (30, 40)) ** 4
    probability[12, 17] = 9.0
    probability[25, 4] = 3.0
    probability /= probability.sum()
    heatmap = heatmap_around(probability, 2.0, (34.5, 24.2), 4)
    mass, moments = 0.0, np.zeros((2, 2))
    for row in range(8, 17):
        for col in range(13, 22):
            off = np.array([2.0 * col - 34.5, 2.0 * row - 24.2])
            mass += probability[row, col]
            moments += probability[row, col] * np.outer(off, off)
    assert heatmap.peak == pytest.approx(mass)
    np.testing.assert_allclose(heatmap.peak_covariance_px, moments / mass + 4 / 12 * np.eye(2))
    assert heatmap.peak_ratio == pytest.approx(3.0)


def test_shipped_weights_are_read_as_a_posterior() -> None:
    assert isinstance(open_network("default", "cpu"), TorchEngine)
