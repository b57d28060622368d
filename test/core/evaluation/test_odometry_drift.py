# SPDX-License-Identifier: Apache-2.0
"""The drift of an odometry with a known error, and the command on a small flight."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textured_plane import CAMERA, seen

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.main import main
from geoloc_ros.core.evaluation.odometry_drift import measure
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.recording.flight_folder import Flight, write_flight
from geoloc_ros.core.recording.frame import Truth


@pytest.fixture(scope="module")
def flight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eastwards at 20 m/s and 4 Hz."""
    folder, enu = tmp_path_factory.mktemp("odometry") / "east", LocalEnu(47.0, 8.0)
    frames = (
        replace(seen(east_m, 0.0, k / 4), truth=Truth(*enu.to_geodetic(east_m, 0.0), 100.0))
        for k, east_m in enumerate(np.arange(-75.0, 76.0, 5.0))
    )
    write_flight(folder, CAMERA, frames)
    return folder


class TwoPercentLong:
    """5 m east a frame, and 2 %; blind in every third."""

    def __init__(self) -> None:
        self.frames = 0

    def step(self, view: RectifiedView, stamp_s: float) -> np.ndarray | None:
        self.frames += 1
        return None if self.frames % 3 == 1 else np.array([5.1, 0.0])


def test_a_known_error_is_the_drift(flight: Path) -> None:
    drift, flown_m = measure(Flight.open(flight), TwoPercentLong(), 30.0, 0.0)
    assert flown_m == pytest.approx(150.0, rel=1e-4)
    assert drift.measured == pytest.approx(20 / 30)
    assert drift.whole == pytest.approx(2.0, abs=0.01)
    assert len(drift.stretches) == 11 and drift.stretches == pytest.approx(2.0, abs=0.1)
    assert len(drift.ms) == 31 and (drift.ms > 0).all()


def test_too_few_frames_are_reported(flight: Path) -> None:
    with pytest.raises(GeolocError, match="fewer than 3 frames"):
        measure(Flight.open(flight), TwoPercentLong(), 0.1, 0.0)


def test_the_command_compares_with_baselines(flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "drift.json"
    rates = ["--rate-hz", "2", "--attitude-error-deg", "3"]
    assert main(["bench", "odometry", str(flight), *rates, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["method"] for row in rows] == ["geoloc", "orb", "constant velocity"]
    assert rows[0]["measured"] == 1.0 and rows[0]["end_percent"] < 2.0
    assert rows[2]["measured"] == 0.0
    assert "150 m flown; refused: nothing" in capsys.readouterr().out


def test_impossible_requests_end_in_one_line(flight: Path) -> None:
    assert main(["bench", "odometry", str(flight), "--rate-hz", "0"]) != 0
    assert main(["bench", "odometry", str(flight), "--attitude-error-deg", "90"]) != 0
