# SPDX-License-Identifier: Apache-2.0
"""timm's networks (Wightman, "PyTorch Image Models", Apache-2.0), also if torchvision lacks its compiled operators."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from geoloc_models.errors import GeolocError

REMEDY = "run: pip install --no-deps timm==1.0.31 torchvision==0.28.0"


@cache
def import_timm() -> Any:
    """The module timm; GeolocError if it or torchvision, which it imports, is not installed."""
    try:
        import_torchvision()
        return importlib.import_module("timm")
    except ImportError as error:
        raise GeolocError(f"This network needs timm ({error}); {REMEDY}") from error


def import_torchvision() -> None:
    """Import torchvision; timm needs its transforms but none of its compiled operators.

    The CPU build of torchvision is on no package registry, and the CUDA build cannot load its operators beside a CPU
    build of torch: the import then fails where it describes `nms`. With the operators' signatures declared it succeeds,
    and only calling them fails. If the plain import works, nothing is declared.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            _SIGNATURES.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


_SIGNATURES = torch.library.Library("torchvision", "FRAGMENT")
"""Declarations live as long as this object does."""


@dataclass(frozen=True)
class Source:
    """The network of timm, the level that is read (as `forward_intermediates` counts them), and its stride."""

    name: str
    level: int
    stride_px: int
    options: Mapping[str, Any] | None = None


STREAMS: dict[str, Source] = {
    "resnet50": Source("resnet50", level=2, stride_px=8),
    "efficientnet_b5": Source("tf_efficientnet_b5", level=4, stride_px=32),
    "convnext_t": Source("convnext_tiny", level=2, stride_px=16),
    "vit_s": Source("vit_small_patch16_224", level=11, stride_px=16, options={"dynamic_img_size": True}),
    "vit_b": Source("vit_base_patch16_224", level=11, stride_px=16, options={"dynamic_img_size": True}),
    "deit_s": Source("deit_small_patch16_224", level=11, stride_px=16, options={"dynamic_img_size": True}),
    "pvt_s": Source("twins_pcpvt_small", level=3, stride_px=32),
}
"""Backbones of table VIII besides CvT-13, by our name, at the levels that the published configurations read.

ResNet50 is read at stride 8 and ConvNeXt-T at stride 16; the published networks also compute the later stages, which
nothing reads and which are left out here: the paper counts 47.2 M and 55.7 M parameters with them. timm has no
first-version PVT-S. PCPVT-S (Chu et al., "Twins", NeurIPS 2021) is that network, same widths, depths and reductions,
with its learned positions replaced by depthwise convolutions, so it accepts images of any size.
"""


class TimmStream(nn.Module):
    """One level of a network of timm, for one image.

    Images are (B, 3, H, W), RGB in 0..1 and, as in the published code, not standardised. Transformers end in their
    final norm, and positions are resampled to the image's grid.
    """

    def __init__(self, backbone: str) -> None:
        """backbone: one of STREAMS."""
        super().__init__()
        source = STREAMS[backbone]
        self.timm_name = source.name
        self.level = source.level
        self.multiple_px = source.stride_px
        model = import_timm().create_model(source.name, num_classes=0, **(source.options or {}))
        self.channels: tuple[int, ...] = (model.feature_info[source.level]["num_chs"],)
        self.norm = isinstance(getattr(model, "norm", None), nn.LayerNorm) and source.name.startswith(("vit", "deit"))
        model.prune_intermediate_layers([source.level], prune_norm=not self.norm, prune_head=True)
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """image: (B, 3, H, W) -> one level (B, C, H / multiple_px, W / multiple_px)."""
        height, width = image.shape[-2:]
        if height % self.multiple_px or width % self.multiple_px:
            raise GeolocError(
                f"An image of {width}x{height} px is no multiple of {self.multiple_px} px, the stride of "
                f"{self.timm_name}: give sides that are."
            )
        (level,) = self.model.forward_intermediates(
            image, indices=[self.level], norm=self.norm, stop_early=True, intermediates_only=True
        )
        return (level,)


def load_timm(stream: TimmStream, state: Mapping[str, Tensor]) -> None:
    """Load a classification checkpoint with timm's names: everything that the stream has must be present and fit, else
    GeolocError; the stages and the classifier that it omits are ignored.
    """
    own = stream.model.state_dict()
    for key, value in own.items():
        if key not in state or state[key].shape != value.shape:
            found = "is missing" if key not in state else f"has the shape {tuple(state[key].shape)}"
            raise GeolocError(f"Not weights of {stream.timm_name}: {key} {found}; give timm's file of that name.")
    stream.model.load_state_dict({key: state[key] for key in own})
