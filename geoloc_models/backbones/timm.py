# SPDX-License-Identifier: Apache-2.0
"""timm's networks (Wightman, "PyTorch Image Models", Apache-2.0), also where torchvision lacks its own operators."""

import importlib
from functools import cache
from typing import Any

import torch

from geoloc_models.errors import GeolocError

REMEDY = "run: pip install --no-deps timm==1.0.31 torchvision==0.28.0"


@cache
def import_timm() -> Any:
    """The module timm; GeolocError if it or torchvision, which it imports, is not installed."""
    try:
        _import_torchvision()
        return importlib.import_module("timm")
    except ImportError as error:
        raise GeolocError(f"This network needs timm ({error}); {REMEDY}") from error


def _import_torchvision() -> None:
    """Import torchvision; timm needs its transforms and nothing of its compiled operators.

    torchvision for the CPU is on no package registry, and the CUDA build cannot load its operators beside a CPU build
    of torch: the import then stops where it describes `nms`. With the operators' signatures declared it goes through,
    and only calling them fails. Where the plain import works nothing is declared.
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
