# SPDX-License-Identifier: Apache-2.0
"""Descriptors for fine alignment, and where the blocks of a view lie on a map by them.

The head stands behind the neck, on the features that GC correlates over the whole map; it is trained with all before it
frozen (`training.alignment_task`), so the heatmap does not depend on it.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoloc_models.drl.alignment import BlockMatches

BLOCK_NODES, STEP_NODES = 8, 4
"""Side of a block and distance between neighbours."""
REACH_NODES = 8
"""Largest displacement of a block: that of a view's rim at 20 degrees of heading or 30 % of height."""
DISPLACEMENTS = 2 * REACH_NODES + 1
OVERLAP_SHARE = (STEP_NODES / BLOCK_NODES) ** 2
STRIDE_PX = 4


class AlignmentHead(nn.Module):
    """Features of one image (B, width, h, w) -> descriptors (B, channels, h, w), longer where they say more."""

    def __init__(self, width: int = 64, channels: int = 32) -> None:
        super().__init__()
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, channels + 1, 3, padding=1)
        self.skip = nn.Conv2d(width, channels, 1)
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.nowhere = nn.Parameter(torch.tensor(8.0))

    def forward(self, features: Tensor) -> Tensor:
        found = self.out(F.gelu(self.body(features)))
        direction = found[:, :-1] + self.skip(features)
        length = direction.square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
        return cast(Tensor, direction / length * torch.sigmoid(found[:, -1:]))


def log_posterior(head: AlignmentHead, view: Tensor, window: Tensor) -> Tensor:
    """Log probability of each block's displacements and, last, of none of them: (B, D * D + 1, rows, columns).

    view: descriptors (B, C, h, w); window: of the map around where the view is expected, (B, C, h + 2 R, w + 2 R).
    """
    scores = block_correlations(view, window) * head.scale
    nowhere = head.nowhere.expand(scores.shape[0], 1, *scores.shape[2:])
    return torch.cat([scores, nowhere], 1).log_softmax(1)


def block_correlations(view: Tensor, window: Tensor) -> Tensor:
    """Mean products of each block with the window at all displacements, (B, D * D, rows, columns); as log_posterior."""
    count, channels, height, width = view.shape
    rows, columns, strip = height // STEP_NODES, width // STEP_NODES, STEP_NODES * channels
    # A block is a sum of cells of STEP_NODES a side: all products of a strip of cells with the strips of the window.
    lines = view[:, :, : rows * STEP_NODES].permute(0, 2, 3, 1).reshape(count, rows, STEP_NODES, width, channels)
    of_view = lines.transpose(2, 3).reshape(count, rows, 1, width, strip)
    of_map = window.transpose(1, 2).contiguous()
    batch, row, _, node = of_map.stride()
    strips = of_map.as_strided(
        (count, rows, DISPLACEMENTS, strip, window.shape[3]), (batch, STEP_NODES * row, row, window.shape[3], node)
    )
    products = torch.stack([torch.matmul(of_view[:, index], strips[:, index]) for index in range(rows)], 1)
    # Of these, (B, rows, D, w, W), those of columns at most 2 R apart: a band along the diagonal.
    batch, row, down, column, node = products.stride()
    band = products.as_strided(
        (count, rows, DISPLACEMENTS, columns, STEP_NODES, DISPLACEMENTS),
        (batch, row, down, STEP_NODES * (column + node), column + node, node),
    )
    cells = band.sum(4).permute(0, 2, 4, 1, 3).reshape(count, DISPLACEMENTS**2, rows, columns)
    return F.avg_pool2d(cells, BLOCK_NODES // STEP_NODES, 1) / STEP_NODES**2


@torch.inference_mode()
def block_matches(
    head: AlignmentHead, view: Tensor, search_map: Tensor, centre_xy_px: tuple[float, float]
) -> BlockMatches:
    """The blocks of one view (1, C, h, w) on one map (1, C, H, W), whose centre is expected at centre_xy_px."""
    height, width = view.shape[-2:]
    column, row = (round(value / STRIDE_PX) for value in centre_xy_px)
    left, top = column - width // 2 - REACH_NODES, row - height // 2 - REACH_NODES
    right, bottom = left + width + 2 * REACH_NODES, top + height + 2 * REACH_NODES
    # Nothing matches beyond the map: zeros correlate to less than `nowhere`.
    window = F.pad(search_map.float(), (-left, right - search_map.shape[-1], -top, bottom - search_map.shape[-2]))
    found = log_posterior(head, view.float(), window)[0, :-1].exp()
    middles = [
        (torch.arange(count, device=view.device) * STEP_NODES + BLOCK_NODES / 2 - side / 2) * STRIDE_PX
        for count, side in ((found.shape[1], height), (found.shape[2], width))
    ]
    y, x = torch.meshgrid(*middles, indexing="ij")
    return BlockMatches(
        centres_px=torch.stack([x, y], -1).flatten(0, 1).double().cpu().numpy(),
        probability=found.flatten(1).T.reshape(-1, DISPLACEMENTS, DISPLACEMENTS).double().cpu().numpy(),
        stride_px=STRIDE_PX,
        origin_xy_px=(float(column * STRIDE_PX), float(row * STRIDE_PX)),
        share=OVERLAP_SHARE,
    )
