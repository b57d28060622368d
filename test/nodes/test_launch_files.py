# SPDX-License-Identifier: Apache-2.0
"""The launch files under `ros2 launch`, as users start them, with real nodes.

Where there is no `launch` (no registry has it), test/launch_stand_in takes its place: it runs the same files.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
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

from geoloc_ros.cli.main import main
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Truth
from geoloc_ros.core.simulation.ground_station import GroundStation
from geoloc_ros.core.simulation.mission_recorder import Recorder
from geoloc_ros.messages.stamps import seconds_from_time

STAND_IN = Path(__file__).resolve().parents[1] / "launch_stand_in" / "bin"
if shutil.which("ros2") is None or importlib.util.find_spec("launch_ros") is None:
    PATH = f"{STAND_IN}{os.pathsep}{os.environ['PATH']}"
else:
    PATH = os.environ["PATH"]

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
                [str(shutil.which("ros2", path=PATH)), "launch", "geoloc_ros", *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": PATH},
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
        print(text)  # pytest shows it where the test failed
        assert "Traceback" not in text, text
        assert "process has died" not in text, text


def write_parameters(path: Path, **values: object) -> Path:
    """A parameter file for any node."""
    lines = [f"    {name}: {value}" for name, value in values.items()]
    path.write_text("\n".join(["/**:", "  ros__parameters:", *lines, ""]), encoding="utf-8")
    return path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A launch file that ends by itself."""
    variables = {**os.environ, "PATH": PATH, **environment}
    return subprocess.run(
        # PATH of the variables, not of this process, finds the program.
        [str(shutil.which("ros2", path=variables["PATH"])), "launch", "geoloc_ros", *arguments],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
        env=variables,
    )


def write_program(path: Path, log: Path, then: str = "") -> None:
    """A program that writes down how it was called, as a line of JSON, and goes on as told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\n"
        f"line = json.dumps([sys.argv, os.getcwd(), dict(os.environ)])\n"
        f"open({str(log)!r}, 'a').write(line + '\\n')\n{then}\n",
        encoding="utf-8",
    )
    path.chmod(0o755)


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
    until(lambda: drone.topics.has_subscribers, START_S, f"the localizer's subscriptions; see {log}")
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


@pytest.mark.parametrize("kind", ["flight", "bag"])
def test_replay(launch: Launch, spinner: Spinner, folder: Path, tmp_path: Path, kind: str) -> None:
    """A flight folder needs nothing else: it brings map, camera and prior; a bag needs the map."""
    fixes: list[NavSatFix] = []
    statuses: list[LocalizerStatus] = []
    listener = spinner.add(Node("listener", namespace="/replayed"))
    listener.create_subscription(NavSatFix, "localizer/fix", fixes.append, 50)
    listener.create_subscription(LocalizerStatus, "localizer/status", statuses.append, 50)
    player = write_parameters(tmp_path / "player.yaml", prior_noise_m=10.0, answer_s=30.0)
    localizer = write_parameters(tmp_path / "localizer.yaml", weights="mix_compact", threads=1)
    source = (f"flight:={folder}",)
    if kind == "bag":
        assert main(["bag", "from-flight", str(folder), "--out", str(tmp_path / "bag")]) == 0
        source = (f"bag:={tmp_path / 'bag'}", f"map:={folder / 'map.tif'}", "rate:=2.0")
    log = launch(
        "replay.launch.py", *source, "namespace:=replayed", f"flight_player_params:={player}",
        f"localizer_params:={localizer}",
    )  # fmt: skip
    flight = Flight.open(folder)

    def answered() -> bool:
        """Whether the localizer has answered every frame; it may have done so before it knew this listener."""
        return bool(statuses) and statuses[-1].frames == len(flight)

    until(answered, START_S, f"an answer to every frame; see {log}")
    assert statuses[-1].dropped == 0
    truths = {frame.stamp_s: frame.truth for frame in flight}
    valid = [fix for fix in list(fixes) if fix.status.status >= NavSatStatus.STATUS_FIX]
    assert len(valid) >= max(1, len(fixes) // 2), [status.reason for status in statuses]
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


ARGUMENTS = {
    "localize": ("map", "gallery", "namespace", "autopilot", "localizer_params", "image", "altitude"),
    "replay": ("flight", "bag", "map", "gallery", "namespace", "rate"),
    "record": ("out", "storage", "compression", "namespace", "image", "truth"),
    "sim": ("world", "map", "dry_run", "px4_dir", "gnss_loss_s", "gazebo", "localizer", "px4_bridge"),
    "sitl": ("view", "map", "autopilot_cmd", "connection", "camera_sim_params"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_shown(name: str) -> None:
    done = run(f"{name}.launch.py", "--show-args")
    assert done.returncode == 0, done.stderr
    for argument in ARGUMENTS[name]:
        assert f"'{argument}':" in done.stdout


def test_loop_without_gazebo(launch: Launch, spinner: Spinner, scene: Scene, tmp_path: Path) -> None:
    """An autopilot's simulator, started by its command, climbs; the images of its place become fixes."""
    ports = []
    for _ in range(2):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
            found.bind(("127.0.0.1", 0))
            ports.append(found.getsockname()[1])
    vehicle = [sys.executable, str(Path(__file__).with_name("mavlink_vehicle.py")), "px4", "--agility", "10"]
    vehicle += ["--home", *map(str, scene.place), "60", *(f"--peer=127.0.0.1:{port}" for port in ports)]
    localizer = write_parameters(tmp_path / "localizer.yaml", weights="mix_compact", threads=1)
    recorder = Recorder()
    station = GroundStation(f"udpin:127.0.0.1:{ports[1]}", recorder.take)
    listener = spinner.add(Node("listener", namespace="/looped"))
    fixes: list[NavSatFix] = []
    listener.create_subscription(NavSatFix, "localizer/fix", fixes.append, 50)
    log = launch(
        "sitl.launch.py", f"view:={scene.path}", f"map:={scene.path}", "namespace:=looped", "rate_hz:=4.0",
        f"autopilot_cmd:={shlex.join(vehicle)}", f"connection:=udpin:127.0.0.1:{ports[0]}",
        f"localizer_params:={localizer}",
    )  # fmt: skip
    station.connect(START_S)
    until(lambda: fixes or listener.count_publishers("localizer/fix"), START_S, f"the localizer; see {log}")
    until(lambda: recorder.has("estimate"), START_S, f"the vehicle's position; see {log}")
    station.command("arm", mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1.0)
    station.take_off(80.0)
    found = until(
        lambda: [f for f in fixes if f.status.status >= NavSatStatus.STATUS_FIX], START_S, f"a fix; see {log}"
    )
    assert error_m(found[-1], Truth(*scene.place, 80.0)) < 3.0
    station.close()


def test_bridge_to_a_vehicle_alone(launch: Launch, spinner: Spinner, tmp_path: Path) -> None:
    """Each part of localize.launch.py can be left out; the bridge's topics are the localizer's."""
    launch(
        "localize.launch.py", "map:=none.tif", "autopilot:=mavlink", "localizer:=false", "map_server:=false",
        "namespace:=bridged", "imu:=/elsewhere/imu",
    )  # fmt: skip
    asker = spinner.add(Node("asker"))

    def publishers() -> set[tuple[str, str]]:
        found = asker.get_publishers_info_by_topic("/elsewhere/imu")
        return {(publisher.node_namespace, publisher.node_name) for publisher in found}

    until(lambda: ("/bridged", "mavlink_bridge") in publishers(), START_S, "the bridge's imu")
    ready = "/bridged/mavlink_bridge/latency"  # the last thing that it makes
    until(lambda: asker.get_publishers_info_by_topic(ready), START_S, "the bridge")
    # In this namespace: nodes of other tests are remembered for a while.
    nodes = [name for name, namespace in asker.get_node_names_and_namespaces() if namespace == "/bridged"]
    assert nodes == ["mavlink_bridge"]


@pytest.mark.parametrize("compression", ["none", "message"])
def test_recording(tmp_path: Path, compression: str) -> None:
    """What `ros2 bag record` is asked for, and the topics that its pattern takes."""
    log = tmp_path / "calls"
    ros2 = shutil.which("ros2", path=PATH)
    # `ros2 bag` is written down, all else is ros2's as before.
    write_program(tmp_path / "bin" / "ros2", log, f"if sys.argv[1] != 'bag': os.execv({ros2!r}, sys.argv)")
    out = tmp_path / "bag"
    done = run(
        "record.launch.py", f"out:={out}", f"compression:={compression}", "namespace:=uav", "odom:=",
        "imu:=/mavros/imu/data", "more:=/extra/.*", "use_sim_time:=true", PATH=f"{tmp_path / 'bin'}:{PATH}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (words,) = [words for words, *_ in map(json.loads, log.read_text().splitlines()) if words[1] == "bag"]
    assert words[1:5] == ["bag", "record", "--storage", "mcap"]
    assert words[words.index("--output") + 1] == str(out)
    assert "--use-sim-time" in words
    assert ("--compression-mode" in words) == (compression != "none")
    pattern = re.compile(words[words.index("--regex") + 1])
    for topic in (
        "/uav/image", "/uav/image/compressed", "/uav/camera_info", "/mavros/imu/data", "/uav/altitude", "/uav/truth",
        "/uav/localizer/fix", "/uav/localizer/status", "/clock", "/tf", "/fmu/out/vehicle_attitude",
        "/fmu/out/vehicle_local_position_v1", "/fmu/in/aux_global_position", "/extra/thing",
    ):  # fmt: skip
        assert pattern.search(topic), topic
    for topic in ("/uav/odom", "/image", "/uav/imu", "/uav/localizer/heatmap", "/uav/image_raw", "/clocks"):
        assert not pattern.search(topic), topic


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, write_texture: Callable[..., Path]) -> tuple[Path, Path]:
    """A Gazebo world, and another image of its ground."""
    folder = tmp_path_factory.mktemp("gazebo")
    ground, other = write_texture(folder / "ground.tif", 1), write_texture(folder / "other.tif", 2)
    assert main(["sim", "gazebo", str(ground), "--out", str(folder / "world"), "--gsd-m", "1"]) == 0
    return folder / "world", other


def test_simulation_says_all_that_is_missing_at_once(world: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = world
    done = run(
        "sim.launch.py", f"world:={folder}", f"map:={folder.with_name('ground.tif')}", f"px4_dir:={tmp_path}",
        "gnss_loss_s:=60",
    )  # fmt: skip
    assert done.returncode != 0
    told = done.stdout + done.stderr
    for problem in ("PX4: ", "git clone", "the very image", "same_map:=true", "give mission:=true"):
        assert problem in told
    assert "process started" not in told


def test_simulation_tells_in_a_dry_run_what_it_would_start(world: tuple[Path, Path], tmp_path: Path) -> None:
    folder, other = world
    arguments = (f"world:={folder}", f"map:={other}", f"px4_dir:={tmp_path}", "dry_run:=true")
    done = run("sim.launch.py", *arguments, "ros_gz_image:=false", "mission:=true", "gnss_loss_s:=45")
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout + done.stderr
    for part in (
        f"gz sim -r {folder / 'geoloc_flight.sdf'}", "udp4 -p 8888", "PX4_PARAM_UXRCE_DDS_SYNCT=0",
        f"cd {tmp_path} && ", "ros2 run ros_gz_bridge parameter_bridge", "localize.launch.py", "autopilot:=px4",
        "use_sim_time:=true", "geoloc sim mission --gnss-loss-s 45", "to mend: PX4",
    ):  # fmt: skip
        assert part in told, part
    assert "image_bridge" not in told
    assert "process started" not in told


def test_simulation_starts_its_programs_and_ends_with_them(world: tuple[Path, Path], tmp_path: Path) -> None:
    """Programs that write down how they were called stand for Gazebo, PX4, agent and Gazebo's bridges."""
    folder, _ = world
    log, px4, prefix = tmp_path / "calls", tmp_path / "PX4", tmp_path / "ros"
    stays = "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass"
    gz = "if sys.argv[2] == '--versions':\n    print('8.9.0')\n    sys.exit()\n" + stays
    write_program(tmp_path / "bin" / "gz", log, gz)
    write_program(tmp_path / "bin" / "MicroXRCEAgent", log, stays)
    # PX4 ends once the others are up, and so does the simulation.
    ended = f"while len(open({str(log)!r}).readlines()) < 6:\n    time.sleep(0.05)"
    write_program(px4 / "build" / "px4_sitl_default" / "bin" / "px4", log, ended)
    for path in ("Makefile", "Tools/simulation/gz/models/x500/model.sdf"):
        (px4 / path).parent.mkdir(parents=True, exist_ok=True)
        (px4 / path).touch()
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package, executable in (("ros_gz_bridge", "parameter_bridge"), ("ros_gz_image", "image_bridge")):
        (index / package).touch()
        write_program(prefix / "lib" / package / executable, log, stays)
    done = run(
        "sim.launch.py", f"world:={folder}", f"px4_dir:={px4}", "headless:=true", "agent_port:=8899",
        "map_server:=false", "localizer:=false", "px4_bridge:=false",
        PATH=f"{tmp_path / 'bin'}:{PATH}", AMENT_PREFIX_PATH=f"{prefix}:{os.environ['AMENT_PREFIX_PATH']}",
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert "process has died" not in told, told
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    called = {Path(words[0]).name: (words[1:], cwd, env) for words, cwd, env in calls if "--versions" not in words}
    assert set(called) == {"gz", "MicroXRCEAgent", "px4", "parameter_bridge", "image_bridge"}
    words, _, variables = called["gz"]
    assert words == ["sim", "-r", "-s", "--headless-rendering", str(folder / "geoloc_flight.sdf")]
    assert variables["GZ_SIM_RESOURCE_PATH"].startswith(str(folder / "models"))
    assert variables["GZ_SIM_SERVER_CONFIG_PATH"] == str(folder / "server.config")
    assert called["MicroXRCEAgent"][0] == ["udp4", "-p", "8899"]
    words, directory, variables = called["px4"]
    assert (words, directory) == (["-d", "-i", "0"], str(px4))
    assert variables["PX4_GZ_WORLD"] == "geoloc"
    assert variables["PX4_GZ_MODEL_NAME"] == "x500_geoloc"
    assert variables["PX4_UXRCE_DDS_PORT"] == "8899"
    assert variables["PX4_PARAM_UXRCE_DDS_SYNCT"] == "0"
    assert "/geoloc/image:=image" in called["image_bridge"][0]
