# SPDX-License-Identifier: Apache-2.0
"""Rectification by PyTorch gives OpenCV's views, on the CPU and, where there is one, on the GPU."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_ros.core.evaluation.baselines.ncc import NccEngine
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rectify import rectify
from geoloc_ros.core.geometry.rectify_gpu import DeviceRectifier
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.matching import frame_view as matching

MATRIX = np.array([[490.0, 0.0, 319.5], [0.0, 490.0, 239.5], [0.0, 0.0, 1.0]])
LENSES = {
    "ideal": CameraModel(640, 480, MATRIX),
    "distorted": CameraModel(640, 480, MATRIX, (-0.12, 0.03, 1e-3, -5e-4, 0.0)),
    "fisheye": CameraModel(640, 480, MATRIX, (0.02, -0.01, 0.0, 0.0), "equidistant"),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


def image(seed: int = 0) -> np.ndarray:
    """(480, 640, 3) uint8 with detail at all scales."""
    rng = np.random.default_rng(seed)
    layers = [rng.uniform(0, 255, (480 // cell, 640 // cell, 3)).astype(np.float32) for cell in (1, 4, 16, 80)]
    return np.mean([cv2.resize(layer, (640, 480)) for layer in layers], axis=0).astype(np.uint8)


def tilted(tilt_deg: float) -> np.ndarray:
    return np.asarray(cv2.Rodrigues(np.array([math.radians(tilt_deg), 0.1, 0.0]))[0] @ nadir_rotation(30.0))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize(("tilt_deg", "gsd_m"), [(0.0, 0.2), (8.0, 0.5), (15.0, 1.1), (40.0, 0.5)])
def test_views_are_opencvs(device: str, lens: str, tilt_deg: float, gsd_m: float) -> None:
    camera, rotation = LENSES[lens], tilted(tilt_deg)
    ours = DeviceRectifier(device)(image(), camera, rotation, 100.0, gsd_m, 128)
    theirs = rectify(image(), camera, rotation, 100.0, gsd_m, 128)
    assert isinstance(ours.pixels, torch.Tensor)
    assert ours.pixels.device.type == device
    assert ours.image.dtype == np.uint8
    assert (ours.gsd_m, ours.centre_offset_enu_m, ours.coverage) == (
        theirs.gsd_m,
        theirs.centre_offset_enu_m,
        theirs.coverage,
    )
    # OpenCV samples in 32nds of a pixel and rounds at each halving.
    difference = np.abs(ours.image.astype(int) - theirs.image)
    assert difference.max() <= 4
    assert difference.mean() < 0.6


@pytest.mark.parametrize("device", DEVICES)
def test_a_frames_view_does_not_change_with_the_next(device: str) -> None:
    rectifier = DeviceRectifier(device)
    first = rectifier(image(0), LENSES["ideal"], tilted(5.0), 100.0, 0.5, 96)
    before = first.image.copy()
    second = rectifier(image(1), LENSES["ideal"], tilted(-5.0), 90.0, 0.4, 96)
    np.testing.assert_array_equal(first.image, before)
    assert np.abs(second.image.astype(int) - before).mean() > 5.0


@pytest.mark.parametrize("device", DEVICES)
def test_an_engine_takes_a_view_from_its_device(device: str) -> None:
    engine = TorchEngine("mix_compact", device, precision="float32")
    assert engine.spec.takes_tensors
    rng = np.random.default_rng(2)
    search_map = rng.integers(0, 256, (256, 256, 3), np.uint8)
    view = DeviceRectifier(device)(image(), LENSES["ideal"], tilted(0.0), 100.0, 0.6, engine.spec.query_px)
    np.testing.assert_allclose(
        engine.infer(view.pixels, search_map).probability,
        engine.infer(view.image, search_map).probability,
        rtol=1e-4,
        atol=1e-7,
    )
    # A side that needs padding is padded as ever.
    uneven = view.pixels[:-5, :-3]
    np.testing.assert_allclose(
        engine.infer(uneven, search_map).probability,
        engine.infer(uneven.cpu().numpy(), search_map).probability,
        rtol=1e-4,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    ("device", "takes_tensors", "on_device"), [("cuda:0", True, True), ("cuda:0", False, False), ("cpu", True, False)]
)
def test_views_are_made_where_the_engine_takes_them(device: str, takes_tensors: bool, on_device: bool) -> None:
    engine = NccEngine(TorchEngine("mix_compact", "cpu").spec)
    engine.spec = replace(engine.spec, device=device, takes_tensors=takes_tensors)
    assert isinstance(matching._rectifier(engine), DeviceRectifier) == on_device
