# SPDX-License-Identifier: Apache-2.0
"""ViT-S/14 in the Mix-Fusion form, started from DINOv2.

A plain vision transformer (Dosovitskiy et al., ICLR 2021) with the layer scale and the weights of DINOv2
(Oquab et al., TMLR 2024; Apache-2.0), whose self-attention is replaced by the asymmetric mixed attention of DRL
(section III-B2). This adds no parameter, so the checkpoint loads strictly; module names are timm's.

Each image has its own class token and its own resampled positions, as DINOv2 was trained: each image
alone is exactly DINOv2. The map attends to the query's class token too; class tokens are dropped at the
output.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoloc_models.backbones.mixed_attention import (
    KeysValues,
    MixBackbone,
    Mlp,
    join_heads,
    mixed_attention,
    split_heads,
    to_grid,
    to_tokens,
)
from geoloc_models.errors import GeolocError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class VitShape:
    """Sizes of a vision transformer; position_grid: side in patches of its learned square of positions."""

    channels: int
    blocks: int
    heads: int
    patch_px: int
    position_grid: int


VITS14 = VitShape(channels=384, blocks=12, heads=6, patch_px=14, position_grid=37)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch."""

    def __init__(self, channels: int, initial: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class Attention(nn.Module):
    """Mixed multi-head attention."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, context: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """tokens (B, n, C) -> the same, and this image's own keys and values."""
        queries, keys, values = (split_heads(part, self.heads) for part in self.qkv(tokens).chunk(3, dim=-1))
        mixed = mixed_attention(queries, (keys, values), context, self.scale)
        return self.proj(join_heads(mixed)), (keys, values)


class Block(nn.Module):
    """Pre-norm transformer block; layer_scale: as DINOv2's weights need it."""

    def __init__(self, channels: int, heads: int, layer_scale: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, heads)
        self.ls1: nn.Module = LayerScale(channels) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, nn.GELU())
        self.ls2: nn.Module = LayerScale(channels) if layer_scale else nn.Identity()

    def forward(self, tokens: Tensor, context: KeysValues | None) -> tuple[Tensor, KeysValues]:
        attended, own = self.attn(self.norm1(tokens), context)
        tokens = tokens + self.ls1(attended)
        return tokens + self.ls2(self.mlp(self.norm2(tokens))), own


class PatchEmbedding(nn.Module):
    """One linear map per patch: (B, 3, H, W) -> (B, C, H / patch, W / patch)."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.channels, shape.patch_px, shape.patch_px)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)


class VitMix(MixBackbone):
    """One-stream ViT for a query view z and a search map x.

    Images are (B, 3, H, W), RGB in 0..1; sides are multiples of the patch, grids need not be square, z and x
    may differ in size. The ImageNet standardisation that the weights expect happens inside. A pyramid has the
    one level (B, C, H / patch, W / patch), after the final norm.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: VitShape = VITS14) -> None:
        super().__init__()
        self.multiple_px = shape.patch_px
        self.position_grid = shape.position_grid
        self.channels = (shape.channels,)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.channels))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + shape.position_grid**2, shape.channels))
        self.patch_embed = PatchEmbedding(shape)
        self.blocks = nn.ModuleList(Block(shape.channels, shape.heads) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.channels, eps=1e-6)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_initialise)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Positions (1, 1 + h * w, C) of a grid (h, w), the class token's first; bicubic, antialiased."""
        if grid == (self.position_grid, self.position_grid):
            return self.pos_embed
        # Resampling is not written for half precision.
        full = self.pos_embed.to(torch.promote_types(self.pos_embed.dtype, torch.float32))
        learned = to_grid(full[:, 1:], (self.position_grid, self.position_grid))
        resampled = functional.interpolate(learned, size=grid, mode="bicubic", antialias=True)
        return torch.cat((full[:, :1], to_tokens(resampled)), dim=1).to(self.pos_embed.dtype)

    def run(
        self, image: Tensor, context: tuple[KeysValues, ...] | None
    ) -> tuple[tuple[Tensor, ...], tuple[KeysValues, ...]]:
        height, width = image.shape[-2:]
        if height % self.multiple_px or width % self.multiple_px:
            raise GeolocError(
                f"An image of {width}x{height} px does not split into {self.multiple_px} px patches: "
                f"give sides that are multiples of {self.multiple_px}."
            )
        patches = self.patch_embed((image - self.mean) / self.std)
        grid = (patches.shape[-2], patches.shape[-1])
        class_token = self.cls_token.expand(image.shape[0], -1, -1)
        tokens = torch.cat((class_token, to_tokens(patches)), dim=1) + self.positions(grid)
        keys_values = []
        for index, block in enumerate(self.blocks):
            tokens, own = block(tokens, None if context is None else context[index])
            keys_values.append(own)
        return (to_grid(self.norm(tokens)[:, 1:], grid),), tuple(keys_values)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def load_dinov2(backbone: VitMix, state: Mapping[str, Tensor]) -> None:
    """Load a DINOv2 checkpoint with timm's names, of any float type; GeolocError unless all of it fits."""
    try:
        backbone.load_state_dict(dict(state))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise GeolocError(
            f"Not DINOv2 weights of this shape: {first} Give the vit_small_patch14_dinov2 file."
        ) from error
