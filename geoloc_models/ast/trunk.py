# SPDX-License-Identifier: Apache-2.0
"""ViT-S that also gives what its class token attends to (AST paper, sections 3.2 and 3.3).

Parameters carry timm's names, so checkpoints of timm load as they are.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from geoloc_models.backbones.mixed_attention import to_grid, to_tokens
from geoloc_models.backbones.vit import IMAGENET_MEAN, IMAGENET_STD, Block, PatchEmbedding, VitShape
from geoloc_models.errors import GeolocError

TrunkName = Literal["vits16", "vits14"]

_TIMM_NAMES = {"vits16": "vit_small_patch16_224", "vits14": "vit_small_patch14_dinov2"}
_PATCH_PX = {"vits16": 16, "vits14": 14}


@dataclass(frozen=True)
class TrunkOutput:
    """Tokens after the last block and the final norm: class_token (B, C), patches (B, n, C); scores (B, n): attention
    logits of the class token for each patch in the last block, before the softmax, mean over heads.
    """

    class_token: Tensor
    patches: Tensor
    scores: Tensor


class _Vit(nn.Module):
    """The transformer itself, on a square of `grid` patches a side."""

    def __init__(self, shape: VitShape, layer_scale: bool) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.channels))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + shape.position_grid**2, shape.channels))
        self.patch_embed = PatchEmbedding(shape)
        self.blocks = nn.ModuleList(Block(shape.channels, shape.heads, layer_scale) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.channels, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens (B, 1 + n, C) of standardised images (B, 3, H, W)."""
        patches = to_tokens(self.patch_embed(images))
        return torch.cat((self.cls_token.expand(patches.shape[0], -1, -1), patches), dim=1) + self.pos_embed


class AstTrunk(nn.Module):
    """A ViT-S for square images of `input_px`, random weights; `grid` patches to a side.

    vits16 is AST's (ViT-S/16), vits14 has the layer scale that DINOv2's weights need. `blocks` below 12 makes a
    shorter one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: TrunkName = "vits16", input_px: int = 256, blocks: int = 12) -> None:
        super().__init__()
        patch_px = _PATCH_PX[name]
        if input_px < patch_px or input_px % patch_px:
            raise GeolocError(
                f"Images of {input_px} px do not split into {patch_px} px patches: give a multiple of {patch_px}."
            )
        self.name = name
        self.input_px = input_px
        self.blocks = blocks
        self.grid = input_px // patch_px
        shape = VitShape(channels=384, blocks=blocks, heads=6, patch_px=patch_px, position_grid=self.grid)
        self.channels = shape.channels
        self.vit = _Vit(shape, layer_scale=name == "vits14")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def enter(self, images: Tensor, stop: int) -> Tensor:
        """Tokens (B, 1 + n, C) after the first `stop` blocks, of images (B, 3, H, W), RGB in 0..255."""
        weight = self.vit.patch_embed.proj.weight
        tokens = self.vit.embed(((images.float() / 255 - self.mean) / self.std).to(weight.dtype))
        for block in self.vit.blocks[:stop]:
            tokens, _ = block(tokens, None)
        return tokens

    def leave(self, tokens: Tensor, start: int) -> TrunkOutput:
        """The rest of the way: `tokens` come from after block `start`, below the number of blocks."""
        for block in self.vit.blocks[start:-1]:
            tokens, _ = block(tokens, None)
        last = self.vit.blocks[-1]
        scores = self._class_scores(last, tokens)
        tokens = self.vit.norm(last(tokens, None)[0])
        return TrunkOutput(tokens[:, 0], tokens[:, 1:], scores)

    def forward(self, images: Tensor) -> TrunkOutput:
        """Images (B, 3, H, W), RGB in 0..255."""
        return self.leave(self.enter(images, self.blocks - 1), self.blocks - 1)

    @staticmethod
    def _class_scores(block: Any, tokens: Tensor) -> Tensor:
        """Mean over heads of q_class . k_patch / sqrt(head width), (B, n) float32; the block itself is not touched.

        The sum over heads is the product over all channels, and q . (W k + b) = (q W) . k + q . b, so that no keys
        need to be made twice.
        """
        attention, normed = block.attn, block.norm1(tokens)
        channels = normed.shape[-1]
        weight, bias = attention.qkv.weight, attention.qkv.bias
        query = functional.linear(normed[:, 0], weight[:channels], bias[:channels])
        # float32: the differences between patches are what matters.
        key_weight, key_bias = weight[channels : 2 * channels].float(), bias[channels : 2 * channels].float()
        query = query.float()
        along = torch.einsum("bnc,bc->bn", normed[:, 1:].float(), query @ key_weight)
        return (along + (query @ key_bias)[:, None]) * (attention.scale / attention.heads)


def load_trunk(trunk: AstTrunk, path: Path) -> None:
    """Start from a checkpoint with timm's names: DINOv2 for vits14, vit_small_patch16_224 for vits16; safetensors.

    Positions are resampled to the trunk's grid (bicubic, antialiased); a classifier in the file is left out, and blocks
    beyond a shorter trunk's. GeolocError: unreadable, or of another network.
    """
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise GeolocError(f"cannot read trunk weights {path} ({error}): give a safetensors file.") from error
    kept = {
        key: value.float()
        for key, value in state.items()
        if not key.startswith("head.") and not _beyond(key, trunk.blocks)
    }
    try:
        kept["pos_embed"] = _resampled(kept["pos_embed"], trunk.grid)
        trunk.vit.load_state_dict(kept)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise GeolocError(
            f"{path} does not fit {_TIMM_NAMES[trunk.name]} ({reason}): give weights of that network with timm's names."
        ) from error


def _resampled(positions: Tensor, grid: int) -> Tensor:
    """(1, 1 + n, C) positions of a square, the class token's first, for one of `grid` patches a side."""
    side = math.isqrt(positions.shape[1] - 1)
    if side == grid:
        return positions
    learned = to_grid(positions[:, 1:], (side, side))
    resampled = functional.interpolate(learned, size=(grid, grid), mode="bicubic", antialias=True)
    return torch.cat((positions[:, :1], to_tokens(resampled)), dim=1)


def _beyond(key: str, blocks: int) -> bool:
    parts = key.split(".")
    return parts[0] == "blocks" and parts[1].isdigit() and int(parts[1]) >= blocks
