# SPDX-License-Identifier: Apache-2.0
"""`geoloc report` on what `geoloc evaluate` wrote, with a stand-in for the network."""

import json
from pathlib import Path

import pytest

from geoloc_models.engines import EngineSpec, choice
from geoloc_ros.cli.main import main
from geoloc_ros.core.evaluation.baselines.ncc import NccEngine

LIKE = EngineSpec("net", "cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.4, 1.0))


@pytest.fixture(scope="module")
def reports(small_flight: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same flight twice, the second time from a worse prior and only half of it."""
    root = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "TorchEngine", lambda *_, **__: NccEngine(LIKE))
        for name, options in {"whole": [], "half": ["--prior-noise", "20", "--frames", "12"]}.items():
            assert main(["evaluate", str(small_flight), "--out", str(root / name), *options]) == 0
    return [root / "whole", root / "half"]


def test_table_page_and_warnings(reports: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *map(str, reports), "--out", str(tmp_path / "out")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "MA@20" in output
    assert "Not the same prior noise: half has 20.0, whole 30.0." in output
    assert "12 of 24 stamps are in both half and whole" in output
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<image href=" in page  # the flight's own map, found again
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text())
    whole = json.loads((reports[0] / "report.json").read_text())
    assert figures["runs"][0]["figures"]["median_error_m"] == whole["median_error_m"]


def test_limits_decide_the_exit_status(reports: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    whole, half = map(str, reports)
    # Half of the frames share the two that wait for confirmation.
    assert main(["report", whole, half, "--max-worse", "availability=0.5"]) == 0
    assert main(["report", whole, half, "--max-worse", "availability=0.01"]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "too much worse: half: available went from" in output
    assert "the limit is 0.01" in output
    assert main(["report", half, whole, "--max-worse", "availability=0"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["WHOLE"], "give two or more"),
        (["WHOLE", "WHOLE"], "given twice"),
        (["WHOLE", "nowhere"], "nowhere cannot be read"),
        (["WHOLE", "HALF", "--max-worse", "speed=1"], "no figure 'speed'"),
        (["WHOLE", "HALF", "--out", "OUT", "--map", "missing.tif"], "missing.tif"),
    ],
)
def test_mistakes_end_in_one_line(
    reports: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    places = {"WHOLE": str(reports[0]), "HALF": str(reports[1]), "OUT": str(tmp_path)}
    assert main(["report", *(places.get(argument, argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
