# SPDX-License-Identifier: Apache-2.0
"""Heads: from query and map features to one logit map (DRL paper, section III-B and fig. 3)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoloc_models.backbones.mixed_attention import to_grid, to_tokens
from geoloc_models.drl.necks import share_over_queries
from geoloc_models.errors import GeolocError


def correlate(x: Tensor, z: Tensor, padding: bool = True) -> Tensor:
    """Correlate maps with queries as kernels, all channels summed.

    x: (B, C, H, W); z: (B * K, C, h, w), K consecutive queries a map. Returns (B * K, 1, H + 1, W + 1) for
    even kernels, whose nodes lie on cell EDGES: node (r, c) is the score of the query's centre at the corner
    that cells (r-1, c-1) and (r, c) share; outside x counts as 0. Without padding only the nodes whose kernel lies
    inside x: (B * K, 1, H - h + 1, W - w + 1). Done by FFT in float32: on a CPU that is an order of magnitude
    faster than a grouped convolution from 8x8 up, and the map is transformed once for all its queries.
    """
    return correlate_spectrum(map_spectrum(x, (z.shape[-2], z.shape[-1]), padding), x.shape[-2:], z, padding)


def map_spectrum(x: Tensor, kernel: tuple[int, int], padding: bool = True) -> Tensor:
    """What `correlate` needs of maps (B, C, H, W) for queries whose sides are `kernel`, as complex numbers.

    GeolocError if such a query does not fit.
    """
    (height, width), (kernel_h, kernel_w) = x.shape[-2:], kernel
    if not padding and (kernel_h > height or kernel_w > width):
        raise GeolocError(
            f"A query of {kernel_w}x{kernel_h} cells does not fit on a map of {width}x{height}: give a larger map."
        )
    return _spectrum(x, _spectrum_size((height, width), kernel, padding))


def correlate_spectrum(spectrum: Tensor, map_size: Sequence[int], z: Tensor, padding: bool = True) -> Tensor:
    """The second half of `correlate`: map_size is (H, W) of the maps that `spectrum` is of."""
    (height, width), (kernel_h, kernel_w) = map_size, z.shape[-2:]
    pad_h, pad_w = (kernel_h // 2, kernel_w // 2) if padding else (0, 0)
    size = _spectrum_size((height, width), (kernel_h, kernel_w), padding)
    queries = _spectrum(z, size).unflatten(0, (spectrum.shape[0], -1))
    product = (spectrum[:, None] * queries.conj()).sum(2)
    scores = torch.fft.irfft2(product, s=size).flatten(0, 1)[:, None]
    # Shift k of the circular correlation sits at index k mod size: roll the negative ones to the front.
    scores = torch.roll(scores, (pad_h, pad_w), (-2, -1))
    return scores[..., : height + 2 * pad_h - kernel_h + 1, : width + 2 * pad_w - kernel_w + 1]


def _spectrum_size(map_size: tuple[int, int], kernel: tuple[int, int], padding: bool) -> tuple[int, int]:
    # Shifts run from -pad to side + pad - kernel. A circular correlation adds shifts that differ by its length, and
    # with a length of side + pad the others of each lie where map and kernel do not meet: exact, and a third shorter.
    rows, cols = (side + (k // 2 if padding else 0) for side, k in zip(map_size, kernel, strict=True))
    return _fast_length(rows), _fast_length(cols)


def _spectrum(images: Tensor, size: tuple[int, int]) -> Tensor:
    # Rows first and unpadded: rfft2 would transform the rows of zeros below them too.
    return torch.fft.fft(torch.fft.rfft(images.float(), n=size[1]), n=size[0], dim=-2)


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
    """GC head: 1x1 projections of query and map, then the query correlated over the map (DRL paper, section III-B1).

    scale: first value of the learned factor, 3e-5 in Mix-Fusion and 1e-4 in Post-Fusion. mean=True divides by the
    number of kernel cells, so that one learned scale serves queries of every size.
    """

    def __init__(
        self, channels: int, projected: int | None = None, scale: float = 3e-5, mean: bool = False, padding: bool = True
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
        self.padding = padding

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """z: (B * K, C, h, w), x: (B, C, H, W) -> logits (B * K, 1, H + 1, W + 1) for even h, w (see `correlate`)."""
        return self.scaled(correlate(self.project_x(x), self.project_z(z), self.padding), z)

    def scaled(self, scores: Tensor, z: Tensor) -> Tensor:
        """Logits from what the queries z (B * K, C, h, w) correlate to."""
        logits = scores * self.scale
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


class GeneralizedMean(nn.Module):
    """GeM over the channels with a learned exponent (Radenović et al., PAMI 2018), which the paper's text names."""

    def __init__(self, floor: float = 1e-6) -> None:
        """floor: what channels below it count as; roots need positive numbers."""
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))
        self.floor = floor

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> logits (B, 1, H, W)."""
        return x.clamp(min=self.floor).pow(self.p).mean(1, keepdim=True).pow(1 / self.p)


class LinearChain(nn.Module):
    """Linear head: per-pixel linear layers without activations, separate so that published checkpoints load."""

    def __init__(self, widths: Sequence[int]) -> None:
        """widths: channels from input to output, for example 128, 64, 16, 1."""
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W) -> logits (B, 1, H, W)."""
        logits: Tensor = self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return logits


class FusionLayer(nn.Module):
    """Attention, dropout and norm around it, two linear layers with ReLU (CAF and SAF; DRL paper, section III-B1).

    As the paper means it: the attention's values come from the same tokens as its keys, and one dropout is applied
    to its output. The published code has no residual around the linear layers; `residual` adds it.
    """

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.norm = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(dropout)
        self.residual = residual

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens (B, n, C) attend to context (B, m, C); returns (B, n, C)."""
        attended, _ = self.attention(tokens, context, context, need_weights=False)
        mixed = self.norm(tokens + self.dropout(attended))
        out: Tensor = self.linear2(self.dropout(functional.relu(self.linear1(mixed))))
        return mixed + out if self.residual else out


class AttentionFusion(nn.Module):
    """CAF and SAF heads (section III-B1): layers of attention between query and map, then one linear map to a logit.

    joint=False (CAF): the map's tokens attend to the query's. joint=True (SAF): all tokens attend to all, and the
    map's are kept. No positions are added, so query and map may have any size.
    """

    def __init__(
        self,
        channels: int,
        joint: bool,
        residual: bool = False,
        layers: int = 4,
        heads: int = 8,
        hidden: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.joint = joint
        self.layers = nn.ModuleList(FusionLayer(channels, heads, hidden, dropout, residual) for _ in range(layers))
        self.out = nn.Linear(channels, 1)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """z: (B * K, C, h, w), x: (B, C, H, W) -> logits (B * K, 1, H, W)."""
        grid = x.shape[-2:]
        query = to_tokens(z)
        tokens = to_tokens(share_over_queries(x, z.shape[0] // x.shape[0]))
        if self.joint:
            tokens = torch.cat((query, tokens), dim=1)
        for layer in self.layers:
            tokens = layer(tokens, tokens if self.joint else query)
        return to_grid(self.out(tokens[:, -grid[0] * grid[1] :]), (grid[0], grid[1]))


class Enlarge(nn.Module):
    """Enlarge logits to the map's size over `stride`; bilinear in the paper's text, nearest in its code."""

    def __init__(self, stride: int, mode: Literal["nearest", "bilinear"] = "nearest") -> None:
        super().__init__()
        self.stride = stride
        self.mode = mode

    def forward(self, logits: Tensor, map_size: torch.Size) -> Tensor:
        """logits: (B, 1, h, w); map_size: (H, W), px -> (B, 1, H / stride, W / stride)."""
        size = [side // self.stride for side in map_size]
        return functional.interpolate(logits, size=size, mode=self.mode)
