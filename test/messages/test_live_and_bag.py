# SPDX-License-Identifier: Apache-2.0
"""Odd values mean the same whether a message arrives live or is read from a bag: same numbers, same reason."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 in this environment")

from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.lifecycle import LifecycleNode  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from rosbags.rosbag2 import Writer  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
from sensor_msgs.msg import Image, Range  # noqa: E402

from geoloc_ros.core.bags.bag import Bag  # noqa: E402
from geoloc_ros.core.geometry.camera import CameraModel  # noqa: E402
from geoloc_ros.core.recording.frame import Frame  # noqa: E402
from geoloc_ros.core.recording.odometry_gate import OdometryLimits  # noqa: E402
from geoloc_ros.messages.sensors import (  # noqa: E402
    fix_from_position,
    float64,
    image_from_rgb,
    imu_from_quaternion,
    info_from_camera,
    no_fix,
    range_from_height,
)
from geoloc_ros.messages.stamps import message_time_s  # noqa: E402
from geoloc_ros.nodes.frame_inputs import FrameInputs, declare_input_parameters  # noqa: E402

CAMERA = CameraModel(8, 6, np.array([[5.0, 0.0, 3.5], [0.0, 5.0, 2.5], [0.0, 0.0, 1.0]]))
LEVEL = (0.0, 0.0, 0.0, 1.0)
PLACE = (27.1, 112.8)

Answer = tuple[Frame, tuple[float, float] | None]
"""A frame, and its true (latitude, longitude)."""
Route = Callable[[dict[str, Any]], Answer]


@pytest.fixture(scope="module")
def node() -> Iterator[LifecycleNode]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = LifecycleNode("inputs", context=context)
    declare_input_parameters(node)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.fixture(params=["live", "bag"])
def route(request: pytest.FixtureRequest, node: LifecycleNode, tmp_path: Path) -> Route:
    def live(messages: dict[str, Any]) -> Answer:
        kind = "range" if isinstance(messages["altitude"], Range) else "float64"
        node.set_parameters([Parameter("altitude_type", value=kind)])
        inputs = FrameInputs(node, lambda message: None, OdometryLimits(40.0, 15.0, 0.5))
        callbacks = {s.topic_name: s.callback for s in node.subscriptions}
        for name, message in messages.items():
            callbacks[f"/{name}"](message)
        frame = inputs.gather(messages["image"]).frame
        truth = inputs.truth_at(frame.stamp_s)
        inputs.close()
        return frame, truth

    def bag(messages: dict[str, Any]) -> Answer:
        store = get_typestore(Stores[f"ROS2_{os.environ.get('ROS_DISTRO', 'jazzy').upper()}"])
        with Writer(tmp_path / "bag", version=9) as writer:
            for name, message in messages.items():
                kind = f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"
                connection = writer.add_connection(f"/{name}", kind, typestore=store)
                recorded_ns = round(message_time_s(messages["image"]) * 1e9)
                writer.write(connection, recorded_ns, serialize_message(message))
        (frame,) = Bag(tmp_path / "bag")
        return frame, None if frame.truth is None else (frame.truth.lat_deg, frame.truth.lon_deg)

    return live if request.param == "live" else bag


@pytest.fixture
def stamp(node: LifecycleNode) -> Time:
    return node.get_clock().now().to_msg()


def messages_at(stamp: Time, **changed: Any) -> dict[str, Any]:
    """A frame's messages, all of one moment; `changed` replaces some by their topics."""
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    usual = {
        "camera_info": info_from_camera(CAMERA, stamp, "camera"),
        "imu": imu_from_quaternion(LEVEL, None, stamp, "base_link"),
        "altitude": float64(120.0),
        "truth": fix_from_position(*PLACE, 0.0, np.eye(2), 1.0, stamp, "base_link"),
        "image": image_from_rgb(pixels, stamp, "camera"),
    }
    return usual | changed


@pytest.mark.parametrize(
    ("quaternion", "reason"),
    [
        (LEVEL, ""),
        ((0.0, 0.0, 0.0, -2.0), ""),
        ((0.0, 0.0, 0.0, 0.0), "attitude quaternion is zero: the sender"),
        ((1e-9, 0.0, 0.0, 0.0), "attitude quaternion is zero: the sender"),
        ((math.nan, 0.0, 0.0, 1.0), "is not finite; check the IMU"),
        ((0.0, math.inf, 0.0, 1.0), "is not finite; check the IMU"),
    ],
)
def test_attitude(route: Route, stamp: Time, quaternion: tuple[float, ...], reason: str) -> None:
    frame, _ = route(messages_at(stamp, imu=imu_from_quaternion(quaternion, None, stamp, "base_link")))
    if reason:
        assert reason in frame.problem
        assert frame.rotation_enu_from_optical is None or np.isnan(frame.rotation_enu_from_optical).all()
    else:
        assert frame.problem == ""
        np.testing.assert_allclose(frame.rotation_enu_from_optical @ [0, 0, 1], [0, 0, -1], atol=1e-9)


def test_imu_that_measures_no_orientation(route: Route, stamp: Time) -> None:
    imu = imu_from_quaternion(LEVEL, None, stamp, "base_link")
    imu.orientation_covariance[0] = -1.0
    frame, _ = route(messages_at(stamp, imu=imu))
    assert frame.problem.startswith("imu message carries no orientation")


def ranged(height_m: float, low_m: float = 0.5, high_m: float = 200.0) -> Callable[[Time], Range]:
    def message(stamp: Time) -> Range:
        reading = range_from_height(height_m, stamp, "base_link")
        reading.min_range, reading.max_range = low_m, high_m
        return reading

    return message


@pytest.mark.parametrize(
    ("altitude", "height_m", "reason"),
    [
        (120.25, 120.25, ""),
        (1e-3, 1e-3, ""),
        (0.0, math.nan, "height above ground is 0.0 m; it must be positive"),
        (-0.0, math.nan, "height above ground is -0.0 m; it must be positive"),
        (-3.0, math.nan, "height above ground is -3.0 m; it must be positive"),
        (math.nan, math.nan, "height above ground is nan m; it must be positive"),
        (math.inf, math.nan, "height above ground is inf m; it must be positive"),
        (ranged(77.0), 77.0, ""),
        (ranged(0.25), math.nan, "range 0.25 m is outside the sensor's limits 0.50 to 200.00 m"),
        (ranged(math.inf), math.nan, "range inf m is outside the sensor's limits 0.50 to 200.00 m"),
        (ranged(math.nan), math.nan, "range nan m is outside the sensor's limits 0.50 to 200.00 m"),
        (ranged(300.0, 0.0, 0.0), 300.0, ""),
        (ranged(-2.5, 0.0, 0.0), math.nan, "height above ground is -2.5 m; it must be positive"),
    ],
)
def test_height(
    route: Route, stamp: Time, altitude: float | Callable[[Time], Range], height_m: float, reason: str
) -> None:
    message = altitude(stamp) if callable(altitude) else float64(altitude)
    frame, _ = route(messages_at(stamp, altitude=message))
    assert frame.height_m == pytest.approx(height_m, nan_ok=True)
    assert frame.problem.startswith(reason) if reason else frame.problem == ""


@pytest.mark.parametrize(
    ("lat_deg", "lon_deg", "variance_m2", "known"),
    [
        (*PLACE, 1.0, True),
        (-90.0, 180.0, 0.0, True),
        (91.0, 10.0, 1.0, False),
        (10.0, -180.5, 1.0, False),
        (math.nan, 10.0, 1.0, False),
        (10.0, math.inf, 1.0, False),
        (*PLACE, math.inf, False),
    ],
)
def test_position(route: Route, stamp: Time, lat_deg: float, lon_deg: float, variance_m2: float, known: bool) -> None:
    fix = fix_from_position(lat_deg, lon_deg, 0.0, np.eye(2), 1.0, stamp, "base_link")
    fix.position_covariance[0] = variance_m2
    _, truth = route(messages_at(stamp, truth=fix))
    assert truth == ((lat_deg, lon_deg) if known else None)


def test_no_fix(route: Route, stamp: Time) -> None:
    fix = no_fix(stamp, "base_link")
    fix.latitude, fix.longitude = PLACE
    _, truth = route(messages_at(stamp, truth=fix))
    assert truth is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step": 20}, "image step is 20 bytes"),
        ({"height": 7}, "image is truncated"),
        ({"encoding": "nv99"}, "image encoding 'nv99' is not supported"),
    ],
)
def test_broken_image(route: Route, stamp: Time, change: dict[str, Any], reason: str) -> None:
    messages = messages_at(stamp)
    for name, value in change.items():
        setattr(messages["image"], name, value)
    assert isinstance(messages["image"], Image)
    frame, _ = route(messages)
    assert frame.image is None
    assert frame.problem.startswith(reason)


def test_the_first_of_several_faults_is_reported(route: Route, stamp: Time) -> None:
    imu = imu_from_quaternion((0.0, 0.0, 0.0, 0.0), None, stamp, "base_link")
    frame, _ = route(messages_at(stamp, imu=imu, altitude=float64(-1.0)))
    assert "attitude" in frame.problem
