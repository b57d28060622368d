# SPDX-License-Identifier: Apache-2.0
"""A flight written as a bag and read again is the same flight, to the last bit; its memory does not grow with it."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag import Bag
from geoloc_ros.core.bags.bag_writer import write_bag
from geoloc_ros.core.recording.flight_folder import Flight, write_flight
from geoloc_ros.core.recording.frame import Frame


def assert_same(read: Frame, wanted: Frame) -> None:
    """Every number and every pixel, with no tolerance."""
    assert read.image is not None
    assert read.rotation_enu_from_optical is not None
    np.testing.assert_array_equal(read.image, wanted.image)
    np.testing.assert_array_equal(read.rotation_enu_from_optical, wanted.rotation_enu_from_optical)
    assert read.stamp_s == wanted.stamp_s
    assert read.height_m == wanted.height_m
    assert read.truth == wanted.truth
    assert read.camera == wanted.camera
    assert read.quaternion == wanted.quaternion


@pytest.mark.parametrize(
    ("storage", "compression", "raw"),
    [
        ("mcap", "none", False),
        ("mcap", "chunk", True),
        ("mcap", "message", False),
        ("mcap", "file", False),
        ("sqlite3", "none", True),
        ("sqlite3", "message", True),
        ("sqlite3", "file", False),
    ],
)
def test_flight_survives_to_the_last_bit(
    small_flight: Path, tmp_path: Path, storage: str, compression: str, raw: bool
) -> None:
    flight = Flight.open(small_flight)
    assert write_bag(tmp_path / "bag", flight.frames(0, 6), storage, compression, raw) == 6
    for read, wanted in zip(Bag(tmp_path / "bag"), flight.frames(0, 6), strict=True):
        assert_same(read, wanted)
        assert read.encoded == (None if raw else wanted.encoded)


def test_a_real_flight_survives_and_comes_back(shared_data: Path, tmp_path: Path) -> None:
    """Attitudes of six digits, whose quaternions are not quite of length one; there and back the folder is the same."""
    folder = shared_data / "flights" / "village"
    flight = Flight.open(folder)
    write_bag(tmp_path / "bag", flight.frames(0, 30), "sqlite3", "file")
    bag = Bag(tmp_path / "bag")
    for read, wanted in zip(bag, flight.frames(0, 30), strict=True):
        assert_same(read, wanted)
    assert write_flight(tmp_path / "back", bag.camera, bag) == 30
    back = Flight.open(tmp_path / "back")
    for read, wanted in zip(back, flight.frames(0, 30), strict=True):
        assert_same(read, wanted)
        assert read.encoded == wanted.encoded


def test_others_can_read_it(small_flight: Path, tmp_path: Path) -> None:
    """Topics, types and definitions as a recorder would have left them."""
    write_bag(tmp_path / "bag", Flight.open(small_flight).frames(0, 3), "mcap", "chunk")
    with AnyReader([tmp_path / "bag"]) as reader:
        assert {(c.topic, c.msgtype, c.msgcount) for c in reader.connections} == {
            ("/camera/image/compressed", "sensor_msgs/msg/CompressedImage", 3),
            ("/camera/camera_info", "sensor_msgs/msg/CameraInfo", 3),
            ("/imu", "sensor_msgs/msg/Imu", 3),
            ("/altitude", "std_msgs/msg/Float64", 3),
            ("/truth", "sensor_msgs/msg/NavSatFix", 3),
        }
        for connection, recorded_ns, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            if hasattr(message, "header"):
                assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == recorded_ns


def test_damaged_frames_leave_gaps(small_flight: Path, tmp_path: Path) -> None:
    good, blind, lost = Flight.open(small_flight).frames(0, 3)
    blind = dataclasses.replace(blind, image=None, encoded=None)
    lost = dataclasses.replace(lost, rotation_enu_from_optical=np.full((3, 3), np.nan), quaternion=None, truth=None)
    assert write_bag(tmp_path / "bag", [good, blind, lost]) == 3
    first, second = Bag(tmp_path / "bag")
    assert_same(first, good)
    assert second.truth is None
    assert "attitude" in second.problem


def test_mistakes_are_told_and_leave_nothing(small_flight: Path, tmp_path: Path) -> None:
    frames = list(Flight.open(small_flight).frames(0, 1))
    with pytest.raises(GeolocError, match="exists already"):
        write_bag(tmp_path, frames)
    with pytest.raises(GeolocError, match="no frame"):
        write_bag(tmp_path / "empty", [])
    with pytest.raises(GeolocError, match="only MCAP"):
        write_bag(tmp_path / "chunks", frames, "sqlite3", "chunk")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_memory_does_not_grow_with_the_bag(small_flight: Path, tmp_path: Path, storage: str) -> None:
    """A reader of 155 MB of images needs hardly more than one of 22 MB."""
    flight = Flight.open(small_flight)
    program = (
        "import resource, sys; from pathlib import Path; from geoloc_ros.core.bags.bag import Bag\n"
        "pixels = sum(frame.image.nbytes for frame in Bag(Path(sys.argv[1])))\n"
        "print(pixels, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    found = []
    for times in (1, 7):
        frames = (
            dataclasses.replace(frame, stamp_s=frame.stamp_s + 100.0 * number)
            for number in range(times)
            for frame in flight
        )
        write_bag(tmp_path / f"{times}", frames, storage, raw=True)
        output = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / f"{times}")], capture_output=True, text=True, check=True
        ).stdout
        found.append([int(value) for value in output.split()])
    (few, small_kib), (many, large_kib) = found
    assert many == 7 * few
    assert many > 150e6
    assert large_kib - small_kib < 50_000
