# SPDX-License-Identifier: Apache-2.0
"""The published post-processing: Hann kernel, border, resize, first maximum."""

import math

import numpy as np
import pytest

from geoloc_models.drl.heatmap import hann_kernel, published_heatmap


@pytest.mark.parametrize("size", [1, 2, 3, 7, 15, 31])
def test_hann_kernel(size: int) -> None:
    kernel = hann_kernel(size)
    assert kernel.shape == (size, size)
    assert kernel.sum() == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_allclose(kernel, kernel.T)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * (i + 1) / (size + 1)) for i in range(size)]
    np.testing.assert_allclose(kernel, np.outer(window, window) / sum(window) ** 2, rtol=1e-5)
    assert kernel.min() > 0  # the ring of zeros is gone


@pytest.mark.parametrize(("row", "col"), [(10, 20), (0, 0), (47, 3), (24, 47)])
def test_single_hot_pixel_stays_the_maximum(row: int, col: int) -> None:
    logits = np.full((48, 48), -12.0, np.float32)
    logits[row, col] = 6.0
    _, (found_row, found_col) = published_heatmap(logits, 7, 48)
    assert (found_row, found_col) == (row, col)


def test_equals_a_naive_loop_with_reflected_borders() -> None:
    logits = np.random.default_rng(0).normal(size=(12, 12)).astype(np.float32)
    score, (row, col) = published_heatmap(logits, 5, 12)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    padded = np.pad(p, 2, mode="reflect")  # without repeating the edge
    kernel = hann_kernel(5)
    expected = np.array([[(padded[r : r + 5, c : c + 5] * kernel).sum() for c in range(12)] for r in range(12)])
    np.testing.assert_allclose(score, expected, atol=1e-6)
    assert (row, col) == np.unravel_index(expected.argmax(), expected.shape)


def test_coarse_maps_are_resized_bilinearly_about_pixel_centres() -> None:
    logits = np.full((24, 24), -9.0, np.float32)
    logits[5, 17] = 4.0
    score, (row, col) = published_heatmap(logits, 1, 384)
    assert score.shape == (384, 384)
    # The cell's 16 px are centred on (5.5, 17.5) * 16 px.
    assert abs(row + 0.5 - 88) <= 1
    assert abs(col + 0.5 - 280) <= 1


def test_ties_give_the_first_in_row_major_order() -> None:
    logits = np.zeros((10, 10), np.float32)
    logits[3, 8] = logits[6, 1] = 5.0
    assert published_heatmap(logits, 1, 10)[1] == (3, 8)
