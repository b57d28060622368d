# SPDX-License-Identifier: Apache-2.0
"""`geoloc bag`, and `geoloc evaluate` on bags, with a stand-in for the network."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoloc_models.engines import EngineSpec, choice
from geoloc_ros.cli.main import main
from geoloc_ros.core.bags.bag_writer import write_bag
from geoloc_ros.core.evaluation.baselines.ncc import NccEngine
from geoloc_ros.core.recording.flight_folder import Flight

LIKE = EngineSpec("net", "cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.4, 1.0))


class Interrupted(NccEngine):
    """Somebody presses Ctrl-C in the seventh frame."""

    def __init__(self) -> None:
        super().__init__(LIKE)
        self._calls = 0

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Any:
        self._calls += 1
        if self._calls == 8:  # the first is the warm-up
            os.kill(os.getpid(), signal.SIGINT)
        return super().infer(query, search_map)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Template matching where the network would be: the commands are under test, not the weights."""
    monkeypatch.setattr(choice, "TorchEngine", lambda *_, **__: NccEngine(LIKE))


def figures(path: Path) -> dict[str, Any]:
    """What is the same on every machine and for every form of a flight."""
    return timeless(json.loads(path.read_text()))


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    other = ("flight", "topics", "notes")
    return {
        key: [timeless(run) for run in value] if key == "runs" else value
        for key, value in values.items()
        if "latency" not in key and key not in other
    }


@pytest.mark.parametrize("form", [[], ["--format", "sqlite3", "--compression", "file"]])
def test_a_bag_gives_the_figures_of_its_flight(
    small_flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    bag = tmp_path / "bag"
    assert main(["bag", "from-flight", str(small_flight), "--out", str(bag), *form]) == 0
    arguments = ["--prior-noise", "10", "--seed", "3", "--map", str(small_flight / "map.tif"), "--json"]
    assert main(["evaluate", str(small_flight), *arguments, str(tmp_path / "flight.json")]) == 0
    assert main(["evaluate", str(bag), *arguments, str(tmp_path / "bag.json")]) == 0
    assert figures(tmp_path / "bag.json") == figures(tmp_path / "flight.json")
    assert json.loads((tmp_path / "bag.json").read_text())["topics"]["image"] == "/camera/image/compressed"
    assert "truth: /truth (sensor_msgs/msg/NavSatFix, 24 messages), the only NavSatFix" in capsys.readouterr().err


def test_there_and_back(small_flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, back = tmp_path / "bag", tmp_path / "back"
    assert main(["bag", "from-flight", str(small_flight), "--out", str(bag), "--loop", "2"]) == 0
    assert main(["bag", "to-flight", str(bag), "--out", str(back), "--map", str(small_flight / "map.tif")]) == 0
    flight, twice = Flight.open(small_flight), Flight.open(back)
    assert len(twice) == 2 * len(flight)
    assert (back / "map.tif").read_bytes() == (small_flight / "map.tif").read_bytes()
    for index in (0, 5, 23):
        for read in (twice[index], twice[2 * len(flight) - 1 - index]):
            assert read.encoded == flight[index].encoded
            assert read.quaternion == flight[index].quaternion
    steps_s = np.diff([twice.stamp_s(index) for index in range(len(twice))])
    np.testing.assert_allclose(steps_s, 0.5, atol=1e-5)
    assert "48 frames" in capsys.readouterr().out


def test_check_tells_and_exits(small_flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flight = Flight.open(small_flight)
    write_bag(tmp_path / "good", flight)
    assert main(["bag", "check", str(tmp_path / "good"), "--json", str(tmp_path / "check.json")]) == 0
    output = capsys.readouterr().out
    assert "24 images: 24 with attitude, 24 with height, 24 with truth" in output
    assert "fit for `geoloc evaluate`" in output
    assert json.loads((tmp_path / "check.json").read_text())["usable"] is True
    assert main(["bag", "check", str(tmp_path / "good"), "--topic", "image=/front"]) == 2
    assert "no image topic /front; it has /camera/image/compressed" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_scored(
    small_flight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bag(tmp_path / "bag", Flight.open(small_flight))
    monkeypatch.setattr(choice, "TorchEngine", lambda *_, **__: Interrupted())
    arguments = ["--map", str(small_flight / "map.tif"), "--out", str(tmp_path / "out"), "--baseline", "ncc"]
    arguments += ["--prior-noise", "10"]
    assert main(["evaluate", str(tmp_path / "bag"), *arguments, "--json", str(tmp_path / "part.json")]) == 130
    part = json.loads((tmp_path / "part.json").read_text())
    assert part["partial"] is True
    assert 5 <= part["frames"] <= 7
    assert len(part["runs"]) == 1, "what comes after is left out"
    assert "partial" in (tmp_path / "out" / "report.html").read_text()
    assert f"stopped after {part['frames']} frames" in capsys.readouterr().err


def test_a_cut_off_bag_is_scored_as_far_as_it_goes(small_flight: Path, tmp_path: Path) -> None:
    write_bag(tmp_path / "bag", Flight.open(small_flight))
    (file,) = (tmp_path / "bag").glob("*.mcap")
    file.write_bytes(file.read_bytes()[: int(0.8 * file.stat().st_size)])
    arguments = ["--map", str(small_flight / "map.tif"), "--prior-noise", "10", "--json", str(tmp_path / "cut.json")]
    assert main(["evaluate", str(file), *arguments]) == 0
    cut = json.loads((tmp_path / "cut.json").read_text())
    assert 5 < cut["frames"] < 24
    assert "cut off" in cut["note"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bag", "from-flight", "nowhere", "--out", "TMP/new"], "no flight folder"),
        (["bag", "from-flight", "FLIGHT", "--out", "TMP"], "exists already"),
        (["bag", "from-flight", "FLIGHT", "--out", "TMP/new", "--loop", "0"], "--loop 0"),
        (["bag", "to-flight", "FLIGHT", "--out", "TMP/new"], "flight folder already"),
        (["bag", "to-flight", "TMP/bag", "--out", "FLIGHT"], "holds a flight already"),
        (["bag", "to-flight", "TMP/blind", "--out", "TMP/new"], "nothing to score with"),
        (["bag", "check", "FLIGHT"], "no rosbag2"),
        (["evaluate", "TMP/bag"], "--map"),
        (["evaluate", "TMP/blind", "--map", "MAP"], "no topic for truth"),
        (["evaluate", "TMP/bag", "--map", "FAR"], "km from the centre"),
    ],
)
def test_mistakes_end_in_one_line(
    small_flight: Path, tmp_path: Path, write_texture: Any, capsys: pytest.CaptureFixture[str],
    arguments: list[str], words: str,
) -> None:  # fmt: skip
    frames = list(Flight.open(small_flight).frames(0, 2))
    write_bag(tmp_path / "bag", frames)
    write_bag(tmp_path / "blind", [dataclasses.replace(frame, truth=None) for frame in frames])
    names = {
        "FLIGHT": str(small_flight), "TMP": str(tmp_path), "MAP": str(small_flight / "map.tif"),
        "FAR": str(write_texture(tmp_path / "far.tif", 1)),
    }  # fmt: skip
    for name, path in names.items():
        arguments = [argument.replace(name, path, 1) for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1]
    assert error[-1].startswith("geoloc: ")
