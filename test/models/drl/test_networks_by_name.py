# SPDX-License-Identifier: Apache-2.0
"""Any preset's weights file runs in the engine: nodes where the network has them, padding cut off."""

from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc_models import weights
from geoloc_models.drl.presets import PRESETS, build, build_on_meta
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.weights import WeightsInfo, load_weights, save_weights


@pytest.mark.parametrize(
    ("name", "stride_px", "nodes"), [("mix_vits14_pyramid_gc", 3.5, (41, 43)), ("mix_cvt13_ccn_gc", 16.0, (9, 10))]
)
def test_engine_runs_weights_of_every_kind(name: str, stride_px: float, nodes: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_weights(path, build(name), WeightsInfo(name, PRESETS[name].query_px, 0.25, 1.2, 1.0))
    engine = TorchEngine(path, device="cpu")
    rng = np.random.default_rng(0)
    query = rng.integers(0, 255, (engine.spec.query_px, engine.spec.query_px, 3), dtype=np.uint8)
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


def test_weights_of_another_preset_say_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Building all of them takes seconds.
    names = ("mix_cvt13_ccn_gc", "mix_cvt13_ccn_gem")
    monkeypatch.setattr(
        weights, "distinct_structures", lambda family, _: ((n, build_on_meta(n)) for n in names if family == "mix")
    )
    path = tmp_path / "weights.safetensors"
    network = build("mix_cvt13_ccn_gem")
    save_weights(path, network, WeightsInfo("mix_cvt13_ccn_avg", 128, 0.25, 1.2, 1.0))
    with pytest.raises(
        GeolocError, match=r"mix_cvt13_ccn_avg that they name \(head\.p\); .*look like mix_cvt13_ccn_gem$"
    ):
        load_weights(path)
    save_weights(path, network.neck, WeightsInfo("mix_compact", 128, 0.25, 1.2, 1.0))
    with pytest.raises(GeolocError, match=r"do not fit the network mix_compact .* more\); they look like no preset"):
        load_weights(path)


def test_counters_are_kept_as_they_are(tmp_path: Path) -> None:
    """Half precision ends at 65,504, and a batch norm's counter does not."""
    network = build("post_resnet50_ccn_gc")
    counters = [name for name, _ in network.named_buffers() if name.endswith("num_batches_tracked")]
    network.get_buffer(counters[0]).fill_(70_001)
    path = tmp_path / "weights.safetensors"
    save_weights(path, network, WeightsInfo("post_resnet50_ccn_gc", 128, 0.25, 1.2, 1.0))
    assert load_weights(path).model.get_buffer(counters[0]).item() == 70_001
