# SPDX-License-Identifier: Apache-2.0
"""Named networks; a preset is a line of data. `build(name)` makes one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

Network = CompactMixFusion | MixFusion
"""All have `multiple_px`, take (query, search map) and give logits whose nodes span the map from edge to edge."""


@dataclass(frozen=True)
class MixPreset:
    """One Mix-Fusion network with the image sizes and the loss (spec 3.1) that it is meant for.

    width: channels between neck and head. positive_cells, negative_weight: R and w_neg of the loss.
    """

    backbone: Literal["cvt13", "vits14"]
    neck: Literal["ccn", "fpn", "pyramid"]
    head: Literal["avg", "linear", "gem", "gc", "gc_mean"]
    width: int
    upsample: Literal["nearest", "bilinear"] | None
    query_px: int
    map_px: int
    positive_cells: int
    negative_weight: float
    source: str


TABLE_V = MixPreset(
    backbone="cvt13",
    neck="ccn",
    head="avg",
    width=128,
    upsample=None,
    query_px=128,
    map_px=384,
    positive_cells=1,
    negative_weight=15.0,
    source="paper, table V",
)
"""The paper's study of structures: logits at stride 16."""

PRESETS: dict[str, MixPreset] = {
    "mix_cvt13_ccn_avg": TABLE_V,
    "mix_cvt13_ccn_linear": replace(TABLE_V, head="linear"),
    "mix_cvt13_ccn_gem": replace(TABLE_V, head="gem"),
    "mix_cvt13_ccn_gc": replace(TABLE_V, head="gc"),
    "mix_cvt13_fpn_linear": MixPreset(
        backbone="cvt13",
        neck="fpn",
        head="linear",
        width=128,
        upsample="nearest",
        query_px=128,
        map_px=384,
        positive_cells=31,
        negative_weight=130.0,
        source="paper, table VII, the best",
    ),
    "mix_vits14_pyramid_gc": MixPreset(
        backbone="vits14",
        neck="pyramid",
        head="gc_mean",
        width=64,
        upsample=None,
        query_px=126,
        map_px=378,
        positive_cells=9,
        negative_weight=130.0,
        source="ours, from DINOv2",
    ),
}


def build(name: str, backbone_weights: Path | None = None) -> Network:
    """The network of a preset, with random weights or with its backbone's from a CvT model zoo or DINOv2 file.

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
        return FeaturePyramid(channels, preset.width)
    return (ChannelConvert if preset.neck == "ccn" else SimplePyramid)(channels[-1], preset.width)


def _head(preset: MixPreset) -> nn.Module:
    if preset.head == "avg":
        return AveragePool()
    if preset.head == "linear":
        return LinearChain(
            (preset.width, 64, 16, 1) if preset.neck == "fpn" else (preset.width, 64, 32, 8, 1)
        )
    if preset.head == "gem":
        return SoftmaxPool(preset.width)
    if preset.head == "gc":
        return GroupCorrelation(preset.width)
    return GroupCorrelation(preset.width, projected=32, scale=1.0, mean=True)


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
