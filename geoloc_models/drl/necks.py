# SPDX-License-Identifier: Apache-2.0
"""Necks: from a backbone's pyramid to the one map that a head reads (DRL paper, section III-C1 and fig. 3b)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoloc_models.errors import GeolocError


class FeaturePyramid(nn.Module):
    """Top-down feature pyramid that returns one level only, by default the finest.

    Lateral 1x1 convolutions, nearest upsampling, addition, and one 3x3 convolution on the level that is
    returned (the published code also smooths the levels that it discards). All convolutions have a bias; no
    norm, no activation.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, finest: int = 0) -> None:
        """in_channels: channels of the backbone's levels, finest first; finest: the level to return."""
        super().__init__()
        self.finest = finest
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in in_channels[finest:])
        self.smooth = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """levels: [(B, C_i, H_i, W_i)], finest first -> (B, out_channels, H_finest, W_finest)."""
        smoothed: Tensor = self.smooth(self.merge(levels))
        return smoothed

    def merge(self, levels: Sequence[Tensor]) -> Tensor:
        """All but the last convolution."""
        merged: Tensor | None = None
        wanted = list(levels)[self.finest :]
        for lateral, level in zip(reversed(list(self.lateral)), reversed(wanted), strict=True):
            here = lateral(level)
            if merged is not None:
                here = here + F.interpolate(merged, size=here.shape[-2:], mode="nearest")
            merged = here
        assert merged is not None
        return merged


class ChannelConvert(nn.Module):
    """CCN: one 1x1 convolution on the coarsest level."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convert = nn.Conv2d(in_channels, out_channels, 1)
        nn.init.xavier_uniform_(self.convert.weight)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """levels: [(B, C_i, H_i, W_i)], finest first -> (B, out_channels, H_last, W_last)."""
        converted: Tensor = self.convert(levels[-1])
        return converted


class SimplePyramid(nn.Module):
    """The finest level of a plain ViT's simple feature pyramid (Li et al., ViTDet, ECCV 2022).

    Two doublings by transposed convolution take stride 14 over 7 to 3.5; then a 3x3 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2),
            nn.GroupNorm(1, out_channels),
            nn.GELU(),
            nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """levels: [(B, C, h, w)] -> (B, out_channels, 4 h, 4 w)."""
        finest: Tensor = self.layers(levels[-1])
        return finest


def share_over_queries(level: Tensor, queries: int) -> Tensor:
    """Repeat a map's features for each of its queries: (B, C, H, W) -> (B * queries, C, H, W)."""
    return level if queries == 1 else torch.repeat_interleave(level, queries, dim=0)


def queries_per_map(views: int, maps: int) -> int:
    """How many consecutive views belong to each map; GeolocError if they do not divide."""
    if views % maps:
        raise GeolocError(f"{views} query views do not divide among {maps} maps: give as many for each map.")
    return views // maps
