# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch.nn import functional

from geoloc_models.drl.alignment_head import (
    BLOCK_NODES,
    DISPLACEMENTS,
    REACH_NODES,
    STEP_NODES,
    AlignmentHead,
    block_correlations,
    block_matches,
    log_posterior,
)


def test_block_correlations_are_those_of_a_naive_loop() -> None:
    torch.manual_seed(0)
    view, window = torch.randn(2, 3, 12, 16), torch.randn(2, 3, 12 + 2 * REACH_NODES, 16 + 2 * REACH_NODES)
    found = block_correlations(view, window)
    assert found.shape == (2, DISPLACEMENTS**2, 2, 3)
    for batch, row, column, down, right in [(0, 0, 0, 0, 0), (1, 1, 2, 16, 3), (0, 1, 1, 8, 8), (1, 0, 2, 5, 16)]:
        total = 0.0
        for i in range(BLOCK_NODES):
            for j in range(BLOCK_NODES):
                y, x = row * STEP_NODES + i, column * STEP_NODES + j
                total += float(view[batch, :, y, x] @ window[batch, :, y + down, x + right])
        assert float(found[batch, down * DISPLACEMENTS + right, row, column]) == pytest.approx(
            total / BLOCK_NODES**2, abs=1e-5
        )


def test_posteriors_sum_to_one_and_longer_descriptors_are_surer() -> None:
    torch.manual_seed(0)
    head = AlignmentHead()
    view = functional.normalize(torch.randn(1, 32, 16, 16), dim=1)
    window = functional.normalize(torch.randn(1, 32, 32, 32), dim=1)
    window[:, :, 8:24, 8:24] = view
    with torch.no_grad():
        sure, unsure = (log_posterior(head, view * length, window * length).exp() for length in (1.0, 0.3))
    np.testing.assert_allclose(sure.sum(1), 1.0, atol=1e-5)
    middle = DISPLACEMENTS**2 // 2
    assert (sure[:, middle] > 0.9).all()
    assert (unsure[:, middle] < sure[:, middle]).all()
    assert (unsure[:, -1] > 0.5).all()


@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-8, 8)])
def test_a_view_cut_from_the_map_lies_where_it_was_cut(shift: tuple[int, int]) -> None:
    torch.manual_seed(1)
    search_map = functional.normalize(torch.randn(1, 32, 60, 70), dim=1)
    top, left = 20, 25
    view = search_map[:, :, top : top + 16, left : left + 16]
    right, down = shift
    expected = (4.0 * (left + 8 - right) + 1.0, 4.0 * (top + 8 - down) - 1.0)  # a quarter of a node off
    blocks = block_matches(AlignmentHead(), view, search_map, expected)
    assert blocks.origin_xy_px == (4.0 * (left + 8 - right), 4.0 * (top + 8 - down))
    best = blocks.probability.reshape(len(blocks.centres_px), -1).argmax(1)
    assert (best == (down + REACH_NODES) * DISPLACEMENTS + right + REACH_NODES).all()
    np.testing.assert_allclose(blocks.centres_px.mean(0), 0.0)


def test_beyond_the_map_nothing_matches() -> None:
    torch.manual_seed(2)
    search_map = functional.normalize(torch.randn(1, 32, 40, 40), dim=1)
    blocks = block_matches(AlignmentHead(), search_map[:, :, :16, :16], search_map, (-60.0, -60.0))
    assert blocks.probability.sum((1, 2)).max() < 0.5
