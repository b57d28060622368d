# SPDX-License-Identifier: Apache-2.0
"""ViT-S through timm, telling what its class token attends to (AST paper, sections 3.2 and 3.3; spec 6.1, 6.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from geoloc_models.backbones.timm_backbone import import_timm
from geoloc_models.backbones.vit import IMAGENET_MEAN, IMAGENET_STD
from geoloc_models.errors import GeolocError

TrunkName = Literal["vits16", "vits14"]

_TIMM_NAMES = {"vits16": "vit_small_patch16_224", "vits14": "vit_small_patch14_dinov2"}


@dataclass(frozen=True)
class TrunkOutput:
    """Tokens after the last block and the final norm: class_token (B, C), patches (B, n, C); scores (B, n): attention
    logits of the class token for each patch in the last block, before the softmax, mean over heads.
    """

    class_token: Tensor
    patches: Tensor
    scores: Tensor


class VitTrunk(nn.Module):
    """A ViT-S for square pictures of `input_px`, random weights; `grid` patches to a side.

    vits16 is AST's (ViT-S/16), vits14 has the layer scale that DINOv2's weights need. `blocks` below 12 makes a
    shorter one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: TrunkName = "vits16", input_px: int = 256, blocks: int = 12) -> None:
        super().__init__()
        patch_px = 16 if name == "vits16" else 14
        if input_px < patch_px or input_px % patch_px:
            raise GeolocError(
                f"Pictures of {input_px} px do not split into {patch_px} px patches: give a multiple of {patch_px}."
            )
        self.vit = import_timm().create_model(
            _TIMM_NAMES[name], img_size=input_px, depth=blocks, num_classes=0
        )
        self.input_px = input_px
        self.blocks = blocks
        self.channels: int = self.vit.embed_dim
        self.grid = input_px // patch_px
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def enter(self, images: Tensor, stop: int) -> Tensor:
        """Tokens (B, 1 + n, C) after the first `stop` blocks, of images (B, 3, H, W), RGB in 0..255."""
        weight = self.vit.patch_embed.proj.weight
        tokens = self.vit.patch_embed(((images.float() / 255 - self.mean) / self.std).to(weight.dtype))
        tokens = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(tokens)))
        for block in self.vit.blocks[:stop]:
            tokens = block(tokens)
        return tokens

    def leave(self, tokens: Tensor, start: int) -> TrunkOutput:
        """The rest of the way: `tokens` come from after block `start`, below the number of blocks."""
        for block in self.vit.blocks[start:-1]:
            tokens = block(tokens)
        last = self.vit.blocks[-1]
        scores = self._class_scores(last, tokens)
        tokens = self.vit.norm(last(tokens))
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
        return (along + (query @ key_bias)[:, None]) * (attention.scale / attention.num_heads)


def load_trunk(trunk: VitTrunk, path: Path) -> None:
    """Start from a checkpoint with timm's names: DINOv2 for vits14, vit_small_patch16_224 for vits16; safetensors.

    Positions are resampled to the trunk's grid (bicubic, antialiased) and patches to its patch size; a classifier in
    the file is left out, and blocks beyond a shorter trunk's. GeolocError: unreadable, or of another network.
    """
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise GeolocError(f"cannot read trunk weights {path} ({error}): give a safetensors file.") from error
    from timm.models.vision_transformer import checkpoint_filter_fn

    kept = {
        key: value.float()
        for key, value in state.items()
        if not key.startswith("head.") and not _beyond(key, trunk.blocks)
    }
    try:
        trunk.vit.load_state_dict(checkpoint_filter_fn(kept, trunk.vit))
    except (RuntimeError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise GeolocError(
            f"{path} does not fit {_name(trunk)} ({reason}): give weights of that network with timm's names."
        ) from error


def _beyond(key: str, blocks: int) -> bool:
    parts = key.split(".")
    return parts[0] == "blocks" and parts[1].isdigit() and int(parts[1]) >= blocks


def _name(trunk: VitTrunk) -> str:
    return _TIMM_NAMES["vits14" if hasattr(trunk.vit.blocks[0].ls1, "gamma") else "vits16"]
