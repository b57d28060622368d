# SPDX-License-Identifier: Apache-2.0
"""Heads: from query and map features to one logit map (DRL paper, section III-C; spec 2.4)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def correlate(x: Tensor, z: Tensor) -> Tensor:
    """Correlate maps with queries as kernels, all channels summed, padded by half the kernel.

    x: (B, C, H, W); z: (B * K, C, h, w), K consecutive queries a map. Returns (B * K, 1, H + 1, W + 1) for
    even kernels, whose nodes lie on cell EDGES: node (r, c) is the score of the query's centre at the corner
    that cells (r-1, c-1) and (r, c) share. Outside x counts as 0. Done by FFT in float32: on a CPU that is an
    order of magnitude faster than a grouped convolution from 8x8 up, and the map is transformed once for all
    its queries.
    """
    height, width = x.shape[-2:]
    kernel_h, kernel_w = z.shape[-2:]
    pad_h, pad_w = kernel_h // 2, kernel_w // 2
    size = (_fast_length(height + kernel_h), _fast_length(width + kernel_w))
    map_spectrum = torch.fft.rfft2(x.float(), s=size)
    query_spectrum = torch.fft.rfft2(z.float(), s=size).unflatten(0, (x.shape[0], -1))
    spectrum = torch.einsum("bcij,bkcij->bkij", map_spectrum, query_spectrum.conj())
    scores = torch.fft.irfft2(spectrum, s=size).flatten(0, 1)[:, None]
    rows = height + 2 * pad_h - kernel_h + 1
    cols = width + 2 * pad_w - kernel_w + 1
    # Shift k of the circular correlation sits at index k mod size: roll the negative ones to the front.
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

    def __init__(
        self, channels: int, projected: int | None = None, scale: float = 3e-5, mean: bool = False
    ) -> None:
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
        """z: (B * K, C, h, w), x: (B, C, H, W) -> logits (B * K, 1, H + 1, W + 1) for even h, w."""
        logits = correlate(self.project_x(x), self.project_z(z)) * self.scale
        return logits / (z.shape[-2] * z.shape[-1]) if self.mean else logits


class AveragePool(nn.Module):
    """Mean over the channels; no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> logits (B, 1, H, W)."""
        return x.mean(1, keepdim=True)


class SoftmaxPool(nn.Module):
    """Learned weighted mean over the channels, at first the plain one: what the published code calls GeM."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((channels,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> logits (B, 1, H, W)."""
        return torch.einsum("bchw,c->bhw", x, self.p.softmax(0)).unsqueeze(1)


class LinearChain(nn.Module):
    """Linear head: per-pixel linear layers with no activation between, kept apart for the sake of checkpoints."""

    def __init__(self, widths: Sequence[int]) -> None:
        """widths: channels from input to output, for example 128, 64, 16, 1."""
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> logits (B, 1, H, W)."""
        logits: Tensor = self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return logits
