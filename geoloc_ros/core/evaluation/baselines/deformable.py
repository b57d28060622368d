# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution in plain PyTorch, for torchvision builds whose compiled operators cannot be loaded.

Dai et al., "Deformable Convolutional Networks", 2017; layout of the offsets as in torchvision.ops.deform_conv2d.
"""

import importlib

import torch
from torch.nn import functional as F


def deform_conv2d(
    input: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    padding: int | tuple[int, int] = 0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """torchvision's function for stride 1, no dilation and one group; zero outside the image.

    input: (B, C, H, W); offset: (B, 2 * kh * kw, H', W'), (dy, dx) for each tap in row-major order; weight:
    (O, C, kh, kw); mask: (B, kh * kw, H', W') or None. Returns (B, O, H', W').
    """
    taps_y, taps_x = weight.shape[2:]
    height, width = input.shape[2:]
    rows, cols = offset.shape[2:]
    above, left = (padding, padding) if isinstance(padding, int) else padding
    y = torch.arange(rows, dtype=input.dtype, device=input.device)[:, None] - above
    x = torch.arange(cols, dtype=input.dtype, device=input.device)[None] - left
    out = input.new_zeros(input.shape[0], weight.shape[0], rows, cols)
    for tap in range(taps_y * taps_x):
        at_y = y + tap // taps_x + offset[:, 2 * tap]
        at_x = x + tap % taps_x + offset[:, 2 * tap + 1]
        # grid_sample counts from -1 to 1 between the outer edges of the first and the last pixel.
        grid = torch.stack([(2 * at_x + 1) / width - 1, (2 * at_y + 1) / height - 1], dim=-1)
        sampled = F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if mask is not None:
            sampled = sampled * mask[:, tap : tap + 1]
        out += torch.einsum("oc,bchw->bohw", weight[:, :, tap // taps_x, tap % taps_x], sampled)
    return out if bias is None else out + bias[:, None, None]


def supply_deform_conv2d() -> None:
    """Put ours in torchvision's place where torchvision has none that runs."""
    operators = importlib.import_module("torchvision.ops")
    if not importlib.import_module("torchvision.extension")._has_ops():
        operators.deform_conv2d = deform_conv2d  # type: ignore[attr-defined]
