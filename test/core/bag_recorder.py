# SPDX-License-Identifier: Apache-2.0
"""Messages and a recorder for tests of bags, apart from the writer under test."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN, quaternion_from_rotation
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.images import encode_image

STORE = get_typestore(Stores.ROS2_HUMBLE)
for _name in ("VehicleAttitude", "VehicleLocalPosition"):
    _file = Path(__file__).parents[1] / "nodes" / "px4_msgs" / "common" / f"{_name}.msg"
    STORE.register(get_types_from_msg(_file.read_text(encoding="utf-8"), f"px4_msgs/msg/{_name}"))
T = STORE.types
RECORDED_LATER_S = 1e6
"""The recorder's clock against the stamps'."""


def header(stamp_s: float) -> Any:
    nanoseconds = round(stamp_s * 1e9)
    time = T["builtin_interfaces/msg/Time"](nanoseconds // 10**9, nanoseconds % 10**9)
    return T["std_msgs/msg/Header"](time, "base_link")


def image_message(frame: Frame, compressed: bool) -> Any:
    assert frame.image is not None
    if compressed:
        data = cv2.imencode(".png", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))[1].ravel()
        return T["sensor_msgs/msg/CompressedImage"](header(frame.stamp_s), "png", data)
    data, step = encode_image(frame.image, "bgr8")
    height, width = frame.image.shape[:2]
    pixels = np.frombuffer(data, np.uint8)
    return T["sensor_msgs/msg/Image"](header(frame.stamp_s), height, width, "bgr8", 0, step, pixels)


def camera_message(frame: Frame) -> Any:
    camera = frame.camera
    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    k = camera.matrix.ravel()
    return T["sensor_msgs/msg/CameraInfo"](
        header(frame.stamp_s), camera.height, camera.width, camera.model, np.array(camera.distortion),
        k, np.eye(3).ravel(), np.zeros(12), 0, 0, roi,
    )  # fmt: skip


def imu_message(stamp_s: float, quaternion: tuple[float, ...], known: bool = True) -> Any:
    vector = T["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    covariance = np.zeros(9)
    if not known:
        covariance[0] = -1.0
    return T["sensor_msgs/msg/Imu"](
        header(stamp_s), T["geometry_msgs/msg/Quaternion"](*quaternion), covariance, vector, np.zeros(9),
        vector, np.zeros(9),
    )  # fmt: skip


def fix_message(stamp_s: float, lat_deg: float, lon_deg: float, status: int = 0) -> Any:
    return T["sensor_msgs/msg/NavSatFix"](
        header(stamp_s), T["sensor_msgs/msg/NavSatStatus"](status, 1), lat_deg, lon_deg, 0.0, np.zeros(9), 0
    )


def body_quaternion(frame: Frame, sign: float = 1.0) -> tuple[float, ...]:
    """Attitude of the FLU body whose camera looks down, as an IMU sends it; its sign has no meaning."""
    assert frame.rotation_enu_from_optical is not None
    q = quaternion_from_rotation(frame.rotation_enu_from_optical @ FLU_FROM_OPTICAL_DOWN.T)
    return tuple(sign * value for value in q)


class Recorder:
    """Writes messages to topics of a bag."""

    def __init__(self, path: Path, plugin: StoragePlugin = StoragePlugin.SQLITE3) -> None:
        self._writer = Writer(path, version=9, storage_plugin=plugin)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def write(self, topic: str, message: Any, stamp_s: float) -> None:
        """A message that was recorded RECORDED_LATER_S after `stamp_s`, by another clock."""
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=STORE)
        self._write(topic, STORE.serialize_cdr(message, kind), stamp_s)

    def write_raw(self, topic: str, kind: str, definition: str, raw: bytes, stamp_s: float) -> None:
        """Bytes of a type whose definition is this text, whatever they are."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, msgdef=definition, rihs01="RIHS01_" + "0" * 64
            )
        self._write(topic, raw, stamp_s)

    def _write(self, topic: str, raw: bytes, stamp_s: float) -> None:
        self._writer.write(self._connections[topic], round((stamp_s + RECORDED_LATER_S) * 1e9), raw)

    def close(self) -> None:
        self._writer.close()
