# SPDX-License-Identifier: Apache-2.0
"""Losses over heatmaps (DRL paper, section III-D; spec 3.1)."""

import torch
from torch import Tensor


def spatial_cross_entropy(logits: Tensor, target_rc: Tensor, sigma_nodes: float) -> Tensor:
    """Cross-entropy of the softmax over the whole map against a Gaussian around the true position; mean over the batch.

    logits: (B, 1, H, W); target_rc: (B, 2) true (row, col) in node coordinates; sigma_nodes: spread in nodes.
    """
    rows = torch.arange(logits.shape[-2], device=logits.device, dtype=logits.dtype)
    cols = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    row_cost = (rows - target_rc[:, :1]) ** 2
    col_cost = (cols - target_rc[:, 1:]) ** 2
    cost = (row_cost[:, :, None] + col_cost[:, None, :]).flatten(1) / (2 * sigma_nodes**2)
    target = torch.softmax(-cost, dim=1)
    return -(target * torch.log_softmax(logits.flatten(1), dim=1)).sum(1).mean()
