# SPDX-License-Identifier: Apache-2.0
"""Any preset's weights file runs in the engine: nodes where the network has them, padding cut off."""

from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc_models.drl.presets import PRESETS, build
from geoloc_models.engines.torch import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.weights import WeightsInfo, save_weights


@pytest.mark.parametrize(
    ("name", "stride_px", "nodes"),
    [("mix_vits14_pyramid_gc", 3.5, (41, 43)), ("mix_cvt13_ccn_gc", 16.0, (9, 10))],
)
def test_engine_runs_weights_of_every_kind(
    name: str, stride_px: float, nodes: tuple[int, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_weights(path, build(name), WeightsInfo(name, PRESETS[name].query_px, 0.25, 1.2, 1.0))
    engine = TorchEngine(path, device="cpu")
    rng = np.random.default_rng(0)
    query = rng.integers(0, 255, (engine.query_px, engine.query_px, 3), dtype=np.uint8)
    search_map = rng.integers(0, 255, (142, 150, 3), dtype=np.uint8)  # multiples of neither 14 nor 16
    heatmap = engine.infer(query, search_map)
    assert heatmap.stride_px == stride_px
    assert heatmap.probability.shape == nodes
    assert heatmap.probability.sum() == pytest.approx(1.0, abs=1e-4)


def test_weights_of_a_network_that_is_not_there_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, torch.nn.Linear(2, 2), WeightsInfo("mix_resnet", 128, 0.25, 1.2, 1.0))
    with pytest.raises(GeolocError, match="mix_resnet"):
        TorchEngine(path, device="cpu")
