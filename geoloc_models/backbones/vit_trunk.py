# SPDX-License-Identifier: Apache-2.0
"""The lower blocks of DINOv2's ViT-S/14, frozen: features that are stable across seasons, sensors and years.

Of the twelve blocks the middle ones distinguish places, the last ones kinds of places: correlating the plain tokens
after block n over maps of another date finds 0.39 of all views within 20 m for n = 5 and 0.36 for n = 8, but 0.10 for
n = 12 (240 LEVIR training views). So the trunk ends at block 8 and returns the tokens after blocks 5 and 8.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoloc_models.backbones.mixed_attention import to_grid, to_tokens
from geoloc_models.backbones.vit import IMAGENET_MEAN, IMAGENET_STD, VITS14, Block, PatchEmbedding
from geoloc_models.errors import GeolocError


class VitTrunk(nn.Module):
    """Image (B, 3, H, W), RGB 0..255, and the side of a cell -> (B, 768, H / cell_px, W / cell_px), nearest integers.

    The image is resized first, so that each 14 px patch of DINOv2 shows one cell. Parameters carry DINOv2's names in
    timm and are never trained; in bfloat16 the trunk takes a quarter less time than under autocast, which converts the
    weights for each image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, taps: Sequence[int] = (5, 8)) -> None:
        """taps: blocks, counted from 1, after which the tokens are returned; the last one ends the trunk."""
        super().__init__()
        shape = VITS14
        self.taps = tuple(taps)
        self.patch_px = shape.patch_px
        self.channels = len(self.taps) * shape.channels
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.channels))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + shape.position_grid**2, shape.channels))
        self.patch_embed = PatchEmbedding(shape)
        self.blocks = nn.ModuleList(Block(shape.channels, shape.heads) for _ in range(max(self.taps)))
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.requires_grad_(False)

    def load_dinov2(self, state: Mapping[str, Tensor]) -> None:
        """Take the trunk's share of a DINOv2 ViT-S/14 checkpoint with timm's names; GeolocError if it lacks any."""
        own = self.state_dict()
        misfit = next((k for k, v in own.items() if k not in state or state[k].shape != v.shape), None)
        if misfit is not None:
            raise GeolocError(
                f"Not DINOv2 weights of ViT-S/14: {misfit} is missing or of another size. "
                "Give the vit_small_patch14_dinov2 file."
            )
        self.load_state_dict({key: state[key].float() for key in own})

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """As `resampled_positions`, in the trunk's own type."""
        return resampled_positions(self.pos_embed, grid).to(self.pos_embed.dtype)

    @torch.no_grad()
    def forward(self, image: Tensor, cell_px: float) -> Tensor:
        grid = cell_grid(image.shape[-2], image.shape[-1], cell_px)
        size = (grid[0] * self.patch_px, grid[1] * self.patch_px)
        small = F.interpolate(image.float(), size=size, mode="bilinear", antialias=True)
        return self.tokens_of(small, self.positions(grid))

    def tokens_of(self, small: Tensor, positions: Tensor) -> Tensor:
        """The trunk's features of an image whose patches show one cell each, (B, 3, 14 h, 14 w), RGB 0..255."""
        standard = (small - self.mean.float()) / self.std.float()
        patches = self.patch_embed(standard.to(self.cls_token.dtype))
        grid = (patches.shape[-2], patches.shape[-1])
        class_token = self.cls_token.expand(small.shape[0], -1, -1)
        tokens = torch.cat((class_token, to_tokens(patches)), dim=1) + positions
        tapped = []
        for number, block in enumerate(self.blocks, start=1):
            tokens, _ = block(tokens, None)
            if number in self.taps:
                tapped.append(to_grid(tokens[:, 1:], grid))
        return torch.cat(tapped, dim=1)


def cell_grid(height: int, width: int, cell_px: float) -> tuple[int, int]:
    """Number of cells of an image, (rows, columns)."""
    return round(height / cell_px), round(width / cell_px)


def resampled_positions(learned: Tensor, grid: tuple[int, int]) -> Tensor:
    """What is added to the tokens of a grid (h, w): (1, 1 + h * w, C) float32, the class token's first.

    learned: (1, 1 + n * n, C), of a square grid.
    """
    side = math.isqrt(learned.shape[1] - 1)
    square = to_grid(learned[:, 1:].float(), (side, side))
    resampled = F.interpolate(square, size=grid, mode="bicubic", antialias=True)
    return torch.cat((learned[:, :1].float(), to_tokens(resampled)), dim=1)
