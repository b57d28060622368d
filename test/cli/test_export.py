# SPDX-License-Identifier: Apache-2.0
"""`geoloc export` on a small flight: written, checked, listed; one line for each of the user's mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from geoloc_models.engines.choice import open_engine
from geoloc_models.engines.retriever_engine import open_retriever, retriever_id
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.weights import weights_id
from geoloc_ros.cli.main import main
from geoloc_ros.core.evaluation.engine_samples import HALF_WIDTH_M, draw_samples
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight

WEIGHTS = ("--weights", "mix_compact", "--device", "cpu", "--threads", "1")


def test_an_engine_is_written_checked_and_listed(
    small_flight: Path, small_retriever: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = ("--engine", "openvino-bf16", "--retrieval-weights", str(small_retriever))
    arguments = ["--calibrate", str(small_flight), "--frames", "3", "--out", str(tmp_path)]
    assert main(["export", *WEIGHTS, *engine, *arguments]) == 0
    told = capsys.readouterr().out
    own = weights_id("mix_compact")
    assert f"openvino-bf16 {retriever_id(small_retriever)}: passed; vectors at most" in told
    assert f"openvino-bf16 {own}: passed" in told and "views, flight on map.tif" in told
    record = json.loads((tmp_path / own / "openvino-bf16" / "engine.json").read_text())
    assert record["check"]["ma20"] == 1.0
    assert record["check"]["moved_median_m"] < 0.5
    assert open_engine("mix_compact", "cpu", 1, "openvino-bf16", tmp_path).spec.name == "openvino-bf16"
    assert open_retriever(small_retriever, "cpu", 1, "openvino-bf16", tmp_path).engine == "openvino-bf16"
    # Both have passed: nothing is left to make.
    assert main(["export", *WEIGHTS, *engine, *arguments, "--missing"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["export", *WEIGHTS, "--out", str(tmp_path), "--list"]) == 0
    told = capsys.readouterr().out
    assert "openvino-bf16: passed" in told and f"onnx-float32 was not exported for the weights {own}" in told
    assert f"for {own}" in told.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--frames", "1"), "--frames 1 checks nothing: give at least 2"),
        (("--engine", "torch-bf16"), "'torch-bf16' is no engine to export: use one of compile-float32"),
        (("--engine", "tensorrt-bf16"), "needs tensorrt"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: tuple[str, ...], text: str, small_flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--calibrate", str(small_flight), "--frames", "2", "--out", str(tmp_path), *arguments)
    assert main(["export", *WEIGHTS, *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert text in error
    assert not list(tmp_path.iterdir())


def test_samples_are_what_the_localizer_would_see(small_flight: Path) -> None:
    engine = TorchEngine("mix_compact", "cpu")
    flight = Flight.open(small_flight)
    with RasterMap(flight.map_path) as raster:
        samples = draw_samples(flight, raster, engine, 6)
        again = draw_samples(flight, raster, engine, 6)
    assert 4 <= len(samples) <= 6  # the map ends near the flight
    off_m = []
    for sample, other in zip(samples, again, strict=True):
        assert np.array_equal(sample.search_map, other.search_map)
        side = sample.search_map.shape[0]
        assert sample.query.shape == (engine.spec.query_px, engine.spec.query_px, 3)
        assert side % engine.spec.map_multiple_px == 0 and sample.search_map.shape == (side, side, 3)
        off_m.append((np.array(sample.truth_xy_px) - side / 2) * sample.gsd_m)
        # The true place is where the network finds the view.
        found = engine.infer(sample.query, sample.search_map).peak_xy_px
        assert np.hypot(*np.subtract(found, sample.truth_xy_px)) * sample.gsd_m < 3.0
    assert np.abs(off_m).max() <= HALF_WIDTH_M + 1 and np.std(off_m) > 3.0
