# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (sqlite3 or MCAP) as the frames that a flight folder gives; no ROS needed to read them."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_typestore

from geoloc_models.errors import GeolocError
from geoloc_ros.core.camera import CameraModel, rotation_enu_from_optical
from geoloc_ros.core.flight import Flight, Frame, Truth
from geoloc_ros.core.images import decode_compressed, decode_image

_REACH_S = 1.0
"""A frame outside a sensor's recorded span by more than this has no value of that sensor."""


@dataclass(frozen=True)
class _Role:
    """What a topic is for: its message types, and how it is usually called."""

    types: tuple[str, ...]
    names: tuple[str, ...]
    needed: bool = True


_ROLES = {
    "image": _Role(("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"), ("image",)),
    "camera_info": _Role(("sensor_msgs/msg/CameraInfo",), ("camera_info",)),
    "imu": _Role(("sensor_msgs/msg/Imu",), ("imu",), needed=False),
    "altitude": _Role(("std_msgs/msg/Float64", "sensor_msgs/msg/Range"), ("altitude", "rel_alt", "height")),
    "truth": _Role(("sensor_msgs/msg/NavSatFix",), ("truth",), needed=False),
}


@dataclass(frozen=True)
class _Series:
    """Samples of one sensor by time: stamps (n,) s, values (n, k); a row of NaN is a bad sample."""

    stamps_s: np.ndarray
    values: np.ndarray

    def at(self, stamp_s: float) -> np.ndarray | None:
        """Values at a time, linear between neighbours; None beyond the recorded span."""
        if not len(self.stamps_s) or not (
            self.stamps_s[0] - _REACH_S <= stamp_s <= self.stamps_s[-1] + _REACH_S
        ):
            return None
        after = int(np.clip(np.searchsorted(self.stamps_s, stamp_s), 1, max(len(self.stamps_s) - 1, 1)))
        before = after - 1
        if len(self.stamps_s) == 1:
            return self.values[0]
        span_s = self.stamps_s[after] - self.stamps_s[before]
        share = np.clip((stamp_s - self.stamps_s[before]) / span_s, 0.0, 1.0) if span_s > 0 else 1.0
        # At a sample its neighbour does not matter, even if that one is bad.
        parts = [(1 - share, before), (share, after)]
        return np.sum([weight * self.values[index] for weight, index in parts if weight > 0], axis=0)


class Bag:
    """A recorded flight, read frame by frame. Attitude, height and truth are those of the picture's own time."""

    def __init__(self, path: Path, topics: dict[str, str]) -> None:
        """`topics` names the topic of a role; roles left out are found by message type and name."""
        self.path = path
        with _reader(path) as reader:
            self._topics = _choose(reader, topics)
            self._count = sum(c.msgcount for c in reader.connections if c.topic == self._topics["image"])
            sensors = _Sensors(reader, self._topics)
        self.camera = sensors.camera
        self._attitude, self._height, self._truth = sensors.attitude, sensors.height, sensors.truth

    @property
    def map_path(self) -> Path:
        """A bag carries no raster: always a GeolocError."""
        raise GeolocError(f"{self.path} is a bag and has no map of its own; name one with --map")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Frame]:
        with _reader(self.path) as reader:
            for _, message in _messages(reader, self._topics["image"]):
                yield self._frame(message)

    def _frame(self, message: Any) -> Frame:
        stamp_s = _stamp_s(message)
        image, rotation, problem = None, None, ""
        try:
            if hasattr(message, "format"):
                image = decode_compressed(message.data)
            else:
                image = decode_image(
                    message.encoding, message.height, message.width, message.step, message.data,
                    message.is_bigendian,
                )  # fmt: skip
        except GeolocError as error:
            problem = str(error)
        if self._attitude is not None:
            quaternion = self._attitude.at(stamp_s)
            rotation = np.full((3, 3), np.nan)
            try:
                rotation = rotation_enu_from_optical(
                    [math.nan] * 4 if quaternion is None else quaternion.tolist()
                )
            except GeolocError as error:
                problem = problem or str(error)
        height = self._height.at(stamp_s)
        height_m = float(height[0]) if height is not None else math.nan
        truth = self._truth.at(stamp_s) if self._truth is not None else None
        return Frame(
            image=image,
            stamp_s=stamp_s,
            rotation_enu_from_optical=rotation,
            height_m=height_m,
            camera=self.camera,
            truth=Truth(float(truth[0]), float(truth[1]), height_m)
            if truth is not None and np.all(np.isfinite(truth))
            else None,
            problem=problem,
        )


def open_recording(path: Path, topics: Sequence[str] = ()) -> Flight | Bag:
    """A flight folder or a bag, told apart by what lies there. `topics` are "role=name", for bags.

    GeolocError where there is neither, or where a topic is missing or not to be told from others.
    """
    if path.is_dir() and (path / "flight.csv").is_file():
        if topics:
            raise GeolocError(f"{path} is a flight folder and has no topics; leave --topic out")
        return Flight.open(path)
    # A bag is its folder; people also name the file in it.
    folder = path.parent if path.suffix in (".mcap", ".db3") else path
    if (folder / "metadata.yaml").is_file():
        return Bag(folder, _parse_topics(topics))
    raise GeolocError(
        f"{path} is neither a flight folder (flight.csv, camera.yaml, frames/) nor a rosbag2 (a folder with "
        "metadata.yaml; `ros2 bag reindex` makes one)"
    )


def _parse_topics(topics: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for text in topics:
        role, _, name = text.partition("=")
        if role not in _ROLES or not name:
            raise GeolocError(
                f"'{text}' names no topic; write ROLE=NAME with ROLE one of {', '.join(_ROLES)}"
            )
        chosen[role] = name
    return chosen


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[AnyReader]:
    """An open bag; damage that shows now or while it is read ends in a GeolocError."""
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            yield reader
    except (AnyReaderError, ReaderError, OSError, sqlite3.Error) as error:
        raise GeolocError(f"bag {path} cannot be read: {error}; try `ros2 bag reindex`") from None


def _choose(reader: AnyReader, topics: dict[str, str]) -> dict[str, str]:
    """The topic of every role that the bag has; GeolocError where one is missing or cannot be told."""
    chosen: dict[str, str] = {}
    for role, what in _ROLES.items():
        found = sorted({c.topic for c in reader.connections if c.msgtype in what.types and c.msgcount})
        if role in topics:
            if topics[role] not in found:
                raise GeolocError(
                    f"the bag has no {role} topic {topics[role]}; it has {', '.join(found) or 'none'}"
                )
            found = [topics[role]]
        # What the localizer itself publishes is never its input.
        usual = [topic for topic in found if any(n in topic for n in what.names) and "heatmap" not in topic]
        found = usual if usual and len(found) > 1 else found
        if len(found) == 1:
            chosen[role] = found[0]
        elif found:
            raise GeolocError(
                f"the bag has several topics for {role}: {', '.join(found)}; use --topic {role}=NAME"
            )
        elif what.needed:
            raise GeolocError(f"the bag has no topic for {role}: none of type {' or '.join(what.types)}")
    return chosen


def _messages(reader: AnyReader, topic: str) -> Iterator[tuple[float, Any]]:
    """(time of recording in s, message) of one topic."""
    connections = [c for c in reader.connections if c.topic == topic]
    for connection, recorded_ns, raw in reader.messages(connections=connections):
        yield recorded_ns * 1e-9, reader.deserialize(raw, connection.msgtype)


def _stamp_s(message: Any) -> float:
    return float(message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)


class _Sensors:
    """Everything of a bag but its pictures; small enough to read at once."""

    def __init__(self, reader: AnyReader, topics: dict[str, str]) -> None:
        self.camera = self._read_camera(reader, topics["camera_info"])
        self.height = self._read_height(reader, topics)
        self.attitude = self._read_attitude(reader, topics["imu"]) if "imu" in topics else None
        self.truth = self._read_truth(reader, topics["truth"]) if "truth" in topics else None

    def _read_camera(self, reader: AnyReader, topic: str) -> CameraModel:
        message = next(message for _, message in _messages(reader, topic))
        return CameraModel(
            width=message.width,
            height=message.height,
            matrix=np.asarray(message.k, dtype=np.float64).reshape(3, 3),
            distortion=tuple(float(value) for value in message.d),
            model=message.distortion_model or "plumb_bob",
        )

    def _read_height(self, reader: AnyReader, topics: dict[str, str]) -> _Series:
        samples = []
        delay_s: float | None = None
        for recorded_s, message in _messages(reader, topics["altitude"]):
            if hasattr(message, "header"):
                samples.append((_stamp_s(message), [message.range]))
                continue
            if delay_s is None:
                # A Float64 has no stamp: its time of recording, in the pictures' clock.
                delay_s = _recording_delay_s(reader, topics["camera_info"])
            samples.append((recorded_s - delay_s, [message.data]))
        return _series(samples)

    def _read_attitude(self, reader: AnyReader, topic: str) -> _Series:
        samples: list[tuple[float, list[float]]] = []
        for _, message in _messages(reader, topic):
            o = message.orientation
            quaternion = np.array([o.x, o.y, o.z, o.w])
            norm = float(np.linalg.norm(quaternion))
            # By sensor_msgs/Imu, -1 here says that the sensor gives no orientation.
            if message.orientation_covariance[0] == -1 or not norm > 1e-6:
                quaternion = np.full(4, np.nan)
            elif samples and np.dot(samples[-1][1], quaternion) < 0:
                quaternion = -quaternion  # the same attitude, on the side that can be interpolated
            samples.append((_stamp_s(message), (quaternion / norm if norm > 0 else quaternion).tolist()))
        return _series(samples)

    def _read_truth(self, reader: AnyReader, topic: str) -> _Series:
        samples = [
            (_stamp_s(message), [message.latitude, message.longitude])
            for _, message in _messages(reader, topic)
            if message.status.status >= 0
        ]
        return _series(samples)


def _recording_delay_s(reader: AnyReader, topic: str) -> float:
    """Median time from a message's stamp to its recording; it also holds the difference between two clocks."""
    delays = [recorded_s - _stamp_s(message) for recorded_s, message in _messages(reader, topic)]
    return float(np.median(delays))


def _series(samples: list[tuple[float, list[float]]]) -> _Series:
    samples = sorted(samples, key=lambda sample: sample[0])
    return _Series(
        np.array([stamp for stamp, _ in samples]), np.array([value for _, value in samples], dtype=np.float64)
    )
