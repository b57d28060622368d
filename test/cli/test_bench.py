# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench` end to end on a small map with a stand-in for the network."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_ros.cli import bench
from geoloc_ros.cli.main import main


class CentreEngine:
    """Sees every query in the middle of its map."""

    query_px, map_multiple_px, gsd_range_m = 64, 32, (0.3, 1.0)
    weights_id, device = "none", "cpu"

    def __init__(self, *_: object, **__: object) -> None:
        self.seen: list[tuple[int, ...]] = []

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """A single hot node."""
        assert query.shape == (64, 64, 3)
        logits = np.full((search_map.shape[0] // 4 + 1,) * 2, -20.0, np.float32)
        logits[logits.shape[0] // 2, logits.shape[1] // 2] = 0.0
        return heatmap_from_logits(logits, 4.0)


@pytest.fixture
def small_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 1200 px map, no network and no change of this process's cores."""
    monkeypatch.setattr(bench, "MAP_PX", 1200)
    monkeypatch.setattr(bench, "TorchEngine", CentreEngine)
    monkeypatch.setattr(bench, "keep_to_cores", lambda cores: None)


@pytest.mark.usefixtures("small_bench")
def test_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--out", str(tmp_path), "--frames", "3"]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["frames"] == 3
    assert set(report["stages_ms"]) == {*bench.BESIDE_NETWORK, "decode raw", "network"}
    assert all(0.0 <= stage["p50"] <= stage["p95"] for stage in report["stages_ms"].values())
    # The sum is at least that of the quickest stages, and the network is not in it.
    assert report["beside_network_ms"]["p50"] > report["stages_ms"]["decode JPEG"]["p50"]
    assert "pre- and post-processing together, network aside" in capsys.readouterr().out
    with rasterio.open(tmp_path / "map_1200.tif") as source:
        assert (source.width, source.overviews(1)) == (1200, [2, 4])
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    # The map stays for the next time.
    before = (tmp_path / "map_1200.tif").stat().st_mtime_ns
    assert main(["bench", "--out", str(tmp_path), "--frames", "2"]) == 0
    assert (tmp_path / "map_1200.tif").stat().st_mtime_ns == before


def test_impossible_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--out", str(tmp_path), "--frames", "0"]) == 2
    assert "at least 2 frames" in capsys.readouterr().err
