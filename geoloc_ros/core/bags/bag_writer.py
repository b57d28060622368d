# SPDX-License-Identifier: Apache-2.0
"""A flight as a rosbag2 recording, with the topics of a camera drone, written without ROS.

What `bags.Bag` reads from it are the flight's own numbers: pictures as the files that they were, stamps to the
nanosecond, heights and positions as doubles, attitudes to the digits of flight.csv. Every message counts as recorded at
its stamp, so that the same flight always gives the same bag.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rotations import body_from_optical_quaternion, quaternion_from_rotation
from geoloc_ros.core.recording.flight_folder import JPEG_MAGIC
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.images import encode_image
from geoloc_ros.messages.stamps import NS, stamp_from_seconds

FORMATS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
COMPRESSIONS = {
    "none": CompressionMode.NONE,
    "file": CompressionMode.FILE,
    "message": CompressionMode.MESSAGE,
    "chunk": CompressionMode.STORAGE,
}

_STORE = get_typestore(Stores.ROS2_HUMBLE)
_BASE_FRAME, _CAMERA_FRAME = "base_link", "camera_optical"
_NO_DATA = np.array([-1.0, *[0.0] * 8])
"""By REP-145 a covariance that begins so says that the sensor does not measure this."""


def write_bag(
    path: Path, frames: Iterable[Frame], storage: str = "mcap", compression: str = "none", raw: bool = False
) -> int:
    """Write frames as image (or image/compressed), camera_info, imu, altitude and truth; returns their number.

    storage: of FORMATS; compression: of COMPRESSIONS, with zstd; raw: pictures as pixels, not as files. A picture that
    is damaged, an attitude or a truth that is not there are left out. GeolocError where something lies at `path`, or
    for chunks in sqlite3. A bag that cannot be finished is removed.
    """
    if path.exists():
        raise GeolocError(f"{path} exists already; remove it or give the bag another name")
    if (storage, compression) == ("sqlite3", "chunk"):
        raise GeolocError("only MCAP has chunks to compress; choose file or message for sqlite3")
    writer = Writer(path, version=9, storage_plugin=FORMATS[storage])
    writer.set_compression(COMPRESSIONS[compression], CompressionFormat.ZSTD)
    count = 0
    try:
        with writer:
            recorder = _Recorder(writer)
            for frame in frames:
                recorder.write_frame(frame, raw)
                count += 1
            if not count:
                raise GeolocError("there is no frame to write into the bag")
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return count


class _Recorder:
    """Frames to messages, messages to topics."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._connections: dict[str, Any] = {}

    def write_frame(self, frame: Frame, raw: bool) -> None:
        sec, nanosec = stamp_from_seconds(frame.stamp_s)
        recorded_ns = sec * NS + nanosec
        stamp = _make("builtin_interfaces/msg/Time", sec, nanosec)
        body, camera = (_make("std_msgs/msg/Header", stamp, name) for name in (_BASE_FRAME, _CAMERA_FRAME))
        self._write("/camera/camera_info", _camera_info(frame, camera), recorded_ns)
        if frame.rotation_enu_from_optical is not None:
            self._write("/imu", _imu(frame, body), recorded_ns)
        self._write("/altitude", _make("std_msgs/msg/Float64", frame.height_m), recorded_ns)
        if frame.truth is not None:
            self._write("/truth", _truth(frame, body), recorded_ns)
        if frame.encoded is not None and not raw:
            self._write("/camera/image/compressed", _compressed(frame.encoded, camera), recorded_ns)
        elif frame.image is not None:
            self._write("/camera/image", _image(frame.image, camera), recorded_ns)

    def _write(self, topic: str, message: Any, recorded_ns: int) -> None:
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=_STORE)
        self._writer.write(self._connections[topic], recorded_ns, _STORE.serialize_cdr(message, kind))


def _make(kind: str, *fields: Any) -> Any:
    return _STORE.types[kind](*fields)


def _image(image: np.ndarray, header: Any) -> Any:
    data, step = encode_image(image, "rgb8")
    height, width = image.shape[:2]
    return _make(
        "sensor_msgs/msg/Image", header, height, width, "rgb8", 0, step, np.frombuffer(data, np.uint8)
    )


def _compressed(encoded: bytes, header: Any) -> Any:
    form = "jpeg" if encoded.startswith(JPEG_MAGIC) else "png"
    data = np.frombuffer(encoded, np.uint8)
    return _make("sensor_msgs/msg/CompressedImage", header, f"bgr8; {form} compressed bgr8", data)


def _camera_info(frame: Frame, header: Any) -> Any:
    camera = frame.camera
    whole = _make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
    projection = np.hstack([camera.matrix, np.zeros((3, 1))])
    return _make(
        "sensor_msgs/msg/CameraInfo", header, camera.height, camera.width, camera.model,
        np.array(camera.distortion), camera.matrix.ravel(), np.eye(3).ravel(), projection.ravel(), 0, 0, whole,
    )  # fmt: skip


def _imu(frame: Frame, header: Any) -> Any:
    quaternion = frame.quaternion
    if quaternion is None:
        rotation = np.asarray(frame.rotation_enu_from_optical)
        known = bool(np.all(np.isfinite(rotation)))
        quaternion = quaternion_from_rotation(rotation) if known else (math.nan,) * 4
    body = _make("geometry_msgs/msg/Quaternion", *body_from_optical_quaternion(quaternion))
    nothing = _make("geometry_msgs/msg/Vector3", 0.0, 0.0, 0.0)
    return _make("sensor_msgs/msg/Imu", header, body, np.zeros(9), nothing, _NO_DATA, nothing, _NO_DATA)


def _truth(frame: Frame, header: Any) -> Any:
    assert frame.truth is not None
    status = _make("sensor_msgs/msg/NavSatStatus", 0, 1)
    # The height above ground is no altitude: NaN says that none is known.
    place = frame.truth.lat_deg, frame.truth.lon_deg, math.nan
    return _make("sensor_msgs/msg/NavSatFix", header, status, *place, np.zeros(9), 0)
