# SPDX-License-Identifier: Apache-2.0
"""Heads: from query and map features to one logit map (DRL paper, section III-C; spec 2.4)."""

import torch
from torch import Tensor, nn


def correlate(x: Tensor, z: Tensor) -> Tensor:
    """Correlate each map with its query as one kernel, all channels summed, padded by half the kernel.

    x: (B, C, H, W); z: (B, C, h, w). Returns (B, 1, H + 1, W + 1) for even kernels, whose nodes lie on cell EDGES:
    node (r, c) is the score of the query's centre at the corner of cells (r-1, c-1) and (r, c). Outside x counts as 0.
    Done by FFT in float32: on a CPU that is an order of magnitude faster than a grouped convolution from 8x8 up.
    """
    height, width = x.shape[-2:]
    kernel_h, kernel_w = z.shape[-2:]
    pad_h, pad_w = kernel_h // 2, kernel_w // 2
    size = (_fast_length(height + kernel_h), _fast_length(width + kernel_w))
    spectrum = torch.fft.rfft2(x.float(), s=size) * torch.fft.rfft2(z.float(), s=size).conj()
    scores = torch.fft.irfft2(spectrum.sum(1, keepdim=True), s=size)
    rows = height + 2 * pad_h - kernel_h + 1
    cols = width + 2 * pad_w - kernel_w + 1
    # Shift k of the circular correlation sits at index k mod size: roll the negative ones (padding) to the front.
    return torch.roll(scores, (pad_h, pad_w), (-2, -1))[..., :rows, :cols]


def _fast_length(least: int) -> int:
    """Smallest length >= least whose prime factors are 2, 3 and 5: those FFTs are fast."""
    length = least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


class GroupCorrelation(nn.Module):
    """GC head: 1x1 projections of query and map, then the query correlated over the map (spec 2.4).

    mean=True divides by the number of kernel cells, so that one learned scale serves queries of every size.
    """

    def __init__(self, channels: int, projected: int | None = None, scale: float = 3e-5, mean: bool = False) -> None:
        super().__init__()
        projected = projected or channels
        self.project_z = nn.Conv2d(channels, projected, 1)
        self.project_x = nn.Conv2d(channels, projected, 1)
        for conv in (self.project_z, self.project_x):
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.mean = mean

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """z: (B, C, h, w), x: (B, C, H, W) -> logits (B, 1, H + 1, W + 1) for even h, w."""
        logits = correlate(self.project_x(x), self.project_z(z)) * self.scale
        return logits / (z.shape[-2] * z.shape[-1]) if self.mean else logits
