# SPDX-License-Identifier: Apache-2.0
"""The command line: help everywhere, one line and exit status 2 for the user's mistakes."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from geoloc_ros.cli.main import ALIASES, COMMANDS, build_parser, main


def every_command() -> list[list[str]]:
    """All commands, the verbs of groups included."""
    found = []
    for command in COMMANDS:
        module = importlib.import_module(f"geoloc_ros.cli.{command.replace('-', '_')}")
        found += [[command, *verb] for verb in ([[verb] for verb in getattr(module, "VERBS", ())] or [[]])]
    return found


def subparser(words: list[str]) -> argparse.ArgumentParser:
    parser = build_parser([*words, "--help"])
    for word in words:
        assert parser._subparsers is not None
        parser = parser._subparsers._group_actions[0].choices[word]  # type: ignore[index,call-overload]
    return parser


def test_help_lists_every_command_on_one_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0] for line in lines if line.startswith("    ") and line[4] != " "}
    assert listed == set(COMMANDS)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_help_imports_nothing_that_is_slow() -> None:
    slow = ("torch", "cv2", "rasterio", "numpy", "scipy", "rclpy", "matplotlib")
    for words in ([], *([command] for command in COMMANDS if [command] not in every_command())):
        program = (
            "import sys\nfrom geoloc_ros.cli.main import main\n"
            f"try: main({[*words, '--help']!r})\nexcept SystemExit: pass\n"
            f"print([name for name in {slow!r} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", words


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_and_argument_is_explained(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    assert "show this help message" in capsys.readouterr().out
    assert all(action.help for action in subparser(words)._actions)


@pytest.mark.parametrize("old", ALIASES)
def test_earlier_spellings_run_what_they_are_called_now(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for spelling in (old, ALIASES[old]):
        with pytest.raises(SystemExit) as stop:
            main([*spelling.split(), "--help"])
        assert stop.value.code == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1]
    assert pages[0].startswith(f"usage: geoloc {ALIASES[old]} ")


@pytest.mark.parametrize("words", [["bench"], ["bench", "--guard", "f"], ["sim"], ["bag", "chek"]])
def test_a_group_without_verb_names_its_verbs_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    verbs = importlib.import_module(f"geoloc_ros.cli.{words[0]}").VERBS
    assert f"geoloc {words[0]} {'|'.join(verbs)}" in error


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
    "command", ["demo", "evaluate x", "evaluate-pairs x", "sim flight x --out y", "sim world --out y"]
)
def test_a_negative_seed_is_refused(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--seed", "-1"])
    assert stop.value.code == 2
    assert "-1 is no seed; give 0 to" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_one_line_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert main(["sim", "world", "--out", str(tmp_path / "file" / "below"), "--size-m", "3000"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert str(tmp_path / "file") in error


@pytest.mark.parametrize(
    ("argument", "value"),
    [("--height-m", "nan"), ("--noise", "nan"), ("--rate-hz", "1e9"), ("--duration-s", "-1"), ("--map", "text")],
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
    arguments = ["sim", "flight", str(raster), "--out", str(flight), "--height-m", "60", "--duration-s", "1"]
    assert main([*arguments, argument, value]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert value in error or f"{float(value)}" in error
    assert not flight.exists()


@pytest.mark.parametrize("words", ["demo", "bench graph", "bench bridge"])
def test_commands_that_need_ros_end_before_any_work(words: str, tmp_path: Path) -> None:
    """As after `pip install .`; generating a world first takes a minute."""
    program = (
        "import sys\nsys.modules['rclpy'] = None\nfrom geoloc_ros.cli.main import main\n"
        f"sys.exit(main({words.split()}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"geoloc {words} needs ROS 2" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
