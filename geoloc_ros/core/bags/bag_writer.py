# SPDX-License-Identifier: Apache-2.0
"""A flight as a rosbag2 recording, with the topics of a camera drone, written without ROS.

What `bag.Bag` reads from it are the flight's own numbers: images as the files that they were, stamps to the
nanosecond, heights and positions as doubles, attitudes to the digits of flight.csv. Every message counts as recorded at
its stamp, so that the same flight always gives the same bag.
"""

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
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.messages.reading import Quaternion
from geoloc_ros.messages.sensors import (
    compressed_from_file,
    fix_from_truth,
    float64,
    image_from_rgb,
    imu_from_quaternion,
    info_from_camera,
    time_from_seconds,
)
from geoloc_ros.messages.stamps import NS

FORMATS = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
COMPRESSIONS = {
    "none": CompressionMode.NONE,
    "file": CompressionMode.FILE,
    "message": CompressionMode.MESSAGE,
    "chunk": CompressionMode.STORAGE,
}

_STORE = get_typestore(Stores.ROS2_HUMBLE)
_BASE_FRAME, _CAMERA_FRAME = "base_link", "camera_optical"


def write_bag(
    path: Path, frames: Iterable[Frame], storage: str = "mcap", compression: str = "none", raw: bool = False
) -> int:
    """Write frames as image (or image/compressed), camera_info, imu, altitude and truth; returns their number.

    storage: of FORMATS; compression: of COMPRESSIONS, with zstd; raw: images as pixels, not as files. An image that
    is damaged, an attitude or a truth that is missing are left out. GeolocError where something lies at `path`, or
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
        stamp = time_from_seconds(frame.stamp_s, _make)
        messages = {"/camera/camera_info": info_from_camera(frame.camera, stamp, _CAMERA_FRAME, _make)}
        if frame.rotation_enu_from_optical is not None:
            attitude = body_from_optical_quaternion(_quaternion(frame))
            messages["/imu"] = imu_from_quaternion(attitude, None, stamp, _BASE_FRAME, _make)
        messages["/altitude"] = float64(frame.height_m, _make)
        if frame.truth is not None:
            place = frame.truth.lat_deg, frame.truth.lon_deg
            messages["/truth"] = fix_from_truth(*place, stamp, _BASE_FRAME, _make)
        if frame.encoded is not None and not raw:
            file = compressed_from_file(frame.encoded, stamp, _CAMERA_FRAME, _make)
            messages["/camera/image/compressed"] = file
        elif frame.image is not None:
            messages["/camera/image"] = image_from_rgb(frame.image, stamp, _CAMERA_FRAME, make=_make)
        for topic, message in messages.items():
            self._write(topic, message, stamp.sec * NS + stamp.nanosec)

    def _write(self, topic: str, message: Any, recorded_ns: int) -> None:
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=_STORE)
        self._writer.write(self._connections[topic], recorded_ns, _STORE.serialize_cdr(message, kind))


def _make(name: str, **fields: Any) -> Any:
    """rosbags' message of a type such as sensor_msgs/Imu."""
    arrays = {key: np.frombuffer(value, np.uint8) for key, value in fields.items() if isinstance(value, bytes)}
    return _STORE.types[name.replace("/", "/msg/")](**fields | arrays)


def _quaternion(frame: Frame) -> Quaternion:
    """The camera's attitude as recorded, else of its rotation; NaN for one that is not finite."""
    if frame.quaternion is not None:
        return frame.quaternion
    rotation = np.asarray(frame.rotation_enu_from_optical)
    return quaternion_from_rotation(rotation) if np.isfinite(rotation).all() else (math.nan,) * 4
