# SPDX-License-Identifier: Apache-2.0
"""Losses against naive float64 loops, known values and numerical gradients."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from geoloc_models.drl.losses import (
    PublishedLoss,
    cell_cross_entropy,
    focal_loss,
    positive_cells,
    published_loss,
    spatial_cross_entropy,
    weighted_balance_loss,
)
from geoloc_models.errors import GeolocError


def naive_positive(r_row: float, r_col: float, height: int, width: int, side: int) -> np.ndarray:
    """Cells of the square by the words of the specification."""
    mask = np.zeros((height, width), bool)
    row, col = r_row * (height - 1), r_col * (width - 1)
    if side % 2:
        # Python's round() is half to even.
        rows = range(round(row) - side // 2, round(row) + side // 2 + 1)
        cols = range(round(col) - side // 2, round(col) + side // 2 + 1)
    else:
        # `side` cells whose middle is the middle of the four cells around the target.
        rows = range(math.floor(row) + 1 - side // 2, math.floor(row) + 1 + side // 2)
        cols = range(math.floor(col) + 1 - side // 2, math.floor(col) + 1 + side // 2)
    for r in rows:
        for c in cols:
            if 0 <= r < height and 0 <= c < width:
                mask[r, c] = True
    return mask


def naive_wbl(logits: np.ndarray, masks: list[np.ndarray], negative_weight: float) -> float:
    positives = sum(int(mask.sum()) for mask in masks)
    negatives = sum(int((~mask).sum()) for mask in masks)
    loss = total = 0.0
    for sample, mask in zip(logits, masks, strict=True):
        for value, positive in zip(sample.ravel(), mask.ravel(), strict=True):
            weight = 1 / positives if positive else negative_weight / negatives
            p = 1 / (1 + math.exp(-value))
            loss -= weight * math.log(p if positive else 1 - p)
            total += weight
    return loss / total


TARGETS = torch.tensor([[0.5, 0.5], [0.31, 0.74], [0.0, 1.0], [0.975, 0.02]], dtype=torch.float64)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 10])
def test_wbl_equals_a_naive_loop(side: int) -> None:
    """Odd, even and the block of four; inside, at borders and in corners, counted over the batch."""
    height, width = 24, 17
    logits = torch.randn(4, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masks = [naive_positive(r, c, height, width, side) for r, c in TARGETS.tolist()]
    assert np.array_equal(positive_cells(TARGETS, height, width, side)[:, 0].numpy(), np.stack(masks))
    loss = weighted_balance_loss(logits, TARGETS, side, negative_weight=15.0)
    assert loss.item() == pytest.approx(naive_wbl(logits[:, 0].numpy(), masks, 15.0), rel=1e-12)


def test_published_side_on_the_published_map() -> None:
    mask = positive_cells(torch.tensor([[0.5, 0.25], [0.0, 0.0]]), 384, 384, 31)
    assert mask[0].sum() == 31 * 31
    assert mask[1].sum() == 16 * 16  # a corner leaves a quarter
    rows, cols = mask[0, 0].nonzero(as_tuple=True)
    # 191.5 rounds to even; 95.75 to 96.
    assert (rows.min().item(), rows.max().item()) == (192 - 15, 192 + 15)
    assert (cols.min().item(), cols.max().item()) == (96 - 15, 96 + 15)


def test_side_two_is_the_four_neighbours() -> None:
    mask = positive_cells(torch.tensor([[0.34, 0.62]], dtype=torch.float64), 11, 11, 2)[0, 0]
    assert mask.nonzero().tolist() == [[3, 6], [3, 7], [4, 6], [4, 7]]


@pytest.mark.parametrize("negative_weight", [1.0, 15.0, 130.0])
def test_wbl_of_zero_logits_is_ln_2(negative_weight: float) -> None:
    loss = weighted_balance_loss(torch.zeros(4, 1, 40, 40), TARGETS, 31, negative_weight)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_wbl_weights_sum_to_one_and_positives_have_their_share() -> None:
    """At zero logits the gradient of a cell is its weight times -1/2 (positive) or 1/2 (negative)."""
    logits = torch.zeros(4, 1, 40, 40, dtype=torch.float64, requires_grad=True)
    weighted_balance_loss(logits, TARGETS, 7, negative_weight=130.0).backward()
    assert logits.grad is not None
    weights = 2 * logits.grad.abs()
    positive = positive_cells(TARGETS, 40, 40, 7)
    assert bool((logits.grad[positive] < 0).all())
    assert weights.sum().item() == pytest.approx(1.0, rel=1e-12)
    assert weights[positive].sum().item() == pytest.approx(1 / 131, rel=1e-12)
    assert weights[positive].std().item() == pytest.approx(0.0, abs=1e-15)


def test_wbl_refuses_a_square_that_covers_the_map() -> None:
    with pytest.raises(GeolocError, match="25x24"):
        weighted_balance_loss(torch.zeros(1, 1, 24, 25), TARGETS[:1], 31)


def naive_hann(r_row: float, r_col: float, height: int, width: int, side: int) -> np.ndarray:
    """The (side + 2)-point Hann window in both axes, without its outer zeros, laid over the square of the target."""
    window = [0.5 * (1 - math.cos(2 * math.pi * i / (side + 1))) for i in range(side + 2)][1:-1]
    out = np.zeros((height, width))
    centres = (r_row * (height - 1), r_col * (width - 1))
    corners = [round(c) - side // 2 if side % 2 else math.floor(c) + 1 - side // 2 for c in centres]
    for i in range(side):
        for j in range(side):
            r, c = corners[0] + i, corners[1] + j
            if 0 <= r < height and 0 <= c < width:
                out[r, c] = window[i] * window[j]
    return out


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_hann_weighted_loss_equals_a_naive_loop(side: int) -> None:
    """The positives' weights follow the window and sum to 1 before w_neg, over the batch and after the cut."""
    height, width = 19, 23
    logits = torch.randn(4, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    windows = [naive_hann(r, c, height, width, side) for r, c in TARGETS.tolist()]
    masks = [naive_positive(r, c, height, width, side) for r, c in TARGETS.tolist()]
    total = sum(window.sum() for window in windows)
    negatives = sum(int((~mask).sum()) for mask in masks)
    expected = 0.0
    for values, window, mask in zip(logits[:, 0].numpy(), windows, masks, strict=True):
        for value, weight, positive in zip(values.ravel(), window.ravel(), mask.ravel(), strict=True):
            assert positive == (weight > 0)
            p = 1 / (1 + math.exp(-value))
            expected -= weight / total * math.log(p) if positive else 15.0 / negatives * math.log(1 - p)
    loss = weighted_balance_loss(logits, TARGETS, side, negative_weight=15.0, hann=True)
    assert loss.item() == pytest.approx(expected / 16.0, rel=1e-12)


def test_hann_window_of_one_cell_is_plain_wbl_and_of_31_is_symmetric() -> None:
    logits = torch.randn(4, 1, 40, 40, generator=torch.Generator().manual_seed(3))
    assert weighted_balance_loss(logits, TARGETS, 1, hann=True).item() == pytest.approx(
        weighted_balance_loss(logits, TARGETS, 1).item(), rel=1e-6
    )
    zeros = torch.zeros(1, 1, 61, 61, dtype=torch.float64, requires_grad=True)
    weighted_balance_loss(zeros, TARGETS[:1], 31, 130.0, hann=True).backward()
    assert zeros.grad is not None
    weights = -2 * zeros.grad[0, 0, 15:46, 15:46]
    assert weights.sum().item() == pytest.approx(1 / 131, rel=1e-12)
    for mirrored in (weights.flip(0), weights.flip(1), weights.T):
        torch.testing.assert_close(weights, mirrored)
    assert weights.argmax().item() == 15 * 31 + 15


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 2.0), (10.0, 2.0), (3.0, 2.5)])
def test_focal_loss_equals_a_naive_loop(alpha: float, gamma: float) -> None:
    logits = 3 * torch.randn(4, 1, 12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    total = 0.0
    for values, (r, c) in zip(logits[:, 0].numpy(), TARGETS.tolist(), strict=True):
        for value, positive in zip(values.ravel(), naive_positive(r, c, 12, 9, 5).ravel(), strict=True):
            p = 1 / (1 + math.exp(-value))
            truth = p if positive else 1 - p
            total -= alpha * (1 - truth) ** gamma * math.log(truth)
    loss = focal_loss(logits, TARGETS, 5, alpha, gamma)
    assert loss.item() == pytest.approx(total / logits.numel(), rel=1e-12)


def test_cell_cross_entropy_is_the_focal_loss_that_does_not_focus() -> None:
    logits = torch.randn(4, 1, 12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    loss = cell_cross_entropy(logits, TARGETS, 5)
    assert loss.item() == pytest.approx(focal_loss(logits, TARGETS, 5, gamma=0.0).item(), rel=1e-12)
    assert cell_cross_entropy(torch.zeros_like(logits), TARGETS, 5).item() == pytest.approx(math.log(2))
    cells = [
        math.log(1 + math.exp(-value if positive else value))
        for values, (r, c) in zip(logits[:, 0].numpy(), TARGETS.tolist(), strict=True)
        for value, positive in zip(values.ravel(), naive_positive(r, c, 12, 9, 5).ravel(), strict=True)
    ]
    assert loss.item() == pytest.approx(np.mean(cells), rel=1e-12)


NAMES: tuple[PublishedLoss, ...] = ("wbl", "hann", "balance", "cross_entropy", "focal")


@pytest.mark.parametrize("name", NAMES)
def test_published_losses_by_name(name: PublishedLoss) -> None:
    """Gradients are right, a step down them brings the peak nearer, and an impossible square is refused."""
    logits = torch.randn(2, 1, 9, 8, dtype=torch.float64, requires_grad=True)

    def loss(a: Tensor) -> Tensor:
        return published_loss(name, a, TARGETS[:2], 3, 130.0)

    assert torch.autograd.gradcheck(loss, (logits,))
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    positive = positive_cells(TARGETS[:2], 9, 8, 3)
    assert bool((gradient[positive] <= 0).all()) and bool((gradient[~positive] >= 0).all())
    with pytest.raises(GeolocError, match="9x9"):
        published_loss(name, logits, TARGETS[:2], 9, 130.0)


def test_published_losses_are_what_their_names_say() -> None:
    logits = torch.randn(2, 1, 9, 8, dtype=torch.float64)
    values = {name: published_loss(name, logits, TARGETS[:2], 3, 130.0).item() for name in NAMES}
    assert values["balance"] == weighted_balance_loss(logits, TARGETS[:2], 3, 1.0).item()
    assert values["wbl"] == weighted_balance_loss(logits, TARGETS[:2], 3, 130.0).item()
    assert len(set(values.values())) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_published_losses_survive_extreme_logits(name: PublishedLoss) -> None:
    for value in (-1e4, 1e4):
        logits = torch.full((1, 1, 9, 9), value, requires_grad=True)
        loss = published_loss(name, logits, TARGETS[:1], 3, 130.0)
        loss.backward()
        assert math.isfinite(loss.item())
        assert logits.grad is not None and bool(logits.grad.isfinite().all())


def naive_spatial(logits: np.ndarray, row: float, col: float, sigma: float) -> float:
    height, width = logits.shape
    target = np.array(
        [[math.exp(-((r - row) ** 2 + (c - col) ** 2) / (2 * sigma**2)) for c in range(width)] for r in range(height)]
    )
    target /= target.sum()
    total = sum(math.exp(v) for v in logits.ravel())
    return -sum(t * math.log(math.exp(v) / total) for t, v in zip(target.ravel(), logits.ravel(), strict=True))


NODES = torch.tensor([[3.4, 8.0], [0.0, 0.2], [10.9, 6.5]], dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_spatial_cross_entropy_equals_a_naive_loop(sigma: float) -> None:
    logits = torch.randn(3, 1, 12, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = [naive_spatial(a[0].numpy(), *rc, sigma) for a, rc in zip(logits, NODES.tolist(), strict=True)]
    assert spatial_cross_entropy(logits, NODES, sigma).item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_spatial_cross_entropy_of_equal_logits_is_ln_of_the_nodes() -> None:
    logits = torch.full((3, 1, 12, 9), 5.0, dtype=torch.float64)
    assert spatial_cross_entropy(logits, NODES, 1.0).item() == pytest.approx(math.log(108), rel=1e-12)


def test_spatial_cross_entropy_gradient() -> None:
    logits = torch.randn(3, 1, 12, 9, dtype=torch.float64, requires_grad=True)

    def loss(a: Tensor) -> Tensor:
        return spatial_cross_entropy(a, NODES, 0.7)

    assert torch.autograd.gradcheck(loss, (logits,))
    # The softmax has no preferred level: what one node gains the others lose.
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    assert gradient.sum((1, 2, 3)).abs().max().item() < 1e-15


def test_spatial_cross_entropy_is_least_at_the_target_itself() -> None:
    rows, cols = torch.meshgrid(torch.arange(12.0), torch.arange(9.0), indexing="ij")
    losses = {}
    for row, col in ((3.4, 8.0), (4.4, 8.0), (3.4, 7.0)):
        logits = -((rows - row) ** 2 + (cols - col) ** 2)[None, None].double() / (2 * 0.7**2)
        losses[row, col] = spatial_cross_entropy(logits, NODES[:1], 0.7).item()
    assert min(losses, key=losses.__getitem__) == (3.4, 8.0)
