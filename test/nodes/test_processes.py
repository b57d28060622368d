# SPDX-License-Identifier: Apache-2.0
"""Nodes and the demo as processes, as users start them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import FRAMES, Spinner, call, until
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node

from geoloc_ros.cli.main import main
from geoloc_ros.core.recording.flight_folder import Flight


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes put here end with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.send_signal(signal.SIGINT)
        process.wait(20.0)


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    ("node", "parameter", "message"),
    [
        ("flight_player", "loop:=true", "no flight is set"),
        ("camera_sim", "seed:=1", "no map is set"),
        ("camera_sim", "rate_hz:=1", "with a decimal point, such as 1.0"),
        ("localizer", "threads:=9999", "Min: 0, Max: 256"),
        ("map_server", "cache_mib:=text", "cache_mib"),
    ],
)
def test_impossible_parameters_end_in_one_line(node: str, parameter: str, message: str) -> None:
    process = start(f"geoloc_ros.nodes.{node}_node", "--ros-args", "-p", parameter)
    output, _ = process.communicate(timeout=60.0)
    assert process.returncode == 2
    assert message in output.strip().splitlines()[-1]
    assert "Traceback" not in output


def test_lifecycle_request_out_of_turn_is_survived(spinner: Spinner, processes: list[Any]) -> None:
    """rclpy itself would let the node die of it."""
    arguments = ("--ros-args", "-r", "__ns:=/turn", "-p", "autostart:=false")
    processes.append(start("geoloc_ros.nodes.localizer_node", *arguments))
    asker = spinner.add(Node("asker"))
    change = asker.create_client(ChangeState, "/turn/localizer/change_state")
    state = asker.create_client(GetState, "/turn/localizer/get_state")
    assert call(state, GetState.Request(), 60.0).current_state.label == "unconfigured"
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_ACTIVATE
    change.call_async(request)
    assert call(state, GetState.Request(), 10.0).current_state.label == "unconfigured"
    request.transition.id = Transition.TRANSITION_CONFIGURE
    assert call(change, request, 60.0).success
    assert call(state, GetState.Request(), 10.0).current_state.label == "inactive"
    assert processes[0].poll() is None


def test_interrupted_node_ends_quietly(processes: list[Any], spinner: Spinner, map_path: Path) -> None:
    arguments = ("--ros-args", "-r", "__ns:=/quiet", "-p", f"map:={map_path}")
    process = start("geoloc_ros.nodes.map_server_node", *arguments)
    asker = spinner.add(Node("asker"))
    until(lambda: "/quiet/get_map" in dict(asker.get_service_names_and_types()), 60.0, "the map server")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20.0)
    assert process.returncode == 0
    assert "Traceback" not in output


@pytest.mark.parametrize("exported", [False, True])
def test_demo(folder: Path, tmp_path: Path, exported: bool) -> None:
    """The live graph and `evaluate` agree on a short flight, and the report holds both; an engine that was exported
    before serves both.
    """
    out = tmp_path / "out"
    # Not the domain of the test session, whose nodes have the same names.
    domain = 1 + (int(os.environ["ROS_DOMAIN_ID"]) + 50) % 101
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    weights = "mix_compact" if exported else "default"
    if exported:
        export_fast_engine(weights, folder, tmp_path / "cache" / "geoloc" / "engines")
    command = [sys.executable, "-m", "geoloc_ros.cli.main", "demo", "--weights", weights]
    done = subprocess.run(
        [*command, "--flight", str(folder), "--out", str(out), "--prior-noise", "10"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300.0,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    live, offline = json.loads((out / "report.json").read_text(encoding="utf-8"))["runs"]
    assert (live["name"], offline["name"]) == ("live", "evaluate")
    assert live["device"] == offline["device"]
    assert ("openvino" in live["device"]) == (exported and live["device"].startswith("cpu"))
    assert live["frames"] == offline["frames"] == len(Flight.open(folder)) == FRAMES
    # Without a head for alignment no single frame is decisive: the first two only confirm.
    fixes = FRAMES - 2 if exported else FRAMES
    assert live["availability"] == offline["availability"] == pytest.approx(fixes / FRAMES, abs=1e-6)
    # Less than a pixel of the map: the graph cuts its crops ahead of need, so their grids differ.
    assert live["median_error_m"] == pytest.approx(offline["median_error_m"], abs=0.25)
    assert max(live["median_error_m"], offline["median_error_m"]) < 0.5
    assert live["rds"] == pytest.approx(offline["rds"], abs=0.01)
    assert live["false_fixes"] == 0
    assert (out / "report.html").stat().st_size > 10_000
    assert len((out / "live.tum").read_text(encoding="utf-8").splitlines()) == fixes
    assert "median m" in done.stdout


def export_fast_engine(weights: str, flight: Path, folder: Path) -> None:
    """An engine that `auto` takes on CPUs, as it claims to take no time."""
    arguments = ["--weights", weights, "--device", "cpu", "--calibrate", str(flight), "--frames", "2"]
    assert main(["export", "--engine", "openvino-float32", *arguments, "--out", str(folder)]) == 0
    (path,) = folder.rglob(f"{weights}*/**/engine.json")
    record = json.loads(path.read_text())
    record["check"]["median_ms"] = 0.0
    path.write_text(json.dumps(record))


def test_demo_without_a_map_says_so(folder: Path, tmp_path: Path) -> None:
    (folder / "map.tif").unlink()
    assert "map.tif" in told_by_impossible_demo(folder, tmp_path)


def test_demo_says_why_the_localizer_did_not_start(folder: Path, tmp_path: Path) -> None:
    """At once, and not after the minute that a player waits for listeners."""
    told = told_by_impossible_demo(folder, tmp_path, "--weights", "nonsense")
    assert "the localizer could not start" in told
    assert "no weights 'nonsense'" in told


def told_by_impossible_demo(folder: Path, tmp_path: Path, *arguments: str) -> str:
    """The one line with which it ends."""
    command = [sys.executable, "-m", "geoloc_ros.cli.main", "demo", "--flight", str(folder), *arguments]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=120.0, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr
