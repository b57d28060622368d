# SPDX-License-Identifier: Apache-2.0
"""Real nodes on real DDS, each on an executor thread of its own, and a test's ears and hands in the graph."""

import itertools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from diagnostic_msgs.msg import DiagnosticArray
from geoloc_ros.msg import LocalizerStatus
from geoloc_ros.srv import SetPrior
from lifecycle_msgs.srv import ChangeState
from rasterio.transform import from_origin
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, Imu, NavSatFix, NavSatStatus

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN, nadir_rotation
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.simulation.simulator import CameraSimulator
from geoloc_ros.messages.sensors import image_from_rgb, imu_from_rotation, time_from_seconds
from geoloc_ros.nodes.frame_topics import FrameTopics
from geoloc_ros.nodes.localizer_node import LocalizerNode
from geoloc_ros.nodes.map_server_node import MapServerNode

CAMERA = CameraModel(640, 480, np.array([[490.0, 0.0, 319.5], [0.0, 490.0, 239.5], [0.0, 0.0, 1.0]]))
HEIGHT_M = 110.0
FRAMES = 12  # of the short flight


def parameters(**values: Any) -> list[Parameter]:
    """Overrides for a node's constructor."""
    return [Parameter(name, value=value) for name, value in values.items()]


class Spinner:
    """Spins nodes, one thread each, until closed."""

    def __init__(self) -> None:
        self._running: list[tuple[SingleThreadedExecutor, Node, threading.Thread]] = []

    def add(self, node: Node) -> Any:
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        self._running.append((executor, node, thread))
        return node

    def remove(self, node: Node) -> None:
        """Take a node out of the graph."""
        entry = next(entry for entry in self._running if entry[1] is node)
        self._running.remove(entry)
        executor, _, thread = entry
        executor.shutdown()
        thread.join(5.0)
        for end in ("stop", "close"):
            getattr(node, end, lambda: None)()
        node.destroy_node()

    def close(self) -> None:
        for _, node, _ in list(reversed(self._running)):
            self.remove(node)


def until(condition: Callable[[], Any], timeout_s: float = 20.0, what: str = "") -> Any:
    """Wait for something true and return it; AssertionError after timeout_s."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, f"nothing after {timeout_s} s: {what or condition}"
        time.sleep(0.01)
    return found


def call(client: Any, request: Any, timeout_s: float = 10.0) -> Any:
    """Call a service of a node that is spun elsewhere."""
    assert client.wait_for_service(timeout_s), f"{client.srv_name} is not there"
    future = client.call_async(request)
    until(future.done, timeout_s, f"answer of {client.srv_name}")
    return future.result()


class Drone(Node):
    """Publishes frames as a vehicle would and listens to what the localizer says."""

    def __init__(self, namespace: str = "") -> None:
        super().__init__("drone", namespace=namespace, parameter_overrides=parameters(altitude_type="range"))
        self.topics = FrameTopics(self)
        self.fixes: list[NavSatFix] = []
        self.statuses: list[LocalizerStatus] = []
        self.diagnostics: list[tuple[bytes, str]] = []
        self.create_subscription(NavSatFix, "localizer/fix", self.fixes.append, 50)
        self.create_subscription(LocalizerStatus, "localizer/status", self.statuses.append, 50)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self.image = self.create_publisher(Image, "image", 1)
        self.imu = self.create_publisher(Imu, "imu", 1)
        self._prior = self.create_client(SetPrior, "localizer/set_prior")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = f"{self.get_namespace()}/localizer".strip("/")
        self.diagnostics += [(s.level, s.message) for s in message.status if s.name.startswith(f"{own}:")]

    def set_prior(self, lat_deg: float, lon_deg: float, radius_m: float = 30.0) -> SetPrior.Response:
        request = SetPrior.Request(latitude_deg=lat_deg, longitude_deg=lon_deg, radius_m=radius_m)
        return call(self._prior, request)

    def fly(self, frame: Frame) -> tuple[NavSatFix, LocalizerStatus]:
        """Publish a frame and wait for its fix and status."""
        self.topics.publish(frame)
        return self.answer(frame.stamp_s)

    def fly_spoiled(
        self,
        frame: Frame,
        spoil_image: Callable[[Image], None] = lambda _: None,
        spoil_imu: Callable[[Imu], None] = lambda _: None,
    ) -> tuple[NavSatFix, LocalizerStatus]:
        """As `fly`, with messages changed on their way."""
        stamp = time_from_seconds(frame.stamp_s)
        rotation = frame.rotation_enu_from_optical
        assert frame.image is not None
        assert rotation is not None
        self.topics.publish(replace(frame, image=None, rotation_enu_from_optical=None))
        imu = imu_from_rotation(rotation @ FLU_FROM_OPTICAL_DOWN.T, stamp, "base_link")
        spoil_imu(imu)
        self.imu.publish(imu)
        image = image_from_rgb(frame.image, stamp, "camera")
        spoil_image(image)
        self.image.publish(image)
        return self.answer(frame.stamp_s)

    def answer(self, stamp_s: float, timeout_s: float = 30.0) -> tuple[NavSatFix, LocalizerStatus]:
        """The fix and the status of the frame of `stamp_s`."""
        fix = until(lambda: _stamped(self.fixes, stamp_s), timeout_s, f"fix for {stamp_s}")
        return fix, until(lambda: _stamped(self.statuses, stamp_s), timeout_s, f"status for {stamp_s}")

    def diagnosed(self, text: str, timeout_s: float = 5.0) -> bytes:
        """Wait for a diagnostic that contains `text` and return its level."""
        found = until(
            lambda: [level for level, message in list(self.diagnostics) if text in message],
            timeout_s,
            f"'{text}' in {sorted({message for _, message in self.diagnostics})}",
        )
        return found[-1]


def _stamped(found: list[Any], stamp_s: float) -> Any:
    stamp = time_from_seconds(stamp_s)
    return next((m for m in list(found) if m.header.stamp == stamp), None)


def draw_map(
    path: Path, side_px: int = 1200, gsd_m: float = 0.4, crs: str | None = "EPSG:32650", seed: int = 5
) -> Path:
    """A raster with streets, roofs, fields and trees, enough for the network to hold on to."""
    rng = np.random.default_rng(seed)
    image = np.empty((side_px, side_px, 3), np.float32)
    fields = rng.integers(0, 5, (side_px // 150 + 1,) * 2)
    palette = np.array([[92, 108, 62], [120, 118, 80], [74, 92, 58], [140, 128, 98], [104, 96, 74]], np.float32)
    image[:] = palette[np.kron(fields, np.ones((150, 150), int))[:side_px, :side_px]]
    for _ in range(26):
        start, end = rng.integers(0, side_px, (2, 2))
        cv2.line(image, start.tolist(), end.tolist(), (136, 134, 130), int(rng.integers(8, 22)), cv2.LINE_AA)
    for _ in range(700):
        centre, size = rng.uniform(0, side_px, 2), rng.uniform(12, 45, 2)
        box = cv2.boxPoints((centre.tolist(), size.tolist(), float(rng.uniform(0, 90))))
        shade = rng.uniform(70, 210)
        cv2.fillConvexPoly(image, (box + 6).astype(int), (40, 42, 44), cv2.LINE_AA)
        cv2.fillConvexPoly(image, box.astype(int), (shade, shade * 0.93, shade * 0.88), cv2.LINE_AA)
    for _ in range(1500):
        centre = rng.integers(0, side_px, 2).tolist()
        cv2.circle(image, centre, int(rng.integers(4, 11)), (44, 66, 38), -1, cv2.LINE_AA)
    image += rng.normal(0, 4, image.shape)
    data = np.clip(image, 0, 255).astype(np.uint8).transpose(2, 0, 1)
    with rasterio.open(
        path, "w", driver="GTiff", width=side_px, height=side_px, count=3, dtype="uint8", crs=crs,
        transform=from_origin(500_000.0, 3_000_000.0, gsd_m, gsd_m), tiled=True,
    ) as target:  # fmt: skip
        target.write(data)
    return path


class Scene:
    """Frames over a drawn map, to and fro on a line to the east from its middle, and their truth."""

    def __init__(self, path: Path, reach_m: float = 4.0) -> None:
        self.path = path
        self._reach_m = reach_m
        self._simulator = CameraSimulator(path, CAMERA)
        self.frame, _ = self._simulator.free_area()
        self.stamp_s = 1000.0

    @property
    def place(self) -> tuple[float, float]:
        return self.frame.lat_deg, self.frame.lon_deg

    def next(self, step_s: float = 0.5, **changes: Any) -> Frame:
        """The next frame of a slow flight; `changes` replace what it holds."""
        self.stamp_s += step_s
        east_m = self._reach_m * math.sin(self.stamp_s / 20)
        lat_deg, lon_deg = self.frame.to_geodetic(east_m, 0.0)
        rotation = nadir_rotation(30.0)
        image = self._simulator.render(lat_deg, lon_deg, HEIGHT_M, rotation)
        truth = Truth(lat_deg, lon_deg, HEIGHT_M)
        frame = Frame(image, self.stamp_s, rotation, HEIGHT_M, CAMERA, truth)
        return replace(frame, **changes)

    def close(self) -> None:
        self._simulator.close()


def error_m(fix: NavSatFix, truth: Truth) -> float:
    """Distance of a fix from the truth, m; NaN without a fix."""
    east_m, north_m = LocalEnu(truth.lat_deg, truth.lon_deg).to_enu(fix.latitude, fix.longitude)
    return math.hypot(east_m, north_m)


_NUMBERS = itertools.count()


class Rig:
    """Map server, localizer and drone over a scene."""

    def __init__(self, spinner: Spinner, scene: Scene, map_path: Path, start: bool = True, **values: Any) -> None:
        self.spinner = spinner
        self.scene = scene
        self.namespace = f"/rig{next(_NUMBERS)}"  # rigs must not hear each other
        self.drone: Drone = spinner.add(Drone(self.namespace))
        self.map_server = self.serve(map_path)
        values = {"altitude_type": "range", "threads": 2, **values}
        self.localizer = LocalizerNode(namespace=self.namespace, parameter_overrides=parameters(**values))
        if start:
            assert self.localizer.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert self.localizer.trigger_activate() == TransitionCallbackReturn.SUCCESS
        spinner.add(self.localizer)
        if start:
            until(lambda: self.drone.topics.has_subscribers, what="the localizer's subscriptions")

    def serve(self, map_path: Path) -> MapServerNode:
        """Start a map server."""
        node: MapServerNode = self.spinner.add(
            MapServerNode(namespace=self.namespace, parameter_overrides=parameters(map=str(map_path)))
        )
        return node

    def transition(self, transition: int) -> bool:
        """Ask for a lifecycle transition as a lifecycle manager does."""
        client = self.drone.create_client(ChangeState, "localizer/change_state")
        request = ChangeState.Request()
        request.transition.id = transition
        success: bool = call(client, request, 30.0).success
        return success

    def track(self) -> None:
        """Set the prior at the truth and fly until the localizer tracks."""
        assert self.drone.set_prior(*self.scene.place).success
        for _ in range(4):
            frame = self.scene.next()
            fix, status = self.drone.fly(frame)
            if status.valid:
                assert error_m(fix, frame.truth) < 3.0
                return
        raise AssertionError(f"no fix for good frames: {status.reason}")


def assert_no_fix(fix: NavSatFix, status: LocalizerStatus, reason: str) -> None:
    """NO_FIX with NaN, and the reason in words."""
    assert fix.status.status == NavSatStatus.STATUS_NO_FIX
    assert all(math.isnan(value) for value in (fix.latitude, fix.longitude, fix.altitude))
    assert not status.valid
    assert reason in status.reason
