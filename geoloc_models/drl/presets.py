# SPDX-License-Identifier: Apache-2.0
"""Named networks and how each is trained: every row of the paper's tables V to X, and ours.

A preset is one line of data; `build(name)` makes its network. Tables V, VIII and X were trained with w_neg 15, the rest
with 130; R follows the output's stride, 32 / stride - 1. The rows of tables VI and VII that the paper calls
its baseline differ from the Linear row of table V in w_neg alone, with the same printed accuracy.
"""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from geoloc_models.backbones.cvt import CvtMix, CvtStream, load_cvt_zoo
from geoloc_models.backbones.timm_backbone import TimmStream, load_timm
from geoloc_models.backbones.vit import VitMix, load_dinov2
from geoloc_models.drl.compact_mix_fusion import CompactMixFusion
from geoloc_models.drl.heads import (
    AttentionFusion,
    AveragePool,
    Enlarge,
    GeneralizedMean,
    GroupCorrelation,
    LinearChain,
    SoftmaxPool,
)
from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.drl.losses import PublishedLoss
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import ChannelConvert, FeaturePyramid, SimplePyramid
from geoloc_models.drl.post_fusion import PostFusion, Stream
from geoloc_models.errors import GeolocError

Network = CompactMixFusion | HybridMixFusion | MixFusion | PostFusion
"""All have `multiple_px`, take (query, search map) and give logits whose nodes span the map from edge to edge."""


@dataclass(frozen=True)
class Preset:
    """One network with the image sizes, the loss and the crops that it is trained with."""

    family: Literal["mix", "post", "compact", "hybrid"]
    """Mix-Fusion (one stream), Post-Fusion (two streams), or our networks for flight."""
    backbone: str
    """cvt13, vits14 (DINOv2), compact, compact+vits14 (with the frozen `backbones.vit_trunk`); for Post-Fusion also a
    name of `timm_backbone.STREAMS`."""
    neck: Literal["ccn", "fpn4", "fpn8", "pyramid"]
    """1x1 convolution of the last level; feature pyramid whose stride-4 or stride-8 level is read; ViT pyramid."""
    head: Literal["avg", "linear", "gem", "true_gem", "gc", "gc_mean", "caf", "saf", "caf_residual", "saf_residual"]
    source: str
    """Tables of the paper, "table V, X", or "ours"."""
    output_stride: int | None = None
    """Logits are enlarged to the map's size over this; None: as the head gives them."""
    upsample: Literal["nearest", "bilinear"] = "nearest"
    padding: bool = True
    """GC pads the map by half a kernel; otherwise positions near the border are lost."""
    shared: bool = False
    """Post-Fusion: one backbone for both streams."""
    width: int = 128
    """Channels between neck and head."""
    query_px: int = 128
    map_px: int = 384
    """Sides of the images in training, px."""
    flown_query_px: int | None = None
    """Side of the view in flight if it is larger than in training, px."""
    loss: PublishedLoss | Literal["spatial"] = "wbl"
    """`drl.losses.published_loss`, or `spatial_cross_entropy`."""
    positive_cells: int = 1
    """R: side of the square of positive cells, of the output."""
    negative_weight: float = 130.0
    """w_neg of "wbl" and "hann"."""
    rsc: str = "512-1000"
    """Sides of random scale crops, px: see `datasets.random_scale_crop.scales_from_text`."""
    warmup_batches: int = 500
    rds: float | None = None
    ma20: float | None = None
    """What the paper reports on UL14's test set."""

    @property
    def arithmetic(self) -> tuple[object, ...]:
        """Equal for presets of the same parameters and multiply-accumulates."""
        return (*self.parts, self.padding, self.query_px, self.map_px)

    @property
    def parts(self) -> tuple[object, ...]:
        """Equal for presets of the same parameters."""
        return (self.family, self.backbone, self.neck, self.head, self.width, self.shared)


_mix = partial(Preset, family="mix", backbone="cvt13", neck="ccn", head="linear")
_post = partial(Preset, family="post", backbone="cvt13", neck="ccn", head="gc", negative_weight=15)
_best = partial(_mix, neck="fpn4", output_stride=1, positive_cells=31)
_ours = partial(Preset, neck="fpn4", head="gc_mean", source="ours, ships", width=64, loss="spatial", positive_cells=7)

PRESETS: dict[str, Preset] = {
    # Table V: structures. Logits at stride 16.
    "post_cvt13_ccn_gc": _post(source="table V, VIII, X", rds=0.576, ma20=0.581),
    "post_cvt13_ccn_saf": _post(head="saf", source="table V", warmup_batches=0, rds=0.293, ma20=0.091),
    "post_cvt13_ccn_caf": _post(head="caf", source="table V", warmup_batches=0, rds=0.287, ma20=0.086),
    "mix_cvt13_ccn_avg": _mix(head="avg", source="table V", negative_weight=15, rds=0.680, ma20=0.725),
    "mix_cvt13_ccn_linear": _mix(source="table V, X", negative_weight=15, rds=0.681, ma20=0.721),
    "mix_cvt13_ccn_gem": _mix(head="gem", source="table V", negative_weight=15, rds=0.680, ma20=0.727),
    "mix_cvt13_ccn_gc": _mix(head="gc", source="table V", negative_weight=15, rds=0.670, ma20=0.711),
    # Table VI: sides of the random scale crop. The last row is table VII's first.
    "mix_cvt13_ccn_linear_rsc_512": _mix(source="table VI", rsc="512", rds=0.529, ma20=0.524),
    "mix_cvt13_ccn_linear_rsc_768": _mix(source="table VI", rsc="768", rds=0.533, ma20=0.489),
    "mix_cvt13_ccn_linear_rsc_1000": _mix(source="table VI", rsc="1000", rds=0.395, ma20=0.238),
    "mix_cvt13_ccn_linear_rsc_512_768": _mix(source="table VI", rsc="512,768", rds=0.607, ma20=0.628),
    "mix_cvt13_ccn_linear_rsc_768_1000": _mix(source="table VI", rsc="768,1000", rds=0.639, ma20=0.648),
    "mix_cvt13_ccn_linear_rsc_512_768_1000": _mix(source="table VI", rsc="512,768,1000", rds=0.671, ma20=0.703),
    "mix_cvt13_ccn_linear_rsc_512to768": _mix(source="table VI", rsc="512-768", rds=0.606, ma20=0.631),
    "mix_cvt13_ccn_linear_rsc_768to1000": _mix(source="table VI", rsc="768-1000", rds=0.592, ma20=0.574),
    "mix_cvt13_ccn_linear_rsc_512to1000": _mix(source="table VI, VII", rds=0.680, ma20=0.721),
    # Table VII: output scales, by enlarging the logits and by a feature pyramid.
    "mix_cvt13_ccn_linear_h8": _mix(source="table VII", output_stride=8, positive_cells=3, rds=0.717, ma20=0.773),
    "mix_cvt13_ccn_linear_h4": _mix(source="table VII", output_stride=4, positive_cells=7, rds=0.731, ma20=0.795),
    "mix_cvt13_ccn_linear_h2": _mix(source="table VII", output_stride=2, positive_cells=15, rds=0.728, ma20=0.788),
    "mix_cvt13_ccn_linear_h1": _mix(source="table VII", output_stride=1, positive_cells=31, rds=0.730, ma20=0.790),
    "mix_cvt13_fpn_linear_h8": _mix(neck="fpn8", source="table VII", positive_cells=3, rds=0.733, ma20=0.796),
    "mix_cvt13_fpn_linear_h4": _mix(neck="fpn4", source="table VII", positive_cells=7, rds=0.732, ma20=0.802),
    "mix_cvt13_fpn_linear_h2": _best(source="table VII", output_stride=2, positive_cells=15, rds=0.753, ma20=0.832),
    "mix_cvt13_fpn_linear": _best(source="table III, VII, IX: the best", rds=0.758, ma20=0.837),
    # Table VIII: backbones of Post-Fusion.
    "post_resnet50_ccn_gc": _post(backbone="resnet50", source="table VIII", rds=0.208, ma20=0.059),
    "post_efficientnet_b5_ccn_gc": _post(backbone="efficientnet_b5", source="table VIII", rds=0.402, ma20=0.273),
    "post_convnext_t_ccn_gc": _post(backbone="convnext_t", source="table VIII", rds=0.465, ma20=0.412),
    "post_vit_s_ccn_gc": _post(backbone="vit_s", source="table VIII", rds=0.577, ma20=0.564),
    "post_vit_b_ccn_gc": _post(backbone="vit_b", source="table VIII", rds=0.595, ma20=0.597),
    "post_deit_s_ccn_gc": _post(backbone="deit_s", source="table VIII", rds=0.597, ma20=0.604),
    "post_pvt_s_ccn_gc": _post(backbone="pvt_s", source="table VIII", rds=0.524, ma20=0.470),
    # Table IX: losses. Weighted balance is the best of table VII.
    "mix_cvt13_fpn_linear_focal": _best(source="table IX", loss="focal", warmup_batches=0, rds=0.730, ma20=0.794),
    "mix_cvt13_fpn_linear_ce": _best(source="table IX", loss="cross_entropy", rds=0.750, ma20=0.828),
    "mix_cvt13_fpn_linear_balance": _best(source="table IX", loss="balance", rds=0.654, ma20=0.676),
    # Table X: padding of GC and weight sharing.
    "post_cvt13_ccn_gc_no_padding": _post(source="table X", padding=False, rds=0.407, ma20=0.226),
    "post_cvt13_ccn_gc_shared": _post(source="table X", shared=True, rds=0.276, ma20=0.093),
    "mix_cvt13_ccn_gc_no_padding": _mix(
        head="gc", source="table X", padding=False, negative_weight=15, rds=0.571, ma20=0.493
    ),
    # Variants that the published code has and the paper does not report, or that we resolve otherwise.
    "mix_cvt13_fpn_linear_hann": _best(source="published code", loss="hann"),
    "mix_cvt13_fpn_linear_bilinear": _best(source="paper's text, section III-C", upsample="bilinear"),
    "mix_cvt13_ccn_true_gem": _mix(head="true_gem", source="paper's text, GeM", negative_weight=15),
    "post_cvt13_ccn_saf_residual": _post(head="saf_residual", source="ours", warmup_batches=0),
    "post_cvt13_ccn_caf_residual": _post(head="caf_residual", source="ours", warmup_batches=0),
    # Ours.
    "mix_vits14_ccn_linear": _mix(backbone="vits14", source="ours, from DINOv2", query_px=126, map_px=378),
    "mix_vits14_pyramid_gc": _mix(
        backbone="vits14", neck="pyramid", head="gc_mean", source="ours, from DINOv2", width=64, query_px=126,
        map_px=378, positive_cells=9,
    ),
    "mix_compact": _ours(family="compact", backbone="compact", query_px=96, map_px=288, flown_query_px=128),
    "mix_hybrid": _ours(family="hybrid", backbone="compact+vits14", flown_query_px=192),
}  # fmt: skip


def build(name: str, backbone_weights: Path | None = None) -> Network:
    """The network of a preset, with random weights or with its backbone's from an image-classification file.

    backbone_weights: a file of the CvT model zoo, of DINOv2, or of timm, by the preset's backbone; Post-Fusion starts
    both streams from it. Every network maps (query, search map), RGB 0..255, to logits. GeolocError: unknown name,
    unfit weights.
    """
    if name not in PRESETS:
        raise GeolocError(f"No preset is called {name!r}: `geoloc models` lists them.")
    preset = PRESETS[name]
    state = None if backbone_weights is None else read_state(backbone_weights)
    if preset.family == "compact":
        if state is not None:
            raise GeolocError(f"{name} has no pretrained backbone: leave the backbone weights out.")
        return CompactMixFusion()
    if preset.family == "hybrid":
        hybrid = HybridMixFusion()
        if state is not None:
            hybrid.trunk.load_dinov2(state)
        return hybrid
    return _mix_fusion(preset, state) if preset.family == "mix" else _post_fusion(preset, state)


def names_with(words: Sequence[str]) -> list[str]:
    """Presets that match all the words, each a part of the name or a whole word of the source (VII is not in VIII)."""

    def has(name: str, word: str) -> bool:
        return word in name or re.search(rf"\b{re.escape(word)}\b", PRESETS[name].source, re.I) is not None

    return [name for name in PRESETS if all(has(name, word) for word in words)]


def distinct_structures(family: str, backbones: Container[str]) -> Iterator[tuple[str, Network]]:
    """The first preset of each set of parts of a family with one of the backbones, with its network on the meta
    device (no memory, no weights).
    """
    seen = set()
    for name, preset in PRESETS.items():
        if preset.family == family and preset.backbone in backbones and preset.parts not in seen:
            seen.add(preset.parts)
            yield name, build_on_meta(name)


def build_on_meta(name: str) -> Network:
    """The network of a preset without weights, for counting and comparing shapes."""
    with torch.device("meta"):
        return build(name).to("meta")


def _mix_fusion(preset: Preset, state: Mapping[str, Tensor] | None) -> MixFusion:
    backbone: CvtMix | VitMix
    if preset.backbone == "cvt13":
        backbone = CvtMix()
        if state is not None:
            load_cvt_zoo(backbone, state)
    else:
        backbone = VitMix()
        if state is not None:
            load_dinov2(backbone, state)
    correlates = preset.head.startswith("gc")
    neck = _neck(preset, backbone.channels)
    query_neck = _neck(preset, backbone.channels) if correlates else None
    return MixFusion(backbone, neck, _head(preset), query_neck, _enlarge(preset))


def _post_fusion(preset: Preset, state: Mapping[str, Tensor] | None) -> PostFusion:
    query = _stream(preset.backbone, state)
    return PostFusion(
        query,
        None if preset.shared else _stream(preset.backbone, state),
        _neck(preset, query.channels),
        _neck(preset, query.channels),
        _head(preset),
        _enlarge(preset),
    )


def _stream(backbone: str, state: Mapping[str, Tensor] | None) -> Stream:
    if backbone == "cvt13":
        cvt = CvtStream()
        if state is not None:
            load_cvt_zoo(cvt, state)
        return cvt
    stream = TimmStream(backbone)
    if state is not None:
        load_timm(stream, state)
    return stream


def _neck(preset: Preset, channels: tuple[int, ...]) -> nn.Module:
    if preset.neck == "ccn":
        return ChannelConvert(channels[-1], preset.width)
    if preset.neck == "pyramid":
        return SimplePyramid(channels[-1], preset.width)
    return FeaturePyramid(channels, preset.width, finest=0 if preset.neck == "fpn4" else 1)


def _head(preset: Preset) -> nn.Module:
    width = preset.width
    if preset.head == "avg":
        return AveragePool()
    if preset.head == "linear":
        return LinearChain((width, 64, 32, 8, 1) if preset.neck == "ccn" else (width, 64, 16, 1))
    if preset.head == "gem":
        return SoftmaxPool(width)
    if preset.head == "true_gem":
        return GeneralizedMean()
    if preset.head == "gc":
        scale = 3e-5 if preset.family == "mix" else 1e-4
        return GroupCorrelation(width, scale=scale, padding=preset.padding)
    if preset.head == "gc_mean":
        return GroupCorrelation(width, projected=32, scale=1.0, mean=True)
    return AttentionFusion(width, joint="saf" in preset.head, residual="residual" in preset.head)


def _enlarge(preset: Preset) -> Enlarge | None:
    return None if preset.output_stride is None else Enlarge(preset.output_stride, preset.upsample)


def read_state(path: Path) -> Mapping[str, Tensor]:
    """A state dictionary from safetensors or from a PyTorch file of tensors only."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except FileNotFoundError as error:
        raise GeolocError(f"No weights at {path}: give a file that exists.") from error
    except (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise GeolocError(f"{path} is not a readable weights file ({type(error).__name__}): fetch it again.") from error
