# SPDX-License-Identifier: Apache-2.0
"""`geoloc evaluate` and `geoloc evaluate-pairs` end to end, with a stand-in for the network."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from geoloc_models.datasets.image_pairs import is_held_out
from geoloc_models.engines import Engine, EngineSpec, choice, torch_engine
from geoloc_ros.cli.main import main
from geoloc_ros.core.evaluation.baselines.ncc import NccEngine

LIKE = EngineSpec("net", "cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.4, 1.0))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Template matching where the network would be: the commands are under test, not the weights."""
    network = torch_engine.TorchEngine

    def engine(*named: Any, **options: Any) -> Engine:
        return network(*named, **options) if len(named) == 4 else NccEngine(LIKE)  # a precision makes an engine of it

    for module in (choice, torch_engine):
        monkeypatch.setattr(module, "TorchEngine", engine)


def without_times(figures: dict[str, Any]) -> dict[str, Any]:
    """All figures but the milliseconds, which no two runs share."""
    return {
        key: [without_times(run) for run in value] if key in ("runs", "sets", "methods") else value
        for key, value in figures.items()
        if key != "latency_ms"
    }


def test_flight_gives_table_json_and_report(
    small_flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(small_flight), "--prior-noise", "10", "--seed", "3", "--baseline", "ncc"]
    arguments += ["--note", "generated"]
    for name in ("a", "b"):
        outputs = ["--json", str(tmp_path / name / "figures.json"), "--out", str(tmp_path / name / "report")]
        assert main([*arguments, *outputs]) == 0
    figures, again = (json.loads((tmp_path / name / "figures.json").read_text()) for name in ("a", "b"))
    assert without_times(figures) == without_times(again)
    assert set(figures) >= {
        "frames", "median_error_m", "ma", "rds", "availability", "false_fix_rate", "latency_ms", "device",
        "weights", "nees_mean", "coverage_2sigma", "seed", "mode", "map", "note",
    }  # fmt: skip
    assert set(figures["ma"]) == {"3", "5", "10", "20", "50"}
    assert set(figures["latency_ms"]) >= {"p50", "p95"}
    assert figures["frames"] == 24
    assert figures["availability"] > 0.9
    # The same matcher twice gives the same figures under both names.
    assert [run["name"] for run in figures["runs"]] == ["geoloc", "ncc"]
    assert figures["runs"][0]["median_error_m"] == figures["runs"][1]["median_error_m"]
    for file in ("report.html", "report.json", "truth.tum", "geoloc.tum", "ncc.tum", "geoloc_errors.csv"):
        assert (tmp_path / "a" / "report" / file).stat().st_size > 0
    assert (tmp_path / "a/report/geoloc.tum").read_bytes() == (tmp_path / "b/report/geoloc.tum").read_bytes()
    output = capsys.readouterr().out
    assert "MA@10" in output
    assert "ncc" in output


def test_independent_frames_and_their_number(small_flight: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(small_flight), "--independent", "--crop", "130", "--frames", "5"]
    assert main([*arguments, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["mode"], figures["frames"], figures["crop_m"]) == ("independent", 5, 130.0)


def test_a_thinned_flight_names_its_engine_and_its_latency_by_state(
    small_flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    command = ["evaluate", str(small_flight), "--prior-noise", "5", "--engine", "torch", "--json", str(figures)]
    assert main([*command, "--every", "5", "--frames", "4"]) == 0
    seen = json.loads(figures.read_text())
    assert (seen["frames"], seen["frames_expected"], seen["left"]) == (4, 4, {"every": 5, "rate_hz": None})
    assert seen["latency_ms"]["by_state"]["TRACKING"]["p50"] > 0
    assert f"tracking, {seen['device']}" in " ".join(capsys.readouterr().out.split())
    assert main([*command, "--engine", "warp"]) == 2
    assert "no engine is called 'warp'" in capsys.readouterr().err
    assert main([*command, "--every", "0"]) == 2
    assert "give 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("alone", [False, True])
def test_errors_of_heading_and_height_are_put_in(small_flight: Path, tmp_path: Path, alone: bool) -> None:
    arguments = ["evaluate", str(small_flight), "--frames", "6", "--json", str(tmp_path / "figures.json")]
    arguments += ["--independent", "--crop", "130"] if alone else ["--prior-noise", "5"]
    errors = []
    for heading, height in (("0", "0"), ("20", "-25")):
        assert main([*arguments, "--heading-error", heading, "--height-error", height]) == 0
        figures = json.loads((tmp_path / "figures.json").read_text())
        errors.append(figures["median_error_m"] or 100.0)
    assert figures["put_in"] == {"heading_deg": 20.0, "height_percent": -25.0}
    # Template matching knows no heading: a track with it has learned nothing.
    assert figures["heading_error_deg_median"] == (None if alone else 20.0)
    assert errors[1] > 2 * errors[0]


def held_out_name() -> str:
    return next(name for name in (f"test1_1_istrain_True_{i}_0_0" for i in range(200, 299)) if is_held_out(name))


def test_settings_are_taken_and_mistakes_in_them_refused(
    small_flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    command = ["evaluate", str(small_flight), "--frames", "8", "--prior-noise", "5", "--json", str(figures)]
    nees = []
    for sigma_m in (0, 5):
        assert main([*command, "--setting", f"map.sigma_m={sigma_m}"]) == 0
        nees.append(json.loads(figures.read_text())["nees_mean"])
    assert nees[0] > 2 * nees[1] > 0
    for wrong, told in (("map.nothing=1", "there is no setting map.nothing"), ("map.sigma_m", "no NAME=VALUE")):
        assert main([*command, "--setting", wrong]) == 2
        assert told in capsys.readouterr().err


def test_pairs_give_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    image = sum(
        cv2.resize(rng.uniform(0, 60, (n, n, 3)).astype(np.float32), (512, 512), interpolation=cv2.INTER_CUBIC)
        for n in (8, 32, 128, 256)
    )
    for date in "AB":
        folder = tmp_path / "pairs" / "levir" / date
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / f"{held_out_name()}.png"), np.clip(image, 0, 255).astype(np.uint8))
    arguments = ["evaluate-pairs", str(tmp_path), "--attitude-deg", "0", "--height-percent", "0"]
    arguments += ["--baseline", "ncc", "--baseline", "ncc", "--stress", "jpeg", "--crop-m", "150", "--crop-m", "200"]
    outputs = ["--csv", str(tmp_path / "a" / "rows.csv"), "--out", str(tmp_path / "a")]
    assert main([*arguments, "--json", str(tmp_path / "a.json"), *outputs]) == 0
    assert main([*arguments, "--json", str(tmp_path / "b.json")]) == 0
    figures, again = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("a", "b"))
    assert without_times(figures) == without_times(again)
    assert [method["name"] for method in figures["sets"][0]["methods"]] == ["geoloc", "ncc"]
    assert [one["stress"] for one in figures["sets"]] == ["none", "jpeg"]
    assert figures["samples"] == 4
    assert figures["median_error_m"] < 1.0
    assert [row["at"] for row in figures["by_map_size_m"]] == [150.0, 200.0]
    assert "maps of 200 m" in figures["sets"][0]["about"]
    with (tmp_path / "a" / "rows.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 4
    errors = [float(row["error_m"]) for row in rows if (row["stress"], row["engine"]) == ("none", "ncc")]
    assert np.median(errors) == pytest.approx(figures["sets"][0]["methods"][1]["median_error_m"], rel=1e-4)
    assert {path.name for path in (tmp_path / "a").glob("*.png")} == {
        f"levir_{kind}.png" for kind in ("ma", "reliability", "kept", "by_offset", "by_map_size", "stress")
    }
    output = capsys.readouterr().out
    assert "MA@20" in output
    assert "levir under stress" in output
    # The same samples by an engine that is named.
    arguments = ["evaluate-pairs", str(tmp_path), "--weights", "mix_compact", "--engine", "torch-float32"]
    assert main([*arguments, "--device", "cpu", "--limit", "2", "--json", str(tmp_path / "c.json")]) == 0
    methods = json.loads((tmp_path / "c.json").read_text())["sets"][0]["methods"]
    assert (methods[1]["name"], methods[1]["device"]) == ("torch-float32", "cpu (torch-float32)")
    assert methods[1]["median_error_m"] < 5.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "nowhere"], "neither a flight folder"),
        (["evaluate", "FLIGHT", "--prior-noise", "-3"], "prior noise"),
        (["evaluate", "FLIGHT", "--independent", "--crop", "0"], "map crop"),
        (["evaluate", "FLIGHT", "--threads", "0"], "threads"),
        (["evaluate", "FLIGHT", "--frames", "0"], "--frames"),
        (["evaluate", "FLIGHT", "--heading-error", "200"], "out of range"),
        (["evaluate", "FLIGHT", "--height-error", "-100"], "out of range"),
        (["evaluate", "FLIGHT", "--baseline", "orb"], "ncc, ncc-pose, sift, xfeat"),
        (["evaluate", "FLIGHT", "--map", "missing.tif"], "missing.tif"),
        (["evaluate-pairs", "nowhere"], "nowhere"),
        (["evaluate-pairs", ".", "--stress", "snow"], "heading, heading-10, height-20, height-30, both, night"),
        (["evaluate-pairs", ".", "--set", "mars"], "no set 'mars'"),
        (["evaluate-pairs", ".", "--view-m", "-5"], "--view-m"),
    ],
)
def test_mistakes_end_in_one_line(
    small_flight: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    status = main([str(small_flight) if argument == "FLIGHT" else argument for argument in arguments])
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert words in error
    assert len(error.splitlines()) == 1
