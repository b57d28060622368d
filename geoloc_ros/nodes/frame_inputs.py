# SPDX-License-Identifier: Apache-2.0
"""The localizer's inputs: images, camera, attitude, height and GNSS, put together into frames."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, Range
from std_msgs.msg import Float64

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import DOWN_XYZW, rotation_enu_from_optical, rotation_from_quaternion
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.motion import Displacement
from geoloc_ros.core.recording.odometry_gate import OdometryGate, OdometryLimits
from geoloc_ros.core.recording.timeline import Timeline, blend_numbers, blend_quaternions
from geoloc_ros.messages.reading import (
    GnssFix,
    Motion,
    Quaternion,
    camera_from_info,
    gnss_from_fix,
    height_from_altitude,
    motion_from_odometry,
    quaternion_from_imu,
    rgb_from_image,
    rotation_from_odom,
)
from geoloc_ros.messages.stamps import message_time_s
from geoloc_ros.nodes.parameters import choice, declare, value

ATTITUDE_SOURCES = ("auto", "imu", "nadir")
ALTITUDE_TYPES = ("float64", "range")
IMAGE_TRANSPORTS = ("raw", "compressed")

# Stands in frames that come before any camera_info; such a frame has no image either.
_NO_CAMERA = CameraModel(1, 1, np.eye(3))


def best_effort(depth: int) -> QoSProfile:
    """Sensor data as in REP-2003: a lost message is not sent again."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


# name: (default, lowest, highest, what it is)
_NUMBERS = {
    "heading_deg": (
        0.0,
        -360.0,
        360.0,
        "heading of the image's top without imu and odom, degrees clockwise from north",
    ),
    "sensor_wait_s": (0.05, 0.0, 1.0, "how long a frame waits for the attitude and range of its moment, s"),
    "imu_max_age_s": (0.2, 0.0, 10.0, "largest time between a frame and the attitude used for it, s"),
    "altitude_max_age_s": (1.0, 0.0, 60.0, "largest time between a frame and the height used for it, s"),
    "odom_max_age_s": (0.5, 0.0, 10.0, "largest time between a frame and the odom heading used for it, s"),
    "gnss_max_age_s": (2.0, 0.0, 60.0, "largest time between a frame and the gnss fix that seeds it, s"),
}


def declare_input_parameters(node: LifecycleNode) -> None:
    """What the vehicle sends and how old it may be."""
    text = "raw: image is a sensor_msgs/Image; compressed: it is a sensor_msgs/CompressedImage"
    declare(node, "image_transport", "raw", text, choices=IMAGE_TRANSPORTS)
    text = "float64: altitude is a std_msgs/Float64 (MAVROS rel_alt); range: it is a sensor_msgs/Range"
    declare(node, "altitude_type", "float64", text, choices=ALTITUDE_TYPES)
    text = (
        "imu: frames without attitude are refused; nadir: the camera counts as looking straight down, its "
        "heading from odom or heading_deg; auto: imu once anyone publishes it, else nadir"
    )
    declare(node, "attitude_source", "auto", text, choices=ATTITUDE_SOURCES)
    text = (
        "quaternion x, y, z, w that turns the camera's optical frame into the FLU body; the default looks "
        "down with the image's top towards the nose"
    )
    declare(node, "camera_mount_xyzw", list(DOWN_XYZW), text)
    for name, (default, low, high, text) in _NUMBERS.items():
        declare(node, name, default, text, low, high)


@dataclass(frozen=True)
class Gathered:
    """A frame with what the core does not need but the outputs do."""

    frame: Frame
    attitude: Quaternion | None  # ENU from FLU body
    motion: Motion | None  # from odometry
    decode_ms: float


def without_sensors(stamp_s: float) -> Gathered:
    """A frame that is refused for its stamp: no sensor is asked for that moment."""
    return Gathered(Frame(None, stamp_s, None, math.nan, _NO_CAMERA), None, None, 0.0)


class FrameInputs:
    """Subscriptions and their short histories; callbacks run on the executor, `gather` on the worker."""

    def __init__(
        self, node: LifecycleNode, on_image: Callable[[Image | CompressedImage], None], limits: OdometryLimits
    ) -> None:
        """Read the parameters and subscribe; GeolocError for an impossible one."""
        self._node = node
        compressed = choice(node, "image_transport", IMAGE_TRANSPORTS) == "compressed"
        altitude_type = Float64 if choice(node, "altitude_type", ALTITUDE_TYPES) == "float64" else Range
        self._altitude_is_stamped = altitude_type is Range
        self._attitude_source = choice(node, "attitude_source", ATTITUDE_SOURCES)
        mount = value(node, "camera_mount_xyzw")
        if len(mount) != 4:
            raise GeolocError(f"camera_mount_xyzw has {len(mount)} values; it needs x, y, z, w")
        try:
            self._flu_from_optical = rotation_from_quaternion(*mount)
        except GeolocError as error:
            raise GeolocError(f"camera_mount_xyzw {mount} is no rotation; give a unit quaternion") from error
        # A broken sample keeps its place, so that no frame of its moment is answered from a neighbour.
        self._attitude: Timeline[Quaternion | GeolocError] = Timeline(_unless_broken(blend_quaternions))
        self._height_m: Timeline[float | GeolocError] = Timeline(_unless_broken(blend_numbers))
        self._odom: Timeline[Motion] = Timeline(_nearer)
        self.odometry = OdometryGate(limits)
        self._gathered_s = -math.inf
        self._gnss: tuple[float, GnssFix] | None = None
        self._truth: Timeline[tuple[float, float]] = Timeline(_nearer)
        self._lock = threading.Lock()
        image_type = CompressedImage if compressed else Image
        self._subscriptions: list[Subscription] = [
            node.create_subscription(image_type, "image", on_image, best_effort(1)),
            node.create_subscription(CameraInfo, "camera_info", self._on_camera_info, best_effort(5)),
            node.create_subscription(Imu, "imu", self._on_imu, best_effort(50)),
            node.create_subscription(altitude_type, "altitude", self._on_altitude, best_effort(20)),
            node.create_subscription(Odometry, "odom", self._on_odom, best_effort(20)),
            node.create_subscription(NavSatFix, "gnss", self._on_gnss, best_effort(5)),
            node.create_subscription(NavSatFix, "truth", self._on_truth, best_effort(5)),
        ]
        self._image, info, self._imu, self._altitude = (s.topic_name for s in self._subscriptions[:4])
        self._camera: CameraModel | GeolocError = GeolocError(
            f"no camera_info on {info} yet; publish it or remap the topic"
        )

    @property
    def image_topic(self) -> str:
        """Full name of the image topic, for texts."""
        return self._image

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def forget(self) -> None:
        """Drop all samples: their stamps mean nothing once the clock went back. The camera stays."""
        for timeline in (self._attitude, self._height_m, self._odom, self._truth):
            timeline.clear()
        self.odometry.clear()
        self._gathered_s = -math.inf
        with self._lock:
            self._gnss = None

    def gather(self, message: Image | CompressedImage) -> Gathered:
        """The frame of an image message; what is missing or broken is named in its `problem`."""
        stamp_s = message_time_s(message)
        problems: list[str] = []
        start = time.perf_counter()
        image: np.ndarray | None = None
        try:
            image = rgb_from_image(message)
        except GeolocError as error:
            problems.append(str(error))
        decode_ms = (time.perf_counter() - start) * 1e3
        camera, height_m, attitude = _NO_CAMERA, math.nan, None
        try:
            camera = self._camera_for(image)
            attitude = self._attitude_at(stamp_s) if self._expects_imu() else None
        except GeolocError as error:
            problems.append(str(error))
        try:
            height_m = self._height_at(stamp_s)
        except GeolocError as error:
            problems.append(str(error))
        odom = self._odom.at(stamp_s, value(self._node, "odom_max_age_s"))
        frame = Frame(
            image=None if problems else image,
            stamp_s=stamp_s,
            rotation_enu_from_optical=(
                None if attitude is None else rotation_enu_from_optical(attitude, self._flu_from_optical)
            ),
            height_m=height_m,
            camera=camera,
            problem=problems[0] if problems else "",
            motion=() if odom is None else self._motion_until(stamp_s, odom, attitude),
            heading_deg=value(self._node, "heading_deg") if odom is None else odom.heading_deg,
        )
        return Gathered(frame, attitude, odom, decode_ms)

    def _motion_until(self, stamp_s: float, odom: Motion, attitude: Quaternion | None) -> tuple[Displacement, ...]:
        """What odometry reports about the motion since the frame before."""
        before_s, self._gathered_s = self._gathered_s, stamp_s
        moved = self.odometry.displacement(before_s, stamp_s, rotation_from_odom(odom, attitude))
        return () if moved is None else (moved,)

    def gnss_at(self, stamp_s: float) -> GnssFix | None:
        """The newest valid GNSS fix if it is young enough for a frame of `stamp_s`."""
        with self._lock:
            gnss = self._gnss
        if gnss is None or abs(stamp_s - gnss[0]) > value(self._node, "gnss_max_age_s"):
            return None
        return gnss[1]

    def truth_at(self, stamp_s: float) -> tuple[float, float] | None:
        """(lat_deg, lon_deg) from the topic truth, for the overlay only."""
        return self._truth.at(stamp_s, 0.05)

    def _camera_for(self, image: np.ndarray | None) -> CameraModel:
        camera = self._camera
        if isinstance(camera, GeolocError):
            raise camera
        if image is not None and image.shape[:2] != (camera.height, camera.width):
            raise GeolocError(
                f"image is {image.shape[1]}x{image.shape[0]} px, but camera_info is of "
                f"{camera.width}x{camera.height}; publish the camera_info of this image"
            )
        return camera

    def _attitude_at(self, stamp_s: float) -> Quaternion:
        """ENU from FLU body at a time; GeolocError where no sample is near or it is broken."""
        max_age_s = value(self._node, "imu_max_age_s")
        self._attitude.wait_for(stamp_s, value(self._node, "sensor_wait_s"))
        attitude = self._attitude.at(stamp_s, max_age_s)
        if attitude is None:
            raise GeolocError(_missing("attitude", self._imu, stamp_s, self._attitude.newest_s(), max_age_s))
        if isinstance(attitude, GeolocError):
            raise attitude
        return attitude

    def _expects_imu(self) -> bool:
        if self._attitude_source != "auto":
            return self._attitude_source == "imu"
        return len(self._attitude) > 0 or self._node.count_publishers(self._imu) > 0

    def _height_at(self, stamp_s: float) -> float:
        max_age_s = value(self._node, "altitude_max_age_s")
        if self._altitude_is_stamped:
            self._height_m.wait_for(stamp_s, value(self._node, "sensor_wait_s"))
        height_m = self._height_m.at(stamp_s, max_age_s)
        if height_m is None:
            raise GeolocError(
                _missing("height above ground", self._altitude, stamp_s, self._height_m.newest_s(), max_age_s)
            )
        if isinstance(height_m, GeolocError):
            raise height_m
        return height_m

    def _on_camera_info(self, message: CameraInfo) -> None:
        try:
            self._camera = camera_from_info(message)
        except GeolocError as error:
            self._camera = error

    def _on_imu(self, message: Imu) -> None:
        self._attitude.add(message_time_s(message), _or_error(quaternion_from_imu, message))

    def _on_altitude(self, message: Float64 | Range) -> None:
        # Float64 has no stamp: its moment is that of its arrival.
        now_s = self._node.get_clock().now().nanoseconds * 1e-9
        stamp_s = message_time_s(message) if isinstance(message, Range) else now_s
        self._height_m.add(stamp_s, _or_error(height_from_altitude, message))

    def _on_odom(self, message: Odometry) -> None:
        try:
            motion = motion_from_odometry(message)
            stamp_s = message_time_s(message)
            self.odometry.add(stamp_s, motion.position_m, np.array(motion.velocity_enu_m_s), motion.sigma_m_s)
            self._odom.add(stamp_s, motion)
        except GeolocError as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=10.0)

    def _on_gnss(self, message: NavSatFix) -> None:
        fix = gnss_from_fix(message)
        with self._lock:
            self._gnss = None if fix is None else (message_time_s(message), fix)

    def _on_truth(self, message: NavSatFix) -> None:
        truth = gnss_from_fix(message)
        if truth is not None:
            self._truth.add(message_time_s(message), (truth.lat_deg, truth.lon_deg))


def _nearer(a: Any, b: Any, share: float) -> Any:
    return b if share > 0.5 else a


def _or_error(convert: Callable[[Any], Any], message: Any) -> Any:
    """The converted message, or the error that it ended in."""
    try:
        return convert(message)
    except GeolocError as error:
        return error


def _unless_broken(blend: Callable[[Any, Any, float], Any]) -> Callable[[Any, Any, float], Any]:
    """Blend two samples; where one of them is an error, give that."""

    def checked(a: Any, b: Any, share: float) -> Any:
        # At the very stamp of a sample only that one counts.
        needed = [sample for sample, weight in ((a, 1 - share), (b, share)) if weight > 0]
        broken = [sample for sample in needed if isinstance(sample, GeolocError)]
        return broken[0] if broken else blend(a, b, share) if len(needed) == 2 else needed[0]

    return checked


def _missing(what: str, topic: str, stamp_s: float, newest_s: float | None, max_age_s: float) -> str:
    """Why a frame has no sample of its moment."""
    if newest_s is None:
        return f"no {what} on {topic} yet; publish it or remap the topic"
    return (
        f"{what} on {topic} is {abs(stamp_s - newest_s):.2f} s away from the image, the limit is "
        f"{max_age_s:g} s; check its rate and that both use one clock"
    )
