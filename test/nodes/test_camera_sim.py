# SPDX-License-Identifier: Apache-2.0
"""The camera simulator in the graph: its images show the place that its truth says."""

import math
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from harness import Scene, Spinner, parameters, until
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, Imu, NavSatFix, Range

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import rectify
from geoloc_ros.core.geometry.rotations import rotation_enu_from_optical
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.frame import Truth
from geoloc_ros.core.simulation.trajectory import rotation_from_angles
from geoloc_ros.messages.reading import camera_from_info, height_from_altitude, quaternion_from_imu, rgb_from_image
from geoloc_ros.messages.sensors import fix_from_position, imu_from_rotation, time_from_seconds
from geoloc_ros.nodes.camera_sim_node import CameraSimNode
from geoloc_ros.nodes.frame_inputs import best_effort


def test_pictures_show_the_true_place(spinner: Spinner, scene: Scene) -> None:
    """An image, rectified by what was published with it, is the map about the published truth."""
    listener = spinner.add(Node("listener"))
    heard: dict[str, dict[int, object]] = {}
    for topic, kind in (("image", Image), ("imu", Imu), ("altitude", Range), ("truth", NavSatFix)):
        heard[topic] = {}
        listener.create_subscription(
            kind, topic, lambda m, topic=topic: heard[topic].update({stamp(m): m}), best_effort(20)
        )
    infos: list[CameraInfo] = []
    listener.create_subscription(CameraInfo, "camera_info", infos.append, best_effort(5))
    values = {"map": str(scene.path), "altitude_type": "range", "rate_hz": 5.0, "height_m": 70.0, "noise": 0.0}
    spinner.add(CameraSimNode(parameter_overrides=parameters(**values)))

    def complete() -> list[int]:
        return [s for s in list(heard["image"]) if all(s in samples for samples in heard.values())]

    until(lambda: len(complete()) >= 3 and infos, what="three whole frames")
    key = complete()[-1]
    image, imu, altitude, truth = (heard[topic][key] for topic in ("image", "imu", "altitude", "truth"))
    place = Truth(truth.latitude, truth.longitude, height_from_altitude(altitude))
    assert likeness(scene, image, imu, infos[-1], place) > 0.9


def likeness(scene: Scene, image: Image, imu: Imu, info: CameraInfo, truth: Truth) -> float:
    """Correlation of an image, rectified by imu and height, with the map about the truth."""
    rotation = rotation_enu_from_optical(quaternion_from_imu(imu))
    camera = camera_from_info(info)
    view = rectify(rgb_from_image(image), camera, rotation, truth.height_above_ground_m, 0.4, 128)
    east_m, north_m = scene.frame.to_enu(truth.lat_deg, truth.lon_deg)
    centre = scene.frame.to_geodetic(east_m + view.centre_offset_enu_m[0], north_m + view.centre_offset_enu_m[1])
    with RasterMap(scene.path) as raster:
        expected = raster.crop(*centre, 128 * 0.4, 128).image
    a, b = view.image.astype(float).ravel(), expected.astype(float).ravel()
    return float(np.corrcoef(a, b)[0, 1])


class Autopilot(Node):
    """Says where its simulated vehicle is, as a bridge does, and listens to the camera and its diagnostics."""

    GROUND_M = 312.0  # above the ellipsoid

    def __init__(self) -> None:
        super().__init__("autopilot", namespace="/following")
        self.stamp_s = 2000.0
        self.images: dict[int, Image] = {}
        self.infos: list[CameraInfo] = []
        self.said: list[tuple[bytes, str]] = []
        self._truth = self.create_publisher(NavSatFix, "truth", best_effort(20))
        self._attitude = self.create_publisher(Imu, "truth_attitude", best_effort(20))
        self.create_subscription(Image, "image", lambda m: self.images.update({stamp(m): m}), best_effort(20))
        self.create_subscription(CameraInfo, "camera_info", self.infos.append, best_effort(20))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.said += [(s.level, s.message) for s in message.status if s.name.startswith("following/camera_sim")]

    @property
    def heard(self) -> bool:
        return self._truth.get_subscription_count() > 0 and self._attitude.get_subscription_count() > 0

    def fly(self, truth: Truth, rotation: np.ndarray, step_s: float = 0.02, attitude_first: bool = False) -> int:
        """Publish one pose; returns its stamp in nanoseconds."""
        self.stamp_s += step_s
        now = time_from_seconds(self.stamp_s)
        altitude_m = self.GROUND_M + truth.height_above_ground_m
        place = (truth.lat_deg, truth.lon_deg, altitude_m)
        fix = fix_from_position(*place, np.zeros((2, 2)), 0.0, now, "base_link")
        imu = imu_from_rotation(rotation, now, "base_link")
        both = [(self._attitude, imu), (self._truth, fix)]
        for publisher, message in both if attitude_first else reversed(both):
            publisher.publish(message)
        return stamp(fix)

    def says(self, level: bytes, text: str, timeout_s: float = 5.0) -> None:
        until(lambda: any(level == a and text in b for a, b in self.said), timeout_s, f"{text} in {self.said}")


@pytest.fixture
def autopilot(spinner: Spinner, scene: Scene) -> Autopilot:
    """A camera that follows a vehicle, at 10 Hz at most, and this vehicle on the ground."""
    autopilot: Autopilot = spinner.add(Autopilot())
    values = {"map": str(scene.path), "source": "vehicle", "rate_hz": 10.0, "noise": 0.0}
    spinner.add(CameraSimNode(namespace="/following", parameter_overrides=parameters(**values)))
    until(lambda: autopilot.heard, what="the camera's subscriptions")
    start = Truth(*scene.place, 0.0)
    autopilot.fly(start, np.eye(3))
    autopilot.says(DiagnosticStatus.OK, "on the ground")
    assert not autopilot.images
    return autopilot


def test_follows_a_vehicle(autopilot: Autopilot, scene: Scene) -> None:
    """Its images are those of the vehicle's place, lean and heading, whichever message comes first."""
    for attitude_first, east_m, yaw_deg in ((False, 20.0, 75.0), (True, -35.0, -160.0)):
        truth = Truth(*scene.frame.to_geodetic(east_m, 12.0), 70.0)
        rotation = rotation_from_angles(math.radians(8.0), math.radians(-5.0), math.radians(yaw_deg))
        key = autopilot.fly(truth, rotation, 0.5, attitude_first)
        image = until(lambda key=key: autopilot.images.get(key), what="the image of this pose")
        imu = imu_from_rotation(rotation, image.header.stamp, "base_link")
        assert likeness(scene, image, imu, autopilot.infos[-1], truth) > 0.9
        assert stamp(autopilot.infos[-1]) == key
    autopilot.says(DiagnosticStatus.OK, "following the vehicle")
    names = {name for name, _ in autopilot.get_topic_names_and_types() if name.startswith("/following/")}
    # What the vehicle knows of itself comes from the bridge alone.
    assert names == {f"/following/{name}" for name in ("truth", "truth_attitude", "image", "camera_info")}


def test_rate_is_limited_and_a_clock_set_back_is_followed(autopilot: Autopilot, scene: Scene) -> None:
    truth = Truth(*scene.place, 60.0)
    for _ in range(100):  # two seconds of its clock
        autopilot.fly(truth, np.eye(3))
        time.sleep(0.005)
    time.sleep(0.2)
    seen = np.array(sorted(autopilot.images))
    assert 12 <= len(seen) <= 21
    # An image may be late, as a busy machine loses samples, and the next is in time again.
    assert np.min(seen[10:] - seen[:-10]) >= 0.9e9
    autopilot.stamp_s = 10.0
    key = autopilot.fly(truth, np.eye(3))
    until(lambda: key in autopilot.images, what="the image after the clock went back")


def test_says_what_is_wrong_with_the_vehicle(autopilot: Autopilot, scene: Scene) -> None:
    level = np.eye(3)
    lat_deg, lon_deg = scene.place
    key = autopilot.fly(Truth(lat_deg + 0.01, lon_deg, 60.0), level, 0.5)
    until(lambda: key in autopilot.images, what="an image of nothing")
    autopilot.says(DiagnosticStatus.WARN, f"outside the map: fly it, or start its autopilot, around {lat_deg:.6f}")
    autopilot.fly(Truth(lat_deg, lon_deg, 60.0), rotation_from_angles(1.2, 0.0, 0.0), 0.5)
    autopilot.says(DiagnosticStatus.WARN, "reaches the horizon")
    autopilot.fly(Truth(math.nan, lon_deg, 60.0), level, 0.5)
    autopilot.says(DiagnosticStatus.WARN, "/following/truth holds no position with altitude")
    autopilot.says(DiagnosticStatus.STALE, "no truth on /following/truth for 2 s")
    now = time_from_seconds(autopilot.stamp_s + 1.0)
    for _ in range(20):
        autopilot._truth.publish(fix_from_position(*scene.place, 400.0, np.zeros((2, 2)), 0.0, now, "base_link"))
        time.sleep(0.1)
    autopilot.says(DiagnosticStatus.WARN, "no attitude of the truth's moment on /following/truth_attitude")
    assert len(autopilot.images) == 1


def stamp(message: object) -> int:
    """Nanoseconds of the message's stamp."""
    time = message.header.stamp  # type: ignore[attr-defined]
    return int(time.sec * 1_000_000_000 + time.nanosec)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no map is set"),
        ({"map": "/nowhere.tif"}, "nowhere.tif"),
        ({"pattern": "zigzag"}, "pattern"),
        ({"source": "kite"}, "source is 'kite'"),
    ],
)
def test_bad_parameters(scene: Scene, values: dict[str, str], message: str) -> None:
    values = {"map": str(scene.path), **values} if values else {}
    with pytest.raises(GeolocError, match=message):
        CameraSimNode(parameter_overrides=parameters(**values))
