# SPDX-License-Identifier: Apache-2.0
"""Named networks; a preset is a line of data. `build(name)` makes one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geoloc_models.backbones.cvt import CvtMix, load_cvt_zoo
from geoloc_models.backbones.vit import VitMix, load_dinov2
from geoloc_models.drl.compact import CompactMixFusion
from geoloc_models.drl.heads import AveragePool, GroupCorrelation, LinearChain, SoftmaxPool
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import ChannelConvert, FeaturePyramid, SimplePyramid
from geoloc_models.errors import GeolocError

WIDTH = 128
"""Channels between neck and head, in all published networks."""


@dataclass(frozen=True)
class MixPreset:
    """One Mix-Fusion network with the image sizes and the loss (spec 3.1) that it is meant for."""

    backbone: Literal["cvt13", "vits14"]
    neck: Literal["ccn", "fpn", "pyramid"]
    head: Literal["avg", "linear", "gem", "gc", "gc_mean"]
    upsample: Literal["nearest", "bilinear"] | None
    query_px: int
    map_px: int
    positive_cells: int
    negative_weight: float
    source: str


PRESETS: dict[str, MixPreset] = {
    "mix_cvt13_fpn_linear": MixPreset(
        "cvt13", "fpn", "linear", "nearest", 128, 384, 31, 130.0, "paper, table VII, best"
    ),
    "mix_cvt13_ccn_avg": MixPreset("cvt13", "ccn", "avg", None, 128, 384, 1, 15.0, "paper, table V"),
    "mix_cvt13_ccn_linear": MixPreset("cvt13", "ccn", "linear", None, 128, 384, 1, 15.0, "paper, table V"),
    "mix_cvt13_ccn_gem": MixPreset("cvt13", "ccn", "gem", None, 128, 384, 1, 15.0, "paper, table V"),
    "mix_cvt13_ccn_gc": MixPreset("cvt13", "ccn", "gc", None, 128, 384, 1, 15.0, "paper, table V"),
    "mix_vits14_pyramid_gc": MixPreset(
        "vits14", "pyramid", "gc_mean", None, 126, 378, 9, 130.0, "ours, from DINOv2"
    ),
}


def build(name: str, backbone_weights: Path | None = None) -> nn.Module:
    """The network of a preset, with random weights or its backbone's from a file of the CvT model zoo or of
    DINOv2.

    Every network maps (query, search map), RGB 0..255, to logits. GeolocError: unknown name, unfit weights.
    """
    if name == "mix_compact":
        if backbone_weights is not None:
            raise GeolocError("mix_compact has no pretrained backbone: leave the backbone weights out.")
        return CompactMixFusion()
    if name not in PRESETS:
        raise GeolocError(f"No preset is called {name!r}: take one of mix_compact, {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    backbone: CvtMix | VitMix = CvtMix() if preset.backbone == "cvt13" else VitMix()
    if backbone_weights is not None:
        state = _read(backbone_weights)
        if isinstance(backbone, CvtMix):
            load_cvt_zoo(backbone, state)
        else:
            load_dinov2(backbone, state)
    correlates = preset.head.startswith("gc")
    return MixFusion(
        backbone,
        _neck(preset, backbone.channels),
        _head(preset),
        query_neck=_neck(preset, backbone.channels) if correlates else None,
        upsample=preset.upsample,
    )


def _neck(preset: MixPreset, channels: tuple[int, ...]) -> nn.Module:
    if preset.neck == "fpn":
        return FeaturePyramid(channels, WIDTH)
    return (ChannelConvert if preset.neck == "ccn" else SimplePyramid)(channels[-1], WIDTH)


def _head(preset: MixPreset) -> nn.Module:
    if preset.head == "avg":
        return AveragePool()
    if preset.head == "linear":
        return LinearChain((WIDTH, 64, 16, 1) if preset.neck == "fpn" else (WIDTH, 64, 32, 8, 1))
    if preset.head == "gem":
        return SoftmaxPool(WIDTH)
    if preset.head == "gc":
        return GroupCorrelation(WIDTH)
    return GroupCorrelation(WIDTH, projected=64, scale=1.0, mean=True)


def _read(path: Path) -> Mapping[str, Tensor]:
    """A state dictionary from safetensors or from a PyTorch file of tensors only."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except FileNotFoundError as error:
        raise GeolocError(f"No weights at {path}: give a file that exists.") from error
    except (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise GeolocError(
            f"{path} is not a readable weights file ({type(error).__name__}): fetch it again."
        ) from error
