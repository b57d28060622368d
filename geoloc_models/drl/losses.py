# SPDX-License-Identifier: Apache-2.0
"""Losses over heatmaps (DRL paper, section III-D; spec 3.1)."""

import torch
from torch import Tensor
from torch.nn import functional

from geoloc_models.errors import GeolocError


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
    """The square of `side_cells` around each target, cut off at the border (spec 3.1; fig. 5).

    target: (B, 2) true (row, col) as fractions 0..1 of the map's sides. An odd square is centred on the cell
    nearest to the target, an even one on the target itself, so that side 2 is its four neighbours. Returns
    (B, 1, height, width) bool.
    """
    cells = target.double() * target.new_tensor([height - 1, width - 1]).double()
    half = side_cells // 2
    first = torch.round(cells) - half if side_cells % 2 else torch.floor(cells) - half + 1
    rows = torch.arange(height, device=target.device) - first[:, :1]
    cols = torch.arange(width, device=target.device) - first[:, 1:]
    inside_rows = (rows >= 0) & (rows < side_cells)
    inside_cols = (cols >= 0) & (cols < side_cells)
    return (inside_rows[:, :, None] & inside_cols[:, None, :])[:, None]


def weighted_balance_loss(
    logits: Tensor, target: Tensor, side_cells: int = 31, negative_weight: float = 130.0
) -> Tensor:
    """Weighted balance loss (WBL, algorithm 1): binary cross-entropy whose cells weigh 1 in all.

    The positives share 1 / (1 + negative_weight) of the weight and the negatives the rest, each evenly,
    counted over the whole batch and after the cut at the border. logits: (B, 1, H, W); target: (B, 2) as in
    `positive_cells`.
    """
    height, width = logits.shape[-2:]
    if side_cells >= min(height, width):
        raise GeolocError(
            f"Positives of {side_cells}x{side_cells} cells leave no negatives on a {width}x{height} map: "
            f"give a side below {min(height, width)}."
        )
    positive = positive_cells(target, height, width, side_cells)
    cost = functional.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    positives = (cost * positive).sum() / positive.sum()
    negatives = (cost * ~positive).sum() / (~positive).sum()
    return (positives + negative_weight * negatives) / (1.0 + negative_weight)
