# SPDX-License-Identifier: Apache-2.0
"""The command line: help everywhere, one line and exit status 2 for the user's mistakes."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from geoloc_ros.cli.main import COMMANDS, build_parser, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("    ") and line[4] != " "}
    assert listed == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_argument_is_explained(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "show this help message" in capsys.readouterr().out
    subparsers = build_parser([command])._subparsers
    assert subparsers is not None
    parser = subparsers._group_actions[0].choices[command]  # type: ignore[index,call-overload]
    assert all(action.help for action in parser._actions)


def test_a_mistyped_command_names_the_right_ones(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["evalute"])
    assert stop.value.code == 2
    assert "evaluate-pairs" in capsys.readouterr().err


def test_a_missing_flight_is_one_line_and_exit_status_2(capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "no/such/flight"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "no/such/flight" in error


@pytest.mark.parametrize(
    "command", ["demo", "evaluate x", "evaluate-pairs x", "simulate x --out y", "world --out y"]
)
def test_a_negative_seed_is_refused(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--seed", "-1"])
    assert stop.value.code == 2
    assert "-1 is no seed; give 0 to" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").touch()
    assert main(["world", "--out", str(tmp_path / "file" / "below"), "--size-m", "3000"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert str(tmp_path / "file") in error


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--height-m", "nan"),
        ("--noise", "nan"),
        ("--rate-hz", "1e9"),
        ("--duration-s", "-1"),
        ("--map", "text"),
    ],
)
def test_an_impossible_flight_is_one_line(
    argument: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    raster = tmp_path / "map.tif"
    with rasterio.open(
        raster, "w", driver="GTiff", width=400, height=400, count=3, dtype="uint8", crs="EPSG:32632",
        transform=from_origin(460000, 5250000, 1.0, 1.0),
    ) as file:  # fmt: skip
        file.write(np.full((3, 400, 400), 90, np.uint8))
    if value == "text":
        (tmp_path / value).write_text("no raster")
        value = str(tmp_path / value)
    flight = tmp_path / "flight"
    arguments = ["simulate", str(raster), "--out", str(flight), "--height-m", "60", "--duration-s", "1"]
    assert main([*arguments, argument, value]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert value in error or f"{float(value)}" in error
    assert not flight.exists()
