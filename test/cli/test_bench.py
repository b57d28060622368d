# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench engines` and `stages` end to end with the small network on a small map, and the guard."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from geoloc_models.engines.choice import processor_of
from geoloc_models.errors import GeolocError
from geoloc_models.weights import load_weights
from geoloc_ros.cli.bench import engine_processes, measuring, stage_flight
from geoloc_ros.cli.bench.engine_guard import Guard
from geoloc_ros.cli.main import main


def guard_file(path: Path, ratio: float, **more: Any) -> Path:
    row = {"engine": "torch-float32", "device": "cpu", "batch": 1, "map": "cached", "ratio_to_plain": ratio}
    report = {"processors": {"cpu": processor_of("cpu")}, "engines": [row], **more}
    path.write_text(json.dumps(report), encoding="utf-8")
    return path


@pytest.fixture
def small_bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A 1200 px map, no engines of the user's, and no change of this process's cores."""
    monkeypatch.setattr(stage_flight, "MAP_PX", 1200)
    monkeypatch.setattr(measuring, "keep_to_cores", lambda cores: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("small_bench")
def test_tables_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, guard = tmp_path / "out", guard_file(tmp_path / "guard.json", 1000.0)
    settings = ["--weights", "mix_compact", "--device", "cpu", "--cores", "1"]
    engines = ["--rounds", "2", "--engines", "torch-float32", "onnx-float32"]
    # Nothing keeps up with a thousand times: the guard speaks.
    assert main(["bench", "engines", "--out", str(out), "--guard", str(guard), *settings, *engines]) == 1
    report = json.loads((out / "engines.json").read_text())
    printed = capsys.readouterr().out
    assert "below the guard's limits, measured again: torch-float32" in printed
    assert "worse: torch-float32 on cpu, 1 cached map:" in printed
    assert "worse: plain" not in printed

    rows = {(row["engine"], row["batch"], row["map"]): row for row in report["engines"]}
    modes = [(1, "new"), (1, "cached"), (32, "new")]
    assert list(rows) == [(engine, *mode) for engine in ("plain-float32", "torch-float32") for mode in modes]
    for (engine, batch, _), row in rows.items():
        assert row["device"] == "cpu"
        assert 0.0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["per_second"] == pytest.approx(1e3 * batch / row["p50_ms"], rel=0.01)
        # PyTorch alone is more than 100 MB; whoever counts its own process's parent has far more.
        assert 100.0 < row["peak_mb"] < 1500.0
        assert row["max_logit_error"] < 1e-4
        if engine == "plain-float32":
            assert row["ratio_to_plain"] == 1.0
            assert row["max_logit_error"] == 0.0
    assert rows["torch-float32", 1, "cached"]["ratio_to_plain"] > rows["torch-float32", 1, "new"]["ratio_to_plain"]
    assert rows["torch-float32", 32, "new"]["peak_mb"] >= rows["torch-float32", 1, "new"]["peak_mb"]
    (missing,) = report["missing"]
    assert missing["engine"] == "onnx-float32"
    assert "geoloc export" in missing["reason"]
    assert missing["reason"] in printed

    assert main(["bench", "stages", "--out", str(out), "--frames", "3", *settings]) == 0
    assert "all but the network" in capsys.readouterr().out
    (stages,) = json.loads((out / "stages.json").read_text())["stages"]
    assert set(stages["stages_ms"]) == {*stage_flight.BESIDE_NETWORK, "decode raw", "network", "alignment"}
    assert all(0.0 <= stage["p50"] <= stage["p95"] for stage in stages["stages_ms"].values())
    # The small network has no head for it.
    assert stages["alignment_share"] == stages["stages_ms"]["alignment"]["p50"] == 0.0
    assert stages["beside_network_ms"]["p50"] > stages["stages_ms"]["decode JPEG"]["p50"]
    with rasterio.open(out / "map_1200.tif") as source:
        assert (source.width, source.overviews(1)) == (1200, [2, 4])
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    # The map stays for the next time.
    before = (out / "map_1200.tif").stat().st_mtime_ns
    assert stage_flight.map_in(out) == out / "map_1200.tif"
    assert (out / "map_1200.tif").stat().st_mtime_ns == before


@pytest.mark.usefixtures("small_bench")
def test_the_alignment_stands_beside_the_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "stages", "--out", str(tmp_path), "--frames", "3", "--device", "cpu", "--cores", "1"]) == 0
    (stages,) = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert 0.0 < stages["stages_ms"]["alignment"]["p50"] < stages["stages_ms"]["network"]["p50"]
    assert 0.0 < stages["alignment_share"] < 1.0
    assert "alignment adds" in capsys.readouterr().out


@pytest.mark.usefixtures("small_bench")
def test_a_structure_needs_no_trained_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--device", "cpu", "--rounds", "2", "--cores", "1", "--out", str(tmp_path)]
    assert main(["bench", "engines", "--structure", "mix_compact", *settings]) == 0
    report = json.loads((tmp_path / "engines_mix_compact.json").read_text())
    assert report["weights"].startswith("mix_compact-")
    assert report["weights"] != load_weights("mix_compact").id
    # Half precision that nobody can check is not exported; PyTorch needs no export.
    names = ["plain-float32", "torch-float32", "torch-bf16", "onnx-float32", "openvino-float32"]
    assert sorted({row["engine"] for row in report["engines"]}) == sorted(names)
    exact = [row for row in report["engines"] if row["engine"].endswith("float32")]
    # Logits of untrained networks are as large as they like.
    assert max(row["max_logit_error"] for row in exact) < 1e-3
    assert not list((tmp_path / "cache").rglob("engine.json"))
    assert "mix_compact" in capsys.readouterr().out


def test_an_unknown_structure_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engines", "--structure", "mix_cvt31", "--out", str(tmp_path)]) == 2
    assert "geoloc models" in capsys.readouterr().err


def test_maps_that_an_engine_has_not_seen_differ() -> None:
    rng = np.random.default_rng(0)
    scene = engine_processes.Scene(*(rng.integers(0, 256, (96, 96, 3), np.uint8) for _ in range(3)))
    new, cached, many = engine_processes.MODES
    assert len({new.maps(scene, call).tobytes() for call in range(5)}) == 5
    assert len({cached.maps(scene, call).tobytes() for call in range(5)}) == 1
    assert many.maps(scene, 3).shape == (32, 96, 96, 3)


@pytest.mark.parametrize(("ratio", "worse"), [(2.0, 0), (2.6, 0), (2.7, 1)])
def test_guard_allows_a_quarter(tmp_path: Path, ratio: float, worse: int) -> None:
    guard = Guard.read(guard_file(tmp_path / "guard.json", ratio))
    row = {"engine": "torch-float32", "device": "cpu", "batch": 1, "map": "cached", "ratio_to_plain": 2.0}
    assert len(guard.worse([row])) == worse
    # An engine that was not measured is listed in the table; it is not slower.
    assert guard.worse([row | {"engine": "other"}]) == []


def test_of_two_measurements_the_better_counts(tmp_path: Path) -> None:
    guard = Guard.read(guard_file(tmp_path / "guard.json", 2.0))
    names = {"device": "cpu", "batch": 1, "map": "cached"}
    first = [{"engine": name, "ratio_to_plain": ratio, **names} for name, ratio in (("a", 1.0), ("b", 3.0), ("c", 4.0))]
    again = [{"engine": name, "ratio_to_plain": ratio, **names} for name, ratio in (("c", 3.5), ("a", 2.0))]
    assert guard.better(first, again) == [again[1], *first[1:]]


def test_guards_file_may_be_stricter_and_belongs_to_a_processor(tmp_path: Path) -> None:
    guard = Guard.read(guard_file(tmp_path / "guard.json", 2.1, tolerance=0.01))
    row = {"engine": "torch-float32", "device": "cpu", "batch": 1, "map": "cached", "ratio_to_plain": 2.0}
    assert "it was 2.10, the limit is 2.08" in str(guard.worse([row])[0])
    guard.check_processors({"cpu": processor_of("cpu")})
    with pytest.raises(GeolocError, match="this is Abacus"):
        guard.check_processors({"cpu": "Abacus"})


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"engines": []}', '{"engines": [{}], "processors": {}}'])
def test_other_files_are_no_guard(tmp_path: Path, content: str) -> None:
    path = tmp_path / "guard.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(GeolocError, match=r"is no engines\.json"):
        Guard.read(path)


def test_impossible_numbers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "stages", "--out", str(tmp_path), "--frames", "0"]) == 2
    assert "at least 2 frames" in capsys.readouterr().err


def test_percentiles_leave_out_what_was_not_measured() -> None:
    assert measuring.percentiles([1.0, float("nan"), 3.0]) == {"p50": 2.0, "p95": 2.9, "p99": 2.98}


@pytest.mark.usefixtures("small_bench")
def test_a_search_frame_by_stage(
    small_flight: Path, small_retriever: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery, figures = tmp_path / "map.gallery", tmp_path / "search.json"
    build = ["gallery", "build", str(small_flight / "map.tif"), "--weights", str(small_retriever), "--device", "cpu"]
    assert main([*build, "--tile-m", "80", "--stride-m", "40", "--out", str(gallery)]) == 0
    command = ["bench", "search", str(small_flight), "--gallery", str(gallery), "--weights", "mix_compact"]
    command += ["--retrieval-weights", str(small_retriever), "--km2", "2", "--frames", "4", "--cores", "1"]
    assert main([*command, "--json", str(figures)]) == 0
    rows = json.loads(figures.read_text())["rows"]
    ways = ["torch, all places whole", "torch"]
    assert [(row["km2"], row["engines"]) for row in rows] == [(2.0, way) for way in ways]
    for row in rows:
        stages = row["stages_ms"]
        assert row["frames"] == 4
        parts = [stages[stage]["p50"] for stage in ("rectify", "retrieve", "crop", "network", "post")]
        assert 0.0 < max(parts) < stages["total"]["p95"]
    output = capsys.readouterr().out
    assert "2 km², torch: " in output and "the target of 1000 ms" in output
    assert "no exported engine: `geoloc export`" in output
    assert main([*command, "--frames", "0"]) == 2
    assert "give at least 1 frame" in capsys.readouterr().err
