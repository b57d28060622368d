# SPDX-License-Identifier: Apache-2.0
"""Nodes as processes, and a recorder of what they publish, for commands that run the live graph themselves."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import State as LifecycleState
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import NavSatFix, NavSatStatus

from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.answers import pose_errors
from geoloc_ros.core.evaluation.scores import FrameScore, score_fix
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.matching.stage_times import STAGES
from geoloc_ros.core.recording.frame import Truth
from geoloc_ros.messages.sensors import time_from_seconds
from geoloc_ros.messages.status import latencies_ms
from geoloc_ros.msg import LocalizerStatus
from geoloc_ros.nodes.services import ask

LOAD_S = 120.0
"""Time that the localizer has to load its network before it answers."""
ASK_AGAIN_S = 1.0
END_S = 10.0
"""Time that a process has to end after Ctrl-C before it is killed."""


class LiveGraph:
    """Processes of this package's nodes; they end with the block."""

    def __init__(self, log_folder: Path) -> None:
        """Logs and parameter files go to `log_folder`, which is made if need be."""
        self._folder = log_folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        _use_large_shared_memory()

    def __enter__(self) -> "LiveGraph":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            _wait_or_kill(process)

    def start(self, node: str, **parameters: Any) -> int:
        """Start one of geoloc_ros.nodes with these parameters; returns its process id."""
        file = self._folder / f"{node}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}), encoding="utf-8")
        module = f"geoloc_ros.nodes.{node}_node"
        command = [sys.executable, "-m", module, "--ros-args", "--params-file", str(file)]
        with self.log(node).open("wb") as log:
            self._processes[node] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        return self._processes[node].pid

    def log(self, node: str) -> Path:
        """Where a node's output goes."""
        return self._folder / f"{node}.log"

    def ended(self, node: str) -> bool:
        """Whether a node's process has ended well; GeolocError if it or another failed."""
        self.check()
        return self._processes[node].poll() == 0

    def check(self) -> None:
        """GeolocError, with the last line of its output, if a node has failed."""
        for name, process in self._processes.items():
            if process.poll() not in (None, 0):
                status = process.returncode
                raise GeolocError(f"node {name} ended with status {status}: {self.last_line(name)}")

    def last_line(self, node: str) -> str:
        """The last line of a node's output, and the path of the whole."""
        lines = self.log(node).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'no output'} (all of it: {self.log(node)})"


class Recorder:
    """Keeps every fix and status of the localizer, by image stamp in nanoseconds."""

    def __init__(self, **parameters: Any) -> None:
        """Join the graph with these parameters; call `close` to leave it."""
        use_own_domain()
        # Python keeps handling Ctrl-C: it must end the command, not only ROS.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = Node("recorder", parameter_overrides=overrides)
        self.fixes: dict[int, NavSatFix] = {}
        self.statuses: dict[int, LocalizerStatus] = {}
        self.first_fix = threading.Event()
        self.node.create_subscription(NavSatFix, "localizer/fix", self._on_fix, 100)
        self.node.create_subscription(LocalizerStatus, "localizer/status", self._on_status, 100)
        # Created last: DDS announces endpoints in order, so that whoever answers this client knows of the others.
        self._state = self.node.create_client(GetState, "localizer/get_state")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def wait_for_localizer(self, graph: LiveGraph) -> None:
        """Wait until the localizer is active and has discovered this recorder; before, its first answers could be lost.

        GeolocError if a node of the graph has failed, if the localizer could not start, or does not answer for LOAD_S.
        """
        end, answer = time.monotonic() + LOAD_S, None
        while answer is None:
            graph.check()
            if time.monotonic() > end:
                raise GeolocError(f"the localizer has not answered for {LOAD_S:g} s: {graph.last_line('localizer')}")
            if self._state.wait_for_service(ASK_AGAIN_S):
                answer = ask(self._state, GetState.Request(), ASK_AGAIN_S)
        # It answers only after it has tried to activate itself.
        if answer.current_state.id != LifecycleState.PRIMARY_STATE_ACTIVE:
            raise GeolocError(f"the localizer could not start: {graph.last_line('localizer')}")

    def wait_for(self, stamp_s: float, timeout_s: float) -> None:
        """Wait for the answer to the frame of that stamp, or give up on it."""
        end = time.monotonic() + timeout_s
        while nanoseconds(time_from_seconds(stamp_s)) not in self.statuses and time.monotonic() < end:
            time.sleep(0.05)

    def score(self, index: int, stamp_s: float, truth: Truth) -> FrameScore:
        """The fix published for the frame of that stamp against the truth; a frame without one is a miss."""
        stamp_ns = nanoseconds(time_from_seconds(stamp_s))
        known: dict[str, Any] = {"reason": "dropped: replaced by a newer frame, or lost in transport", "dropped": True}
        status, fix = self.statuses.get(stamp_ns), self.fixes.get(stamp_ns)
        if status is not None:
            known = {
                "search_size_m": status.search_size_m,
                "latency_ms": status.latency_total_ms,
                "stages_ms": {name: ms for name, ms in latencies_ms(status).items() if name in STAGES},
                "state": State(status.state).name,
                "peak": status.peak,
                "reason": status.reason,
                "support": status.alignment_support,
            }
            found = pose_errors(status.heading_offset_deg, status.height_scale, truth)
            known["heading_error_deg"], known["height_scale_error_percent"] = found
        place = None
        if fix is not None and status is not None and status.valid:
            place = (fix.latitude, fix.longitude)
            known["covariance_enu_m2"] = np.reshape(fix.position_covariance, (3, 3))[:2, :2]
        return score_fix(
            index=index,
            stamp_s=stamp_s,
            truth_lat_lon_deg=(truth.lat_deg, truth.lon_deg),
            lat_lon_deg=place,
            height_m=truth.height_above_ground_m,
            **known,
        )

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        rclpy.try_shutdown()

    def _on_fix(self, message: NavSatFix) -> None:
        self.fixes[nanoseconds(message.header.stamp)] = message
        if message.status.status >= NavSatStatus.STATUS_FIX:
            self.first_fix.set()

    def _on_status(self, message: LocalizerStatus) -> None:
        self.statuses[nanoseconds(message.header.stamp)] = message


def nanoseconds(stamp: Time) -> int:
    """A stamp as one integer."""
    return int(stamp.sec * 1_000_000_000 + stamp.nanosec)


def use_own_domain() -> None:
    """Keep the processes of this command away from other robots on the network; a ROS_DOMAIN_ID that is set stays."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _use_large_shared_memory() -> None:
    """Use our Fast DDS profile unless one is set: raw frames exceed the default shared-memory segment."""
    if "FASTRTPS_DEFAULT_PROFILES_FILE" in os.environ or "FASTDDS_DEFAULT_PROFILES_FILE" in os.environ:
        return
    try:
        profile = str(Path(get_package_share_directory("geoloc_ros")) / "config" / "fastdds.xml")
    except PackageNotFoundError:
        raise GeolocError("the package geoloc_ros is not in this environment; source its setup.bash") from None
    # Fast DDS 3 (Kilted and later) renamed the variable and warns about the old name.
    fast_dds_2 = os.environ.get("ROS_DISTRO", "jazzy") in ("humble", "iron", "jazzy")
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE" if fast_dds_2 else "FASTDDS_DEFAULT_PROFILES_FILE"] = profile
