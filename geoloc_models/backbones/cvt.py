# SPDX-License-Identifier: Apache-2.0
"""CvT-13 in the Mix-Fusion form.

Convolutional vision transformer (Wu et al., "CvT: Introducing Convolutions to Vision Transformers", ICCV
2021) with the asymmetric mixed attention of DRL (section III-B2). No positional embedding, so any grid is
allowed. The module names are those of the CvT model zoo, so its checkpoints load.

Differences from the classifier: no class token (Mix-Fusion never uses it), no final norm, no head, and batch
norms whose statistics and affine part are constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geoloc_models.backbones.mixed_attention import (
    DropPath,
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


@dataclass(frozen=True)
class Stage:
    """One stage: a strided convolutional token embedding, then blocks."""

    channels: int
    heads: int
    blocks: int
    kernel: int
    stride: int
    padding: int
    drop_path: float = 0.0


CVT13 = (
    Stage(channels=64, heads=1, blocks=1, kernel=7, stride=4, padding=2),
    Stage(channels=192, heads=3, blocks=2, kernel=3, stride=2, padding=1),
    Stage(channels=384, heads=6, blocks=10, kernel=3, stride=2, padding=1, drop_path=0.1),
)


class QuickGELU(nn.Module):
    """a * sigmoid(1.702 a), the activation the published weights were trained with."""

    def forward(self, a: Tensor) -> Tensor:
        return a * torch.sigmoid(1.702 * a)


class FrozenBatchNorm(nn.Module):
    """Batch norm over (B, C, h, w) whose every number is a constant; keys as in `nn.BatchNorm2d`."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class ConvProjection(nn.Module):
    """Depthwise 3x3 convolution, frozen batch norm: (B, C, h, w) -> (B, ceil(h/stride) ceil(w/stride), C)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        self.bn = FrozenBatchNorm(channels)

    def forward(self, grid: Tensor) -> Tensor:
        return to_tokens(self.bn(self.conv(grid)))


class Attention(nn.Module):
    """Mixed attention with convolutional projections; keys and values are taken at half the resolution."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = channels**-0.5  # of the full width, not of one head: what the published weights expect
        self.conv_proj_q = ConvProjection(channels, stride=1)
        self.conv_proj_k = ConvProjection(channels, stride=2)
        self.conv_proj_v = ConvProjection(channels, stride=2)
        self.proj_q = nn.Linear(channels, channels)
        self.proj_k = nn.Linear(channels, channels)
        self.proj_v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, grid: Tensor, context: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """grid (B, C, h, w) -> tokens (B, h * w, C) and this image's own keys and values."""
        queries = split_heads(self.proj_q(self.conv_proj_q(grid)), self.heads)
        keys = split_heads(self.proj_k(self.conv_proj_k(grid)), self.heads)
        values = split_heads(self.proj_v(self.conv_proj_v(grid)), self.heads)
        mixed = mixed_attention(queries, (keys, values), context, self.scale)
        return self.proj(join_heads(mixed)), (keys, values)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, QuickGELU())

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], context: KeysValues | None
    ) -> tuple[Tensor, KeysValues]:
        attended, own = self.attn(to_grid(self.norm1(tokens), grid), context)
        tokens = tokens + self.drop_path(attended)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens))), own


class ConvEmbedding(nn.Module):
    """Strided convolution and layer norm: (B, C_in, H, W) -> tokens (B, h * w, C) and their grid (h, w)."""

    def __init__(self, in_channels: int, stage: Stage) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, stage.channels, stage.kernel, stage.stride, stage.padding)
        self.norm = nn.LayerNorm(stage.channels)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        grid = self.proj(image)
        return self.norm(to_tokens(grid)), (grid.shape[-2], grid.shape[-1])


class CvtStage(nn.Module):
    """Token embedding and blocks of one stage."""

    def __init__(self, in_channels: int, stage: Stage) -> None:
        super().__init__()
        self.patch_embed = ConvEmbedding(in_channels, stage)
        rates = torch.linspace(0, stage.drop_path, stage.blocks).tolist()
        self.blocks = nn.ModuleList(Block(stage.channels, stage.heads, rate) for rate in rates)

    def forward(
        self, image: Tensor, context: tuple[KeysValues, ...] | None
    ) -> tuple[Tensor, list[KeysValues]]:
        tokens, grid = self.patch_embed(image)
        keys_values = []
        for index, block in enumerate(self.blocks):
            tokens, own = block(tokens, grid, None if context is None else context[index])
            keys_values.append(own)
        return to_grid(tokens, grid), keys_values


class CvtMix(MixBackbone):
    """One-stream CvT for a query view z and a search map x.

    Images are (B, 3, H, W), RGB in 0..1, of any size from 16 px; z and x may differ in size. A pyramid holds
    the raw outputs of the stages, for CvT-13 (B, 64, H/4, W/4), (B, 192, H/8, W/8), (B, 384, H/16, W/16).
    """

    def __init__(self, stages: tuple[Stage, ...] = CVT13) -> None:
        super().__init__()
        self.channels = tuple(stage.channels for stage in stages)
        self.multiple_px = math.prod(stage.stride for stage in stages)
        self.depths = tuple(stage.blocks for stage in stages)
        for index, (in_channels, stage) in enumerate(zip((3, *self.channels), stages, strict=False)):
            self.add_module(f"stage{index}", CvtStage(in_channels, stage))
        self.apply(_initialise)

    def run(
        self, image: Tensor, context: tuple[KeysValues, ...] | None
    ) -> tuple[tuple[Tensor, ...], tuple[KeysValues, ...]]:
        pyramid: list[Tensor] = []
        keys_values: list[KeysValues] = []
        for index, depth in enumerate(self.depths):
            first = len(keys_values)
            stage_context = None if context is None else context[first : first + depth]
            image, own = self.get_submodule(f"stage{index}")(image, stage_context)
            pyramid.append(image)
            keys_values += own
        return tuple(pyramid), tuple(keys_values)


def _initialise(module: nn.Module) -> None:
    """Linear layers as in the paper's code; convolutions and norms keep PyTorch's defaults."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def load_cvt_zoo(backbone: CvtMix, state: Mapping[str, Tensor]) -> None:
    """Load an image-classification checkpoint of the CvT model zoo.

    The class token, the final norm, the classifier and the batch counters have no place here and are ignored;
    all else must fit exactly, else GeolocError.
    """
    ignored = ("norm.", "head.")
    wanted = {
        key: value
        for key, value in state.items()
        if not key.startswith(ignored) and not key.endswith((".cls_token", ".num_batches_tracked"))
    }
    own = backbone.state_dict()
    missing = sorted(own.keys() - wanted.keys())
    unknown = sorted(wanted.keys() - own.keys())
    misfits = sorted(key for key in own.keys() & wanted.keys() if own[key].shape != wanted[key].shape)
    for words, keys in (("lacks", missing), ("has an unknown", unknown), ("has a wrong shape for", misfits)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise GeolocError(
                f"The CvT checkpoint {words} {keys[0]}{more}: give a CvT-13 file of the CvT model zoo."
            )
    backbone.load_state_dict(wanted)
