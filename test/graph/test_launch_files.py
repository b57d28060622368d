# SPDX-License-Identifier: Apache-2.0
"""The launch files under the real `ros2 launch`, as users start them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from geoloc_ros.msg import LocalizerStatus
from harness import Drone, Scene, Spinner, call, error_m, until
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from sensor_msgs.msg import NavSatFix, NavSatStatus

from geoloc_ros.core.flight import Flight, Truth
from geoloc_ros.messages import seconds_from_time

pytestmark = pytest.mark.skipif(
    shutil.which("ros2") is None or importlib.util.find_spec("launch_ros") is None,
    reason="no ros2 launch in this environment",
)

START_S = 120.0  # for a process that loads the network on a busy machine
END_S = 30.0

Launch = Callable[..., Path]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts a launch file and returns its log; Ctrl-C ends it, and no node may have died of anything else."""
    started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(*arguments: str) -> Path:
        log = tmp_path / f"launch{len(started)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ["ros2", "launch", "geoloc_ros", *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append((process, log))
        return log

    yield start
    for process, log in started:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"not ended {END_S:g} s after Ctrl-C:\n{log.read_text()}")
        text = log.read_text()
        assert "Traceback" not in text, text
        assert "process has died" not in text, text


def write_parameters(path: Path, **values: object) -> Path:
    """A parameter file for any node."""
    lines = [f"    {name}: {value}" for name, value in values.items()]
    path.write_text("\n".join(["/**:", "  ros__parameters:", *lines, ""]), encoding="utf-8")
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A launch file that ends by itself."""
    return subprocess.run(
        ["ros2", "launch", "geoloc_ros", *arguments],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )


def test_localize(launch: Launch, spinner: Spinner, scene: Scene, tmp_path: Path) -> None:
    """Arguments arrive: map, namespace, parameter file, remapping; and frames become fixes."""
    parameters = write_parameters(tmp_path / "localizer.yaml", altitude_type="range", threads=2)
    drone: Drone = spinner.add(Drone("/launched"))
    log = launch(
        "localize.launch.py",
        f"map:={scene.path}",
        "namespace:=launched",
        f"localizer_params:={parameters}",
        "truth:=/elsewhere/truth",
        "log_level:=warn",
    )
    until(lambda: drone.topics.heard, START_S, f"the localizer's subscriptions; see {log}")
    until(lambda: drone.set_prior(*scene.place).success, START_S, "the localizer's activation")
    (listener,) = drone.get_subscriptions_info_by_topic("/elsewhere/truth")
    assert (listener.node_namespace, listener.node_name) == ("/launched", "localizer")

    def located() -> tuple[NavSatFix, Truth] | None:
        time.sleep(0.2)  # the localizer and the map server may not have found each other yet
        frame = scene.next()
        fix, status = drone.fly(frame)
        assert frame.truth is not None
        return (fix, frame.truth) if status.valid else None

    assert error_m(*until(located, 20.0, "a fix")) < 3.0


def test_localize_without_autostart(launch: Launch, spinner: Spinner, map_path: Path, tmp_path: Path) -> None:
    """The localizer waits, and knows the gallery that lies beside the map."""
    beside = tmp_path / "map.tif"
    beside.symlink_to(map_path)
    gallery = tmp_path / "map.tif.gallery"
    gallery.touch()
    launch("localize.launch.py", f"map:={beside}", "namespace:=asleep", "autostart:=false")
    asker = spinner.add(Node("asker"))
    state = asker.create_client(GetState, "/asleep/localizer/get_state")
    assert call(state, GetState.Request(), START_S).current_state.label == "unconfigured"
    values = asker.create_client(GetParameters, "/asleep/localizer/get_parameters")
    (found,) = call(values, GetParameters.Request(names=["gallery"])).values
    assert found.string_value == str(gallery)


def test_replay_of_a_flight(launch: Launch, spinner: Spinner, folder: Path, tmp_path: Path) -> None:
    """A flight folder needs nothing else: it brings map, camera and prior."""
    fixes: list[NavSatFix] = []
    statuses: list[LocalizerStatus] = []
    listener = spinner.add(Node("listener", namespace="/replayed"))
    listener.create_subscription(NavSatFix, "localizer/fix", fixes.append, 50)
    listener.create_subscription(LocalizerStatus, "localizer/status", statuses.append, 50)
    player = write_parameters(tmp_path / "player.yaml", prior_noise_m=10.0, answer_s=30.0)
    log = launch(
        "replay.launch.py", f"flight:={folder}", "namespace:=replayed", f"flight_player_params:={player}"
    )
    flight = Flight.open(folder)
    until(lambda: len(statuses) == len(flight), START_S, f"a status for every frame; see {log}")
    truths = {frame.stamp_s: frame.truth for frame in flight}
    valid = [fix for fix in list(fixes) if fix.status.status >= NavSatStatus.STATUS_FIX]
    assert len(valid) >= len(flight) // 2, [status.reason for status in statuses]
    for fix in valid:
        stamp_s = seconds_from_time(fix.header.stamp)
        truth = next(truth for at_s, truth in truths.items() if abs(at_s - stamp_s) < 1e-3)
        assert truth is not None
        assert error_m(fix, truth) < 5.0


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("localize.launch.py",), "map"),
        (("replay.launch.py",), "give flight:=FOLDER or bag:=BAG"),
        (("replay.launch.py", "flight:=a", "bag:=b"), "give flight:=FOLDER or bag:=BAG"),
        (("replay.launch.py", "bag:=b"), "give map:=FILE"),
    ],
)
def test_launch_without_what_it_needs_says_so(arguments: tuple[str, ...], remedy: str) -> None:
    done = run(*arguments)
    assert done.returncode != 0
    assert remedy in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["localize.launch.py", "replay.launch.py"])
def test_arguments_are_shown(name: str) -> None:
    done = run(name, "--show-args")
    assert done.returncode == 0, done.stderr
    for argument in ("map", "gallery", "namespace", "localizer_params", "image", "altitude"):
        assert f"'{argument}':" in done.stdout
