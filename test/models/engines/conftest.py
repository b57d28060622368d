# SPDX-License-Identifier: Apache-2.0
"""Generated ground, the reference engine, and a folder of exported engines."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from geoloc_models.engines.export import Sample, export
from geoloc_models.engines.torch_engine import TorchEngine

WEIGHTS = "mix_compact"  # small, and its parts are of the kinds that the default's are
EXPORTED = ("onnx-float32", "openvino-bf16", "openvino-int8")


def _ground(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Texture at several scales, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cell in (40, 12, 4):
        coarse = rng.uniform(-45, 45, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + total, 0, 255).astype(np.uint8)


def _sample(side: int, seed: int, view_px: int = 128) -> Sample:
    """A view cut from its map."""
    search_map = _ground(side, side, seed)
    top, left = (side - view_px) // 2 + 12, (side - view_px) // 2 - 8
    view = search_map[top : top + view_px, left : left + view_px]
    return Sample(view.copy(), search_map, 0.5, (left + view_px / 2, top + view_px / 2))


@pytest.fixture(scope="session")
def ground() -> Callable[..., np.ndarray]:
    """(height, width, seed=0) to an image."""
    return _ground


@pytest.fixture(scope="session")
def sample() -> Callable[..., Sample]:
    """(side, seed, view_px=128) to a sample."""
    return _sample


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    return [_sample(192, 1), _sample(256, 2)]


@pytest.fixture(scope="session")
def exact() -> TorchEngine:
    return TorchEngine(WEIGHTS, "cpu", precision="float32")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> Path:
    """A folder with the engines for processors of WEIGHTS."""
    folder = tmp_path_factory.mktemp("engines")
    for name in EXPORTED:
        export(name, WEIGHTS, folder, samples, "generated", "cpu", 1)
    return folder
