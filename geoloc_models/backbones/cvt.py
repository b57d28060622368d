# SPDX-License-Identifier: Apache-2.0
"""CvT-13 for Mix-Fusion (one stream for both images) and Post-Fusion (one stream for each).

Convolutional vision transformer (Wu et al., "CvT: Introducing Convolutions to Vision Transformers", ICCV
2021), for Mix-Fusion with the asymmetric mixed attention of DRL (section III-B2). No positional embedding, so any
grid is allowed. The module names are those of the CvT model zoo, so its checkpoints load.

Differences from the classifier: no final norm and no head. In the Mix-Fusion form also no class token, which is never
used, and batch norms with constant statistics and affine part.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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
    class_token: bool = False


CVT13 = (
    Stage(channels=64, heads=1, blocks=1, kernel=7, stride=4, padding=2),
    Stage(channels=192, heads=3, blocks=2, kernel=3, stride=2, padding=1),
    Stage(channels=384, heads=6, blocks=10, kernel=3, stride=2, padding=1, drop_path=0.1),
)
CVT13_CLASS_TOKEN = (*CVT13[:2], replace(CVT13[2], class_token=True))

BatchNorm = Callable[[int], nn.Module]


class QuickGELU(nn.Module):
    """a * sigmoid(1.702 a), the activation the published weights were trained with."""

    def forward(self, a: Tensor) -> Tensor:
        return a * torch.sigmoid(1.702 * a)


class FrozenBatchNorm(nn.Module):
    """Batch norm over (B, C, h, w) with constant parameters and statistics; keys as in `nn.BatchNorm2d`."""

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
    """Depthwise 3x3 convolution, batch norm: (B, C, h, w) -> (B, ceil(h/stride) ceil(w/stride), C)."""

    def __init__(self, channels: int, stride: int, norm: BatchNorm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        self.bn = norm(channels)

    def forward(self, grid: Tensor) -> Tensor:
        return to_tokens(self.bn(self.conv(grid)))


class Attention(nn.Module):
    """Mixed attention with convolutional projections; keys and values are taken at half the resolution."""

    def __init__(self, channels: int, heads: int, norm: BatchNorm) -> None:
        super().__init__()
        self.heads = heads
        self.scale = channels**-0.5  # of the full width, not of one head, as the published weights expect
        self.conv_proj_q = ConvProjection(channels, stride=1, norm=norm)
        self.conv_proj_k = ConvProjection(channels, stride=2, norm=norm)
        self.conv_proj_v = ConvProjection(channels, stride=2, norm=norm)
        self.proj_q = nn.Linear(channels, channels)
        self.proj_k = nn.Linear(channels, channels)
        self.proj_v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, grid: tuple[int, int], context: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """tokens (B, n + h * w, C), n class tokens first, of a grid (h, w) -> the same, and this image's own keys and
        values. Class tokens bypass the convolutions.
        """
        count = tokens.shape[1] - grid[0] * grid[1]
        class_tokens, image = tokens[:, :count], to_grid(tokens[:, count:], grid)

        def project(convolve: nn.Module, linear: nn.Module) -> Tensor:
            convolved = convolve(image)
            joined = torch.cat((class_tokens, convolved), dim=1) if count else convolved
            return split_heads(linear(joined), self.heads)

        queries = project(self.conv_proj_q, self.proj_q)
        keys = project(self.conv_proj_k, self.proj_k)
        values = project(self.conv_proj_v, self.proj_v)
        mixed = mixed_attention(queries, (keys, values), context, self.scale)
        return self.proj(join_heads(mixed)), (keys, values)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, channels: int, heads: int, drop_path: float, norm: BatchNorm) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels, heads, norm)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, QuickGELU())

    def forward(self, tokens: Tensor, grid: tuple[int, int], context: KeysValues | None) -> tuple[Tensor, KeysValues]:
        attended, own = self.attn(self.norm1(tokens), grid, context)
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
    """Token embedding and blocks of one stage; a class token exists within its stage only."""

    cls_token: Tensor | None

    def __init__(self, in_channels: int, stage: Stage, norm: BatchNorm) -> None:
        super().__init__()
        self.patch_embed = ConvEmbedding(in_channels, stage)
        rates = torch.linspace(0, stage.drop_path, stage.blocks, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(stage.channels, stage.heads, rate, norm) for rate in rates)
        token = nn.Parameter(torch.zeros(1, 1, stage.channels)) if stage.class_token else None
        self.register_parameter("cls_token", token)

    def forward(self, image: Tensor, context: tuple[KeysValues, ...] | None) -> tuple[Tensor, list[KeysValues]]:
        tokens, grid = self.patch_embed(image)
        if self.cls_token is not None:
            tokens = torch.cat((self.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        keys_values = []
        for index, block in enumerate(self.blocks):
            tokens, own = block(tokens, grid, None if context is None else context[index])
            keys_values.append(own)
        return to_grid(tokens[:, -grid[0] * grid[1] :], grid), keys_values


class Cvt(nn.Module):
    """The stages of a CvT. Images are (B, 3, H, W), RGB in 0..1, of any size from 16 px.

    A pyramid holds the raw outputs of the stages, for CvT-13 (B, 64, H/4, W/4), (B, 192, H/8, W/8),
    (B, 384, H/16, W/16).
    """

    def __init__(self, stages: tuple[Stage, ...], norm: BatchNorm) -> None:
        super().__init__()
        self.channels = tuple(stage.channels for stage in stages)
        self.multiple_px = math.prod(stage.stride for stage in stages)
        self.depths = tuple(stage.blocks for stage in stages)
        for index, (in_channels, stage) in enumerate(zip((3, *self.channels), stages, strict=False)):
            self.add_module(f"stage{index}", CvtStage(in_channels, stage, norm))
        self.apply(_initialise)

    def run(
        self, image: Tensor, context: tuple[KeysValues, ...] | None
    ) -> tuple[tuple[Tensor, ...], tuple[KeysValues, ...]]:
        """Pyramid and own keys and values of an image; context: those of a query view, one pair per block."""
        pyramid: list[Tensor] = []
        keys_values: list[KeysValues] = []
        for index, depth in enumerate(self.depths):
            first = len(keys_values)
            stage_context = None if context is None else context[first : first + depth]
            image, own = self.get_submodule(f"stage{index}")(image, stage_context)
            pyramid.append(image)
            keys_values += own
        return tuple(pyramid), tuple(keys_values)


class CvtMix(Cvt, MixBackbone):
    """One-stream CvT for a query view z and a search map x, which may differ in size; its batch norms are constant."""

    def __init__(self, stages: tuple[Stage, ...] = CVT13) -> None:
        super().__init__(stages, FrozenBatchNorm)


class CvtStream(Cvt):
    """CvT for one image, with class token and ordinary batch norms."""

    def __init__(self, stages: tuple[Stage, ...] = CVT13_CLASS_TOKEN) -> None:
        super().__init__(stages, nn.BatchNorm2d)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """image: (B, 3, H, W), RGB in 0..1 -> the pyramid."""
        return self.run(image, None)[0]


def _initialise(module: nn.Module) -> None:
    """Linear layers as in the paper's code; convolutions and norms keep PyTorch's defaults."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, CvtStage) and module.cls_token is not None:
        nn.init.trunc_normal_(module.cls_token, std=0.02)


def load_cvt_zoo(backbone: Cvt, state: Mapping[str, Tensor]) -> None:
    """Load an image-classification checkpoint of the CvT model zoo.

    The final norm, the classifier and, in the Mix-Fusion form, the class token and the batch counters are ignored;
    everything else must fit exactly, else GeolocError.
    """
    own = backbone.state_dict()
    wanted = {key: value for key, value in state.items() if key in own or not _without_place(key)}
    missing = sorted(own.keys() - wanted.keys())
    unknown = sorted(wanted.keys() - own.keys())
    misfits = sorted(key for key in own.keys() & wanted.keys() if own[key].shape != wanted[key].shape)
    for words, keys in (("lacks", missing), ("has an unknown", unknown), ("has a wrong shape for", misfits)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise GeolocError(f"The CvT checkpoint {words} {keys[0]}{more}: give a CvT-13 file of the CvT model zoo.")
    backbone.load_state_dict(wanted)


def _without_place(key: str) -> bool:
    return key.startswith(("norm.", "head.")) or key.endswith((".cls_token", ".num_batches_tracked"))
