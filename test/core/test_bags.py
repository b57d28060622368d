# SPDX-License-Identifier: Apache-2.0
"""Bags give the frames of the flight that was recorded: sqlite3 and MCAP, raw and compressed."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags import Bag, open_recording
from geoloc_ros.core.camera import FLU_FROM_OPTICAL_DOWN, quaternion_from_rotation
from geoloc_ros.core.flight import Flight, Frame
from geoloc_ros.core.images import encode_image

STORE = get_typestore(Stores.ROS2_HUMBLE)
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
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=STORE)
        recorded_ns = round((stamp_s + RECORDED_LATER_S) * 1e9)
        self._writer.write(self._connections[topic], recorded_ns, STORE.serialize_cdr(message, kind))

    def close(self) -> None:
        self._writer.close()


def record(
    flight: Path, path: Path, plugin: StoragePlugin, compressed: bool = False, sensors_hz_late_s: float = 0.0
) -> list[Frame]:
    """Record a flight's frames with its sensors; the sensors sample `sensors_hz_late_s` off the frames."""
    frames = list(Flight.open(flight))[:6]
    recorder = Recorder(path, plugin)
    for index, frame in enumerate(frames):
        recorder.write("/camera/image", image_message(frame, compressed), frame.stamp_s)
        recorder.write("/camera/camera_info", camera_message(frame), frame.stamp_s)
        assert frame.truth is not None
        stamp_s = frame.stamp_s + sensors_hz_late_s
        recorder.write("/imu", imu_message(stamp_s, body_quaternion(frame, (-1.0) ** index)), stamp_s)
        recorder.write("/altitude", T["std_msgs/msg/Float64"](frame.height_m), stamp_s)
        recorder.write("/truth", fix_message(stamp_s, frame.truth.lat_deg, frame.truth.lon_deg), stamp_s)
    recorder.close()
    return frames


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize("compressed", [False, True])
def test_bag_gives_the_recorded_frames(
    small_flight: Path, tmp_path: Path, plugin: StoragePlugin, compressed: bool
) -> None:
    expected = record(small_flight, tmp_path / "bag", plugin, compressed)
    bag = open_recording(tmp_path / "bag")
    assert len(bag) == len(expected)
    for _ in range(2):  # a bag can be read again
        for frame, wanted in zip(bag, expected, strict=True):
            assert frame.image is not None
            np.testing.assert_array_equal(frame.image, wanted.image)
            assert frame.stamp_s == pytest.approx(wanted.stamp_s, abs=1e-6)
            np.testing.assert_allclose(
                frame.rotation_enu_from_optical, wanted.rotation_enu_from_optical, atol=1e-9
            )
            assert frame.height_m == pytest.approx(wanted.height_m)
            assert frame.truth is not None
            assert wanted.truth is not None
            assert (frame.truth.lat_deg, frame.truth.lon_deg) == (wanted.truth.lat_deg, wanted.truth.lon_deg)
            assert dataclasses.asdict(frame.camera)["model"] == wanted.camera.model
            np.testing.assert_array_equal(frame.camera.matrix, wanted.camera.matrix)


def test_sensors_between_frames_are_interpolated(small_flight: Path, tmp_path: Path) -> None:
    frames = record(small_flight, tmp_path / "bag", StoragePlugin.SQLITE3, sensors_hz_late_s=0.25)
    read = list(Bag(tmp_path / "bag", {}))
    # Frames are 0.5 s apart, so every frame lies in the middle of two samples.
    for frame, before, after in zip(read[1:], frames, frames[1:], strict=False):
        assert frame.truth is not None
        assert before.truth is not None
        assert after.truth is not None
        assert frame.truth.lat_deg == pytest.approx(
            (before.truth.lat_deg + after.truth.lat_deg) / 2, abs=1e-10
        )
        assert frame.rotation_enu_from_optical is not None
        assert before.rotation_enu_from_optical is not None
        assert after.rotation_enu_from_optical is not None
        # The chordal mean of two rotations is the one halfway between.
        left, _, right = np.linalg.svd(before.rotation_enu_from_optical + after.rotation_enu_from_optical)
        np.testing.assert_allclose(frame.rotation_enu_from_optical, left @ right, atol=1e-6)


def test_bad_samples_and_pictures_do_not_end_a_flight(small_flight: Path, tmp_path: Path) -> None:
    frames = list(Flight.open(small_flight))[:3]
    recorder = Recorder(tmp_path / "bag")
    for index, frame in enumerate(frames):
        message = image_message(frame, compressed=True)
        if index == 1:
            message.data = message.data[: len(message.data) // 2]
        recorder.write("/image", message, frame.stamp_s)
        recorder.write("/camera_info", camera_message(frame), frame.stamp_s)
        recorder.write("/imu", imu_message(frame.stamp_s, (0.0, 0.0, 0.0, 0.0)), frame.stamp_s)
        recorder.write("/altitude", T["std_msgs/msg/Float64"](math.nan), frame.stamp_s)
        recorder.write("/truth", fix_message(frame.stamp_s, 1.0, 2.0, status=-1), frame.stamp_s)
    recorder.close()
    read = list(Bag(tmp_path / "bag", {}))
    assert [frame.image is None for frame in read] == [False, True, False]
    assert "does not decode" in read[1].problem
    for frame in read:
        assert frame.rotation_enu_from_optical is not None
        assert np.isnan(frame.rotation_enu_from_optical).all()
        assert "attitude" in read[0].problem
        assert math.isnan(frame.height_m)
        assert frame.truth is None


def test_without_imu_the_attitude_is_unknown(small_flight: Path, tmp_path: Path) -> None:
    frame = next(iter(Flight.open(small_flight)))
    recorder = Recorder(tmp_path / "bag")
    recorder.write("/image", image_message(frame, compressed=False), frame.stamp_s)
    recorder.write("/camera_info", camera_message(frame), frame.stamp_s)
    reading = T["sensor_msgs/msg/Range"](header(frame.stamp_s), 0, 0.1, 1.0, 200.0, 77.0)
    recorder.write("/range", reading, frame.stamp_s)
    recorder.close()
    (read,) = Bag(tmp_path / "bag", {})
    assert read.rotation_enu_from_optical is None
    assert read.height_m == 77.0
    assert read.truth is None


def test_topics_are_told_apart_or_asked_for(small_flight: Path, tmp_path: Path) -> None:
    frame = next(iter(Flight.open(small_flight)))
    recorder = Recorder(tmp_path / "bag")
    for topic in ("/left/image", "/right/image", "/localizer/heatmap"):
        recorder.write(topic, image_message(frame, compressed=False), frame.stamp_s)
    recorder.write("/camera_info", camera_message(frame), frame.stamp_s)
    recorder.write("/altitude", T["std_msgs/msg/Float64"](50.0), frame.stamp_s)
    recorder.write("/battery", T["std_msgs/msg/Float64"](11.1), frame.stamp_s)
    recorder.write("/localizer/fix", fix_message(frame.stamp_s, 1.0, 2.0), frame.stamp_s)
    recorder.write("/truth", fix_message(frame.stamp_s, 3.0, 4.0), frame.stamp_s)
    recorder.close()
    with pytest.raises(GeolocError, match="--topic image=NAME"):
        open_recording(tmp_path / "bag")
    (read,) = open_recording(tmp_path / "bag", ["image=/right/image"])
    assert read.height_m == 50.0
    assert read.truth is not None
    assert read.truth.lat_deg == 3.0
    with pytest.raises(GeolocError, match="no image topic /up"):
        open_recording(tmp_path / "bag", ["image=/up"])
    for wrong in ("sonar=/x", "image"):
        with pytest.raises(GeolocError, match="ROLE=NAME"):
            open_recording(tmp_path / "bag", [wrong])


def test_what_is_no_recording_is_refused(small_flight: Path, tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match="neither"):
        open_recording(tmp_path)
    (tmp_path / "x.mcap").write_bytes(b"not a bag at all")
    with pytest.raises(GeolocError, match="cannot be read"):
        open_recording(tmp_path / "x.mcap")
    with pytest.raises(GeolocError, match="no topics"):
        open_recording(small_flight, ["image=/image"])
    recorder = Recorder(tmp_path / "bag")
    recorder.write("/altitude", T["std_msgs/msg/Float64"](50.0), 1.0)
    recorder.close()
    with pytest.raises(GeolocError, match="no topic for image"):
        open_recording(tmp_path / "bag")
    record(small_flight, tmp_path / "good", StoragePlugin.SQLITE3)
    with pytest.raises(GeolocError, match="--map"):
        _ = open_recording(tmp_path / "good").map_path


@pytest.mark.parametrize("plugin", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_damaged_bags_are_said_to_be(small_flight: Path, tmp_path: Path, plugin: StoragePlugin) -> None:
    record(small_flight, tmp_path / "bag", plugin)
    (file,) = [path for path in (tmp_path / "bag").iterdir() if path.suffix in (".db3", ".mcap")]
    assert len(open_recording(file)) == 6
    (tmp_path / "bag" / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    assert len(open_recording(tmp_path / "bag")) == 6, "the recording is read without its metadata"
    whole = file.read_bytes()
    for share in (0.0, 0.001, 0.5 if plugin == StoragePlugin.SQLITE3 else 0.01):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(GeolocError, match="cannot be read"):
            list(open_recording(tmp_path / "bag"))
