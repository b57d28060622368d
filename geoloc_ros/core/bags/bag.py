# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings (sqlite3 or MCAP) as the frames that a flight folder gives; no ROS needed to read them.

A first pass keeps all sensors and the times of the images, tens of bytes each; the images themselves are read one
at a time, so memory does not grow with theirs. All times are whole nanoseconds: a sensor sample that was taken with a
image is that image's, to the last bit.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag_files import Topic
from geoloc_ros.core.bags.bag_series import OTHER_CLOCK_S, Lag, Samples, Series
from geoloc_ros.core.bags.bag_storage import BagStorage, is_bag
from geoloc_ros.core.bags.bag_topics import Choice, choose_topics, needed_topics, parse_topics
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import DOWN_XYZW, optical_from_body_quaternion, rotation_from_quaternion
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.recording.timeline import blend_quaternions
from geoloc_ros.messages.reading import (
    camera_from_info,
    gnss_from_fix,
    height_from_altitude,
    quaternion_from_imu,
    rgb_from_image,
)
from geoloc_ros.messages.stamps import NS, header_stamp_ns, seconds_from_ns, stamp_ns

_QUATERNION_DIGITS = 9
"""As many as flight.csv has: a flight folder and a bag of it give the same number."""

_UNSTAMPED = -1
"""Stands for the stamp of a message that has no field for one."""

_PROGRESS_EVERY = 256
_TRIED_IMAGES = 8


def _read_place(message: Any) -> tuple[float, ...]:
    fix = gnss_from_fix(message)
    return (math.nan, math.nan) if fix is None else (fix.lat_deg, fix.lon_deg)


_SENSORS: dict[str, tuple[Callable[[Any], tuple[float, ...]], int]] = {
    "imu": (quaternion_from_imu, 4),
    "altitude": (lambda message: (height_from_altitude(message),), 1),
    "truth": (_read_place, 2),
}
"""By role: what turns a message into numbers, and how many they are."""

Advance = Callable[[int, int], None]
"""Called with (messages read, messages in all) now and then."""


class Bag:
    """A recorded flight, read frame by frame. Attitude, height and truth are those of the image's own time."""

    REACH_S: ClassVar[dict[str, float]] = {"imu": 0.5, "altitude": 1.0, "truth": 1.0}
    """A frame further than this from a sample around it does without that sample; truth needs one on either side."""

    def __init__(
        self,
        path: Path,
        asked: dict[str, str] | None = None,
        advance: Advance = lambda done, total: None,
        mount: Sequence[float] = DOWN_XYZW,
    ) -> None:
        """`asked` names the topic of a role; roles left out are found by message type and name.

        mount: quaternion (qx, qy, qz, qw) that turns the camera's optical frame into the FLU body of the attitude.

        GeolocError where a topic is missing or ambiguous, or the camera is not that of the images.
        """
        self.path = path
        rotation_from_quaternion(*mount)  # refuses what is no rotation
        self._mount = mount
        self._storage = BagStorage(path)
        self.choices: dict[str, Choice] = choose_topics(self._storage, asked or {})
        self.topics = needed_topics(self.choices)
        self.notes = [self._storage.ends_early] if self._storage.ends_early else []
        images, sensors, self.camera = self._read(advance)
        self._leaves_out_unset = False
        images, sensors = self._stamped(images, sensors)
        self._stamps_ns, self._recorded_ns = images.times()
        lag = self._image_clock(images)
        self._sensors = {
            role: _series(role, self._on_image_clock(role, samples, lag), samples) for role, samples in sensors.items()
        }
        self._check_size()

    @property
    def ends_early(self) -> str:
        """Where a recording that was cut off ends; empty for a whole one."""
        return self._storage.ends_early

    @property
    def map_path(self) -> Path:
        """A bag carries no raster: always a GeolocError."""
        raise GeolocError(f"{self.path} is a bag and has no map of its own; name one with --map")

    def described(self) -> list[str]:
        """Which topic is used for what, and what is odd, a line each."""
        lines = []
        for role, choice in self.choices.items():
            topic = choice.topic
            if topic is None:
                lines.append(f"{role}: none; {choice.why}")
            else:
                lines.append(f"{role}: {topic.name} ({topic.msgtype}, {topic.count} messages), {choice.why}")
        return [*lines, *(f"note: {note}" for note in self.notes)]

    def __len__(self) -> int:
        return len(self._stamps_ns)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames(0, len(self))

    def frames(self, first: int, stop: int) -> Iterator[Frame]:
        """Frames `first` to `stop` - 1, in the order of recording."""
        if first >= stop:
            return
        start_ns = int(self._recorded_ns[first:].min())
        index = first - int(np.count_nonzero(self._recorded_ns[:first] >= start_ns))
        for topic, _, raw in self._storage.messages([self.topics["image"]], start_ns):
            if index >= stop:
                return
            if self._leaves_out_unset and not header_stamp_ns(raw):
                continue
            if index >= first:
                yield self._frame(index, topic, raw)
            index += 1

    def stamp_s(self, index: int) -> float:
        """A frame's time without reading its pixels."""
        return seconds_from_ns(self._stamps_ns[index])

    def truth(self, index: int) -> Truth | None:
        """A frame's true place without reading its pixels; None where the bag does not have it."""
        if "truth" not in self._sensors:
            return None
        at_ns = int(self._stamps_ns[index])
        around = self._sensors["truth"].around(at_ns)
        if around is None:
            return None
        start, end, share = around
        lat_deg, lon_deg = (start + (end - start) * share).tolist() if share else start.tolist()
        if not (math.isfinite(lat_deg) and math.isfinite(lon_deg)):
            return None
        # Across the date line the series goes on beyond 180.
        lon_deg = lon_deg if abs(lon_deg) <= 180 else (lon_deg + 180) % 360 - 180
        return Truth(lat_deg, lon_deg, self._height_or_nan(at_ns))

    def completeness(self) -> dict[str, int]:
        """How many images there are, and how many of them have an attitude, a height and a truth."""
        stamps_ns = self._stamps_ns.tolist()
        return {
            "images": len(self),
            "attitude": sum(self._has_attitude(at_ns) for at_ns in stamps_ns),
            "height": sum(math.isfinite(self._height_or_nan(at_ns)) for at_ns in stamps_ns),
            "truth": sum(self.truth(index) is not None for index in range(len(self))),
        }

    def undecodable(self) -> str:
        """Why no image can be decoded, by a few all over the recording; empty if one can."""
        problem = ""
        for index in np.unique(np.linspace(0, len(self) - 1, _TRIED_IMAGES).astype(int)).tolist():
            for frame in self.frames(index, index + 1):
                if frame.image is not None:
                    return ""
                problem = frame.problem
        return f"none of the images of {self.topics['image'].name} that were tried can be used: {problem}"

    def _has_attitude(self, at_ns: int) -> bool:
        try:
            rotation_from_quaternion(*self._quaternion(at_ns))
        except GeolocError:
            return False
        return True

    def _height_or_nan(self, at_ns: int) -> float:
        try:
            return self._height_m(at_ns)
        except GeolocError:
            return math.nan

    def _height_m(self, at_ns: int) -> float:
        """Height above ground, m; GeolocError if there is none."""
        around = self._sensors["altitude"].around(at_ns)
        if around is None:
            raise GeolocError(f"no height above ground within {self.REACH_S['altitude']:g} s of the image")
        start, end, share = around
        return float(start[0] + (end[0] - start[0]) * share if share else start[0])

    def _quaternion(self, at_ns: int) -> tuple[float, float, float, float]:
        """(qx, qy, qz, qw), ENU from the optical frame; GeolocError if there is none."""
        around = self._sensors["imu"].around(at_ns) if "imu" in self._sensors else None
        if around is None:
            raise GeolocError(f"no attitude within {self.REACH_S['imu']:g} s of the image")
        start, end, share = around
        body = start.tolist() if share == 0 else blend_quaternions(start.tolist(), end.tolist(), share)
        qx, qy, qz, qw = np.round(optical_from_body_quaternion(body, self._mount), _QUATERNION_DIGITS).tolist()
        return qx, qy, qz, qw

    def _frame(self, index: int, topic: Topic, raw: bytes) -> Frame:
        at_ns = int(self._stamps_ns[index])
        image, encoded, quaternion, rotation = None, None, None, None
        height_m, problems = math.nan, []
        try:
            image, encoded = self._image(topic, raw)
        except GeolocError as error:
            problems.append(str(error))
        if "imu" in self._sensors:
            rotation = np.full((3, 3), np.nan)
            try:
                quaternion = self._quaternion(at_ns)
                rotation = rotation_from_quaternion(*quaternion)
            except GeolocError as error:
                problems.append(str(error))
        try:
            height_m = self._height_m(at_ns)
        except GeolocError as error:
            problems.append(str(error))
        return Frame(
            image=image,
            stamp_s=seconds_from_ns(at_ns),
            rotation_enu_from_optical=rotation,
            height_m=height_m,
            camera=self.camera,
            truth=self.truth(index),
            problem=problems[0] if problems else "",
            encoded=encoded,
            quaternion=quaternion,
        )

    def _image(self, topic: Topic, raw: bytes) -> tuple[np.ndarray, bytes | None]:
        """(h, w, 3) uint8 RGB, and the file's bytes if the image came as one."""
        message = self._storage.decode(topic, raw)
        return rgb_from_image(message), bytes(message.data) if hasattr(message, "format") else None

    def _read(self, advance: Advance) -> tuple[Samples, dict[str, Samples], CameraModel]:
        """One pass over everything but the pixels: times of the images, sensors, the first camera_info."""
        roles = {topic: role for role, topic in self.topics.items()}
        total = sum(topic.count for topic in roles)
        images = Samples()
        sensors = {role: Samples() for role in self.topics if role in _SENSORS}
        camera: CameraModel | None = None
        for number, (topic, recorded_ns, raw) in enumerate(self._storage.messages(list(roles))):
            role = roles[topic]
            if role == "image":
                images.add(header_stamp_ns(raw), recorded_ns, ())
            elif role == "camera_info":
                camera = camera or camera_from_info(self._storage.decode(topic, raw))
            else:
                _add_sample(sensors[role], role, self._storage.decode(topic, raw), recorded_ns)
            if number % _PROGRESS_EVERY == 0:
                advance(number, total)
        advance(total, total)
        if camera is None or not images.stamps_ns:
            raise GeolocError(f"bag {self.path} ends before its first image and camera_info; record it again")
        return images, sensors, camera

    def _stamped(self, images: Samples, sensors: dict[str, Samples]) -> tuple[Samples, dict[str, Samples]]:
        """Without the messages of before the clock was set; it notes how many those are."""
        kept: dict[str, Samples] = {}
        for role, samples in {"image": images, **sensors}.items():
            kept[role], unset = samples.without_unset()
            if unset:
                self.notes.append(unset_fault(self.topics[role].name, unset, len(samples.stamps_ns)))
                self._leaves_out_unset |= role == "image"
        return kept.pop("image"), kept

    def _image_clock(self, images: Samples) -> Lag:
        """How far the recording lags the images; images without stamps take their times of recording."""
        stamps_ns, recorded_ns = images.times()
        if not stamps_ns.any():
            self.notes.append(f"{self.topics['image'].name} is not stamped: its times of recording count")
            self._stamps_ns = stamps_ns = recorded_ns
        return Lag.of(stamps_ns, recorded_ns)

    def _on_image_clock(self, role: str, samples: Samples, image_lag: Lag) -> np.ndarray:
        """Times of a sensor's samples by the images' clock, (n,) ns; notes where they are not just the stamps.

        The recorder saw both, so its clock brings two others together.
        """
        stamps_ns, recorded_ns = samples.times()
        name, image = self.topics[role].name, self.topics["image"].name
        if stamps_ns[0] == _UNSTAMPED or not stamps_ns.any():
            if stamps_ns[0] != _UNSTAMPED:
                self.notes.append(f"{name} is not stamped: its times of recording count")
            if image_lag.spread_s > OTHER_CLOCK_S:
                self.notes.append(
                    f"{name} has no stamps, and {image} was not recorded as it came: its values may be of other moments"
                )
            return recorded_ns - round(image_lag.median_s * NS)
        lag = Lag.of(stamps_ns, recorded_ns)
        if not lag.other_clock(image_lag):
            return stamps_ns
        offset_s = lag.median_s - image_lag.median_s
        self.notes.append(
            f"{name} and {image} are stamped by two clocks, {offset_s:.3f} s apart: brought together by their times of "
            "recording"
        )
        return stamps_ns + round(offset_s * NS)

    def _check_size(self) -> None:
        """GeolocError if the first image that decodes is not of the size in camera_info."""
        topic = self.topics["image"]
        for _, (_, _, raw) in zip(range(10), self._storage.messages([topic]), strict=False):
            try:
                image, _ = self._image(topic, raw)
            except GeolocError:
                continue
            height, width = image.shape[:2]
            if (width, height) != (self.camera.width, self.camera.height):
                raise GeolocError(size_fault(self.topics["camera_info"].name, self.camera, topic.name, width, height))
            return


def _add_sample(samples: Samples, role: str, message: Any, recorded_ns: int) -> None:
    """Note what a message gives; a broken one keeps its place, so that no image takes a neighbour's value instead."""
    stamp = stamp_ns(message)
    read, width = _SENSORS[role]
    values, fault = (math.nan,) * width, ""
    try:
        values = read(message)
    except GeolocError as error:
        fault = str(error)
    samples.add(_UNSTAMPED if stamp is None else stamp, recorded_ns, values, fault)


def _series(role: str, stamps_ns: np.ndarray, samples: Samples) -> Series:
    """The samples of a role in the order of their times."""
    rows = np.array(samples.values, np.float64).reshape(len(stamps_ns), -1)
    order = np.argsort(stamps_ns, kind="stable")
    faults = {place: samples.faults[number] for place, number in enumerate(order.tolist()) if number in samples.faults}
    stamps_ns, rows = stamps_ns[order], rows[order]
    if role == "truth":
        known = np.isfinite(rows).all(axis=1)
        stamps_ns, rows = stamps_ns[known], rows[known]
        rows[:, 1] = np.unwrap(rows[:, 1], period=360)
    return Series(stamps_ns, rows, round(Bag.REACH_S[role] * NS), faults, role == "truth")


def unset_fault(topic: str, unset: int, total: int) -> str:
    """What is wrong where some messages have no stamp, and what to do."""
    return (
        f"{unset} of {total} messages of {topic} have no stamp (0) and are left out: they were sent before the first "
        "/clock; start the simulation's or the player's clock before the recording"
    )


def size_fault(info: str, camera: CameraModel, image: str, width: int, height: int) -> str:
    """What is wrong where images have not the size of their camera_info, and what to do."""
    scaled = width * camera.height == height * camera.width
    remedy = (
        "let the node that scales the images publish a camera_info of the scaled size"
        if scaled
        else "calibrate the camera at the size that it sends, or name the right topics with --topic"
    )
    return f"{image} is {width}x{height} px, but {info} is of {camera.width}x{camera.height} px; {remedy}"


def open_recording(
    path: Path,
    topics: Sequence[str] = (),
    advance: Advance = lambda done, total: None,
    mount: Sequence[float] = DOWN_XYZW,
) -> Flight | Bag:
    """A flight folder or a bag, by what lies there. `topics` are "role=name", for bags, as is `mount`.

    GeolocError where there is neither, or where a topic is missing or ambiguous.
    """
    if path.is_dir() and (path / "flight.csv").is_file():
        if topics:
            raise GeolocError(f"{path} is a flight folder and has no topics; leave --topic out")
        if tuple(mount) != DOWN_XYZW:
            raise GeolocError(f"{path} is a flight folder with the camera's own attitudes; leave --camera-mount out")
        return Flight.open(path)
    if is_bag(path):
        return Bag(path, parse_topics(topics), advance, mount)
    raise GeolocError(
        f"{path} is neither a flight folder (flight.csv, camera.yaml, frames/) nor a rosbag2 (a folder with .mcap or "
        ".db3 files, or such a file)"
    )
