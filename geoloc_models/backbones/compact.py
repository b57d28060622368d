# SPDX-License-Identifier: Apache-2.0
"""Our compact one-stream backbone for CPUs: convolutions down to stride 16, mixed attention on top.

It keeps the principle of Mix-Fusion (DRL paper, section III-B): the same weights process query and map, the query
attends to itself only, the map attends to both. The convolutional levels do not see the other image, so one map serves
many queries (and, at inference, many frames) without recomputation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoloc_models.backbones.mixed_attention import to_grid


class ResidualConv(nn.Module):
    """Two 3x3 convolutions with group norm (no batch statistics: query and map differ in size and sensor)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(channels // 16, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(channels // 16, channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))
        return F.silu(x + out)


def _downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(out_channels // 16, out_channels),
        nn.SiLU(),
    )


class MixBlock(nn.Module):
    """Asymmetric mixed attention (DRL paper, section III-B2): query tokens see the query, map tokens see query and map.

    Position enters through a depthwise 3x3 convolution on each grid, so any grid size works.
    """

    def __init__(self, channels: int, heads: int, mlp_ratio: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, mlp_ratio * channels), nn.GELU(), nn.Linear(mlp_ratio * channels, channels)
        )

    def _tokens(self, grid: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        grid = grid + self.position(grid)
        tokens = grid.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return tokens, (q, k, v)

    def _finish(self, tokens: Tensor, attended: Tensor, like: Tensor) -> Tensor:
        tokens = tokens + self.proj(attended.transpose(1, 2).flatten(2))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return to_grid(tokens, (like.shape[-2], like.shape[-1]))

    def query(self, z: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """z: (B, C, h, w) -> the same after self-attention, and the keys and values that the map needs."""
        tokens, (q, k, v) = self._tokens(z)
        return self._finish(tokens, F.scaled_dot_product_attention(q, k, v), z), (k, v)

    def search(self, x: Tensor, query_keys: tuple[Tensor, Tensor]) -> Tensor:
        """x: (B, C, H, W) -> the same after attending to the query's and its own tokens."""
        tokens, (q, k, v) = self._tokens(x)
        k = torch.cat((query_keys[0], k), dim=2)
        v = torch.cat((query_keys[1], v), dim=2)
        return self._finish(tokens, F.scaled_dot_product_attention(q, k, v), x)


class Compact(nn.Module):
    """Convolutional pyramid at strides 4, 8 and 16, and mixing blocks at stride 16; see the module docstring."""

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 192),
        conv_blocks: Sequence[int] = (2, 2, 2),
        mix_blocks: int = 2,
        heads: int = 3,
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.stem = _downsample(3, 32)
        inputs = (32, *channels[:-1])
        self.levels = nn.ModuleList(
            nn.Sequential(_downsample(i, o), *(ResidualConv(o) for _ in range(n)))
            for i, o, n in zip(inputs, channels, conv_blocks, strict=True)
        )
        self.mix: list[MixBlock] = nn.ModuleList(  # type: ignore[assignment]
            MixBlock(channels[-1], heads) for _ in range(mix_blocks)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, 3, H, W), standardised -> levels at strides 4, 8 and 16 that do not depend on the other image."""
        x = self.stem(image)
        levels = []
        for level in self.levels:
            x = level(x)
            levels.append(x)
        return levels

    def mix_query(self, z16: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Query tokens through all mixing blocks; each block's keys and values, all that the map needs."""
        keys = []
        for block in self.mix:
            z16, kv = block.query(z16)
            keys.append(kv)
        return keys

    def mix_search(self, x16: Tensor, keys: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Map tokens through all mixing blocks, given the query's keys and values."""
        for block, kv in zip(self.mix, keys, strict=True):
            x16 = block.search(x16, kv)
        return x16
