# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution against a loop over pixels and taps, in float64."""

import itertools

import numpy as np
import torch
from torch.nn import functional as F

from geoloc_ros.core.evaluation.baselines.deformable import deform_conv2d


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    """Value at (y, x) in pixel centres; zero outside."""
    top, left = int(np.floor(y)), int(np.floor(x))
    total = 0.0
    for row, col in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= col < plane.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - col)) * plane[row, col]
    return total


def test_equals_the_definition() -> None:
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    picture, weight, bias = draw(2, 3, 5, 7), draw(4, 3, 3, 3), draw(4)
    offset, mask = 1.5 * draw(2, 18, 5, 7), torch.rand(2, 9, 5, 7, generator=generator, dtype=torch.float64)
    got = deform_conv2d(picture, offset, weight, bias, padding=1, mask=mask)
    for b, o, r, c in itertools.product(range(2), range(4), (0, 2, 4), (0, 3, 6)):
        expected = float(bias[o])
        for tap, channel in itertools.product(range(9), range(3)):
            y = r - 1 + tap // 3 + float(offset[b, 2 * tap, r, c])
            x = c - 1 + tap % 3 + float(offset[b, 2 * tap + 1, r, c])
            value = bilinear(picture[b, channel].numpy(), y, x)
            expected += float(weight[o, channel, tap // 3, tap % 3] * mask[b, tap, r, c]) * value
        np.testing.assert_allclose(float(got[b, o, r, c]), expected, atol=1e-10)


def test_without_offsets_it_is_a_convolution() -> None:
    generator = torch.Generator().manual_seed(3)
    picture, weight = (torch.randn(1, 2, 6, 8, generator=generator), torch.randn(5, 2, 3, 3, generator=generator))
    got = deform_conv2d(picture, torch.zeros(1, 18, 6, 8), weight, padding=(1, 1))
    torch.testing.assert_close(got, F.conv2d(picture, weight, padding=1), atol=1e-5, rtol=1e-4)
