# SPDX-License-Identifier: Apache-2.0
"""Losses over heatmaps (DRL paper, sections III-E and VI-E)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from geoloc_models.errors import GeolocError

PublishedLoss = Literal["wbl", "hann", "balance", "cross_entropy", "focal"]


def spatial_cross_entropy(logits: Tensor, target_rc: Tensor, sigma_nodes: float) -> Tensor:
    """Cross-entropy of the softmax over the whole map against a Gaussian around the true position; mean over
    the batch.

    logits: (B, 1, H, W); target_rc: (B, 2) true (row, col) in node coordinates; sigma_nodes: spread in nodes.
    """
    rows = torch.arange(logits.shape[-2], device=logits.device, dtype=logits.dtype)
    cols = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    row_cost = (rows - target_rc[:, :1]) ** 2
    col_cost = (cols - target_rc[:, 1:]) ** 2
    cost = (row_cost[:, :, None] + col_cost[:, None, :]).flatten(1) / (2 * sigma_nodes**2)
    target = torch.softmax(-cost, dim=1)
    return -(target * torch.log_softmax(logits.flatten(1), dim=1)).sum(1).mean()


def positive_cells(target: Tensor, height: int, width: int, side_cells: int) -> Tensor:
    """The square of `side_cells` around each target, cut off at the border (DRL paper, fig. 5).

    target: (B, 2) true (row, col) as fractions 0..1 of the map's sides. An odd square is centred on the cell
    nearest to the target, an even one on the target itself, so that side 2 is its four neighbours. Returns
    (B, 1, height, width) bool.
    """
    rows, cols = (_offsets(target, height, side_cells, 0), _offsets(target, width, side_cells, 1))
    inside_rows = (rows >= 0) & (rows < side_cells)
    inside_cols = (cols >= 0) & (cols < side_cells)
    return (inside_rows[:, :, None] & inside_cols[:, None, :])[:, None]


def _offsets(target: Tensor, cells: int, side_cells: int, axis: int) -> Tensor:
    """Along one axis, the offset of each cell from the first cell of each target's square: (B, cells)."""
    centre = target[:, axis].double() * (cells - 1)
    half = side_cells // 2
    first = torch.round(centre) - half if side_cells % 2 else torch.floor(centre) - half + 1
    return torch.arange(cells, device=target.device) - first[:, None]


def weighted_balance_loss(
    logits: Tensor, target: Tensor, side_cells: int = 31, negative_weight: float = 130.0, hann: bool = False
) -> Tensor:
    """Weighted balance loss (WBL, algorithm 1): binary cross-entropy whose cell weights sum to 1.

    The positives share 1 / (1 + negative_weight) of the weight and the negatives the rest, each evenly,
    counted over the whole batch and after the cut at the border; negative_weight 1 is plain balance. hann: the
    positives share theirs by a Hann window over their square instead. logits: (B, 1, H, W); target: (B, 2) as in
    `positive_cells`.
    """
    positive, cost = _positives_and_cost(logits, target, side_cells)
    share = _hann_window(target, logits.shape[-2], logits.shape[-1], side_cells) if hann else positive.double()
    positives = (cost * share).sum() / share.sum()
    negatives = (cost * ~positive).sum() / (~positive).sum()
    return ((positives + negative_weight * negatives) / (1.0 + negative_weight)).to(logits.dtype)


def cell_cross_entropy(logits: Tensor, target: Tensor, side_cells: int = 31) -> Tensor:
    """Binary cross-entropy, mean over all cells."""
    return _positives_and_cost(logits, target, side_cells)[1].mean()


def focal_loss(logits: Tensor, target: Tensor, side_cells: int = 31, alpha: float = 1.0, gamma: float = 2.0) -> Tensor:
    """Binary cross-entropy times alpha (1 - p)^gamma, p the probability of the truth; mean over all cells (Lin et
    al., "Focal Loss for Dense Object Detection", ICCV 2017). The published runs used alpha 1, 3, 5 and 10.
    """
    _, cost = _positives_and_cost(logits, target, side_cells)
    # cost is -log p: so 1 - p needs no second sigmoid, and stays exact where p is nearly 1.
    return (alpha * (-torch.expm1(-cost)) ** gamma * cost).mean()


def published_loss(
    name: PublishedLoss, logits: Tensor, target: Tensor, side_cells: int, negative_weight: float
) -> Tensor:
    """The loss of a preset that names one of the paper's (table IX); arguments as in `weighted_balance_loss`."""
    if name == "cross_entropy":
        return cell_cross_entropy(logits, target, side_cells)
    if name == "focal":
        return focal_loss(logits, target, side_cells)
    weight = 1.0 if name == "balance" else negative_weight
    return weighted_balance_loss(logits, target, side_cells, weight, hann=name == "hann")


def _positives_and_cost(logits: Tensor, target: Tensor, side_cells: int) -> tuple[Tensor, Tensor]:
    """Positive cells, and the binary cross-entropy of every cell; GeolocError if no cell is negative."""
    height, width = logits.shape[-2:]
    if side_cells >= min(height, width):
        raise GeolocError(
            f"Positives of {side_cells}x{side_cells} cells leave no negatives on a {width}x{height} map: "
            f"give a side below {min(height, width)}."
        )
    positive = positive_cells(target, height, width, side_cells)
    truth = positive.to(logits.dtype)
    return positive, functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")


def _hann_window(target: Tensor, height: int, width: int, side_cells: int) -> Tensor:
    """Hann window over each square of `positive_cells`, its zeros just outside: (B, 1, height, width)."""
    offsets = _offsets(target, height, side_cells, 0), _offsets(target, width, side_cells, 1)
    rows, cols = (
        torch.where(
            (offset >= 0) & (offset < side_cells),
            torch.sin(torch.pi * (offset + 1) / (side_cells + 1)) ** 2,
            torch.zeros_like(offset),
        )
        for offset in offsets
    )
    return (rows[:, :, None] * cols[:, None, :])[:, None]
