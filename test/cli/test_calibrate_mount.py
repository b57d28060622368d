# SPDX-License-Identifier: Apache-2.0
"""`geoloc calibrate-mount`: refused in one line where nothing can be found, and what it prints."""

import importlib
from pathlib import Path

import pytest

from geoloc_models.engines import EngineSpec, torch_engine
from geoloc_ros.cli import calibrate_mount
from geoloc_ros.cli.main import main
from geoloc_ros.core.evaluation.baselines.ncc import NccEngine
from geoloc_ros.core.evaluation.mount_calibration import MountCalibration

LIKE = EngineSpec("net", "cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.4, 1.0))
FOUND = MountCalibration((1.5, -2.0, 0.25), (0.1, 0.12, 0.05), (0.7, -0.71, 0.01, 0.02), 1.1, 0.01, (0.5, -0.25), 80, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "only 0 frames could be aligned with the map; a mount needs 20 or more"),
        (["--frames", "0"], "--frames 0 leaves nothing to calibrate with"),
        (["--camera-mount", "0", "0", "0", "1"], "leave --camera-mount out"),
    ],
)
def test_nothing_to_calibrate_with_is_one_line(
    small_flight: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    importlib.import_module("geoloc_models.engines.choice")  # engines in there derive from the real one
    monkeypatch.setattr(torch_engine, "TorchEngine", lambda *_, **__: NccEngine(LIKE))  # which aligns nothing
    assert main(["calibrate-mount", str(small_flight), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("is_bag", [True, False])
def test_the_parameter_is_printed_with_its_evidence(is_bag: bool, capsys: pytest.CaptureFixture[str]) -> None:
    calibrate_mount._print(FOUND, is_bag)
    output = capsys.readouterr().out
    assert "roll    +1.50° ± 0.10°" in output
    assert "from 80 aligned frames, 3 of which contradict this" in output
    assert "1.100 ± 0.010 times the recorded one" in output
    assert "+0.50 m east and -0.25 m north" in output
    assert output.splitlines()[-1] == "camera_mount_xyzw: [0.700000, -0.710000, 0.010000, 0.020000]"
    assert ("flight folder" in output) != is_bag
