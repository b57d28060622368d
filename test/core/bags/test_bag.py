# SPDX-License-Identifier: Apache-2.0
"""Bags give the frames of the flight that was recorded: sqlite3 and MCAP, raw and compressed."""

import dataclasses
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bag_recorder import (
    STORE,
    Recorder,
    T,
    body_quaternion,
    camera_message,
    fix_message,
    header,
    image_message,
    imu_message,
)
from rosbags.rosbag2 import StoragePlugin
from scipy.spatial.transform import Rotation

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags import bag_storage
from geoloc_ros.core.bags.bag import Bag, open_recording
from geoloc_ros.core.bags.bag_writer import write_bag
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Frame


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
            np.testing.assert_allclose(frame.rotation_enu_from_optical, wanted.rotation_enu_from_optical, atol=1e-9)
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
        assert frame.truth.lat_deg == pytest.approx((before.truth.lat_deg + after.truth.lat_deg) / 2, abs=1e-10)
        assert frame.rotation_enu_from_optical is not None
        assert before.rotation_enu_from_optical is not None
        assert after.rotation_enu_from_optical is not None
        # The chordal mean of two rotations is the one halfway between.
        left, _, right = np.linalg.svd(before.rotation_enu_from_optical + after.rotation_enu_from_optical)
        np.testing.assert_allclose(frame.rotation_enu_from_optical, left @ right, atol=1e-6)


def test_a_camera_that_is_mounted_otherwise(frames: list[Frame], tmp_path: Path) -> None:
    """A camera whose image's top points to the tail, recorded with the body's attitude."""
    flu_from_optical = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    recorder = Recorder(tmp_path / "bag")
    for frame in frames:
        simple(recorder, frame, imu=True)
        body = Rotation.from_matrix(frame.rotation_enu_from_optical @ flu_from_optical.T).as_quat()
        recorder.write("/imu", imu_message(frame.stamp_s, tuple(body)), frame.stamp_s)
    recorder.close()
    mount = Rotation.from_matrix(flu_from_optical).as_quat().tolist()
    bag = open_recording(tmp_path / "bag", mount=mount)
    for read, wanted in zip(bag, frames, strict=True):
        np.testing.assert_allclose(read.rotation_enu_from_optical, wanted.rotation_enu_from_optical, atol=1e-8)
    with pytest.raises(GeolocError, match="zero"):
        Bag(tmp_path / "bag", mount=(0.0, 0.0, 0.0, 0.0))


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


class Part:
    """Writes at a time of its own."""

    def __init__(self, recorder: Recorder, recorded_s: float) -> None:
        self._recorder, self._recorded_s = recorder, recorded_s

    def write(self, topic: str, message: Any, _stamp_s: float) -> None:
        self._recorder.write(topic, message, self._recorded_s)


def simple(recorder: Recorder | Part, frame: Frame, **leave_out: bool) -> None:
    """One frame with all its sensors."""
    assert frame.truth is not None
    messages = {
        "image": image_message(frame, compressed=True),
        "camera_info": camera_message(frame),
        "imu": imu_message(frame.stamp_s, body_quaternion(frame)),
        "altitude": T["std_msgs/msg/Float64"](frame.height_m),
        "truth": fix_message(frame.stamp_s, frame.truth.lat_deg, frame.truth.lon_deg),
    }
    for name, message in messages.items():
        if name not in leave_out:
            recorder.write(f"/{name}", message, frame.stamp_s)


@pytest.fixture(scope="session")
def frames(small_flight: Path) -> list[Frame]:
    return list(Flight.open(small_flight).frames(0, 8))


def px4_quaternion(frame: Frame) -> list[float]:
    """(w, x, y, z), FRD to NED, of the body whose camera looks down: by matrices, not as the code has it."""
    enu_from_flu = Rotation.from_quat(body_quaternion(frame)).as_matrix()
    ned_from_enu = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    x, y, z, w = Rotation.from_matrix(ned_from_enu @ enu_from_flu @ np.diag([1.0, -1.0, -1.0])).as_quat()
    return [w, x, y, z]


def px4_position(stamp_us: int, height_m: float, to_surface_m: float | None) -> Any:
    """A VehicleLocalPosition with a valid height, and a measured distance to the ground if there is one."""
    kind = T["px4_msgs/msg/VehicleLocalPosition"]
    values: dict[str, Any] = {
        field.name: np.zeros(2, np.float32) if field.name in ("delta_xy", "delta_vxy") else 0
        for field in dataclasses.fields(kind)
        if field.name not in ("__msgtype__",) and field.init
    }
    values |= {"timestamp": stamp_us, "timestamp_sample": stamp_us, "z_valid": True, "z": -height_m}
    values |= {"dist_bottom_valid": to_surface_m is not None, "dist_bottom": to_surface_m or 0.0}
    return kind(**values)


@pytest.mark.parametrize("measured", [True, False])
def test_px4_gives_attitude_and_height_on_a_clock_of_its_own(
    frames: list[Frame], tmp_path: Path, measured: bool
) -> None:
    """PX4's stamps count from its start; images, stamped by another clock, get the sample of their moment."""
    recorder = Recorder(tmp_path / "bag")
    for frame in frames:
        simple(recorder, frame, imu=True, altitude=True)
        since_start_us = round((frame.stamp_s - frames[0].stamp_s + 100.0) * 1e6)
        attitude = T["px4_msgs/msg/VehicleAttitude"](
            since_start_us, since_start_us, np.array(px4_quaternion(frame), np.float32), np.zeros(4, np.float32), 0
        )
        recorder.write("/fmu/out/vehicle_attitude", attitude, frame.stamp_s)
        above_takeoff_m = frame.height_m if not measured else frame.height_m + 25.0
        position = px4_position(since_start_us, above_takeoff_m, frame.height_m if measured else None)
        recorder.write("/fmu/out/vehicle_local_position_v1", position, frame.stamp_s)
    recorder.close()
    bag = Bag(tmp_path / "bag")
    assert sum("two clocks" in note for note in bag.notes) == 2
    for frame, wanted in zip(bag, frames, strict=True):
        np.testing.assert_allclose(frame.rotation_enu_from_optical, wanted.rotation_enu_from_optical, atol=1e-6)
        assert frame.height_m == pytest.approx(wanted.height_m, abs=1e-4)


def test_two_clocks_are_brought_together(frames: list[Frame], tmp_path: Path) -> None:
    """GNSS time is 18 s ahead of UTC; recorded together, images and truth still belong together."""
    recorder = Recorder(tmp_path / "bag")
    for frame in frames:
        assert frame.truth is not None
        simple(recorder, frame, truth=True)
        truth = fix_message(frame.stamp_s + 18.0, frame.truth.lat_deg, frame.truth.lon_deg)
        recorder.write("/truth", truth, frame.stamp_s)
    recorder.close()
    bag = Bag(tmp_path / "bag")
    assert any("/truth and /image are stamped by two clocks, -18.000 s apart" in note for note in bag.notes)
    for index, wanted in enumerate(frames):
        assert wanted.truth is not None
        truth = bag.truth(index)
        assert truth is not None
        assert truth.lat_deg == pytest.approx(wanted.truth.lat_deg, abs=1e-9)


def test_a_bag_written_long_after_keeps_its_stamps(frames: list[Frame], tmp_path: Path) -> None:
    """A converter writes topic after topic in no time: what it calls the time of recording says nothing of clocks."""
    recorder = Recorder(tmp_path / "bag")
    roles = ("truth", "image", "imu", "camera_info")
    for place, role in enumerate(roles):
        others = dict.fromkeys(("altitude", *(other for other in roles if other != role)), True)
        for number, frame in enumerate(frames):
            simple(Part(recorder, 20.0 * place + 1e-3 * number), frame, **others)
    for number, frame in enumerate(frames):
        reading = T["sensor_msgs/msg/Range"](header(frame.stamp_s), 0, 0.1, 1.0, 200.0, 77.0)
        recorder.write("/range", reading, 80.0 + number * 1e-3)
    recorder.write("/height", T["std_msgs/msg/Float64"](50.0), 90.0)
    recorder.close()
    bag = Bag(tmp_path / "bag", {"altitude": "/range"})
    assert bag.notes == []
    assert bag.completeness() == {"images": 8, "attitude": 8, "height": 8, "truth": 8}
    (note,) = Bag(tmp_path / "bag", {"altitude": "/height"}).notes
    assert "/height has no stamps, and /image was not recorded as it came" in note


def test_messages_without_stamps_count_when_they_were_recorded(frames: list[Frame], tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "bag")
    for frame in frames:
        simple(recorder, frame, imu=True)
        recorder.write("/imu", imu_message(0.0, body_quaternion(frame)), frame.stamp_s)
    recorder.close()
    bag = Bag(tmp_path / "bag")
    assert bag.notes == ["/imu is not stamped: its times of recording count"]
    for frame, wanted in zip(bag, frames, strict=True):
        np.testing.assert_allclose(frame.rotation_enu_from_optical, wanted.rotation_enu_from_optical, atol=1e-3)


def test_unknown_types_among_known_ones_do_no_harm(frames: list[Frame], tmp_path: Path) -> None:
    """Types whose definition is missing, broken, or contradicts that of another type."""
    recorder = Recorder(tmp_path / "bag", StoragePlugin.MCAP)
    for frame in frames:
        simple(recorder, frame)
        recorder.write_raw("/secret", "acme_msgs/msg/Secret", "no definition of !! anything", b"\0" * 9, frame.stamp_s)
        recorder.write_raw("/empty", "acme_msgs/msg/Lost", "", b"\1\2\3", frame.stamp_s)
        other = "std_msgs/Header header\n" + "=" * 80 + "\nMSG: std_msgs/Header\nstring only\n"
        recorder.write_raw("/other", "acme_msgs/msg/Other", other, b"\0\1\0\0", frame.stamp_s)
    recorder.close()
    bag = Bag(tmp_path / "bag")
    assert bag.completeness() == {"images": 8, "attitude": 8, "height": 8, "truth": 8}


def test_a_definition_that_is_missing_is_asked_for(frames: list[Frame], tmp_path: Path) -> None:
    """sqlite3 bags of Humble hold no definitions: what ROS and PX4 never changed is known, the rest is named."""
    for kind, topic, message in (
        ("px4_msgs/msg/VehicleLocalPosition", "/fmu/out/vehicle_local_position", px4_position(1, 50.0, None)),
        ("std_msgs/msg/Float64", "/altitude", T["std_msgs/msg/Float64"](50.0)),
    ):
        path = tmp_path / topic.split("/")[-1]
        recorder = Recorder(path, StoragePlugin.MCAP)
        for frame in frames[:2]:
            simple(recorder, frame, altitude=True, imu=True)
            recorder.write_raw(topic, kind, "", bytes(STORE.serialize_cdr(message, kind)), frame.stamp_s)
            quaternion = np.array(px4_quaternion(frame), np.float32)
            attitude = T["px4_msgs/msg/VehicleAttitude"](
                round(frame.stamp_s * 1e6), round(frame.stamp_s * 1e6), quaternion, np.zeros(4, np.float32), 0
            )
            raw = bytes(STORE.serialize_cdr(attitude, "px4_msgs/msg/VehicleAttitude"))
            recorder.write_raw("/attitude", "px4_msgs/msg/VehicleAttitude", "", raw, frame.stamp_s)
        recorder.close()
        if kind.startswith("px4"):
            with pytest.raises(GeolocError, match=r"definition of px4_msgs/msg/VehicleLocalPosition .*sourced"):
                Bag(path)
        else:
            (first, _) = Bag(path)
            assert first.height_m == 50.0
            np.testing.assert_allclose(first.rotation_enu_from_optical, frames[0].rotation_enu_from_optical, atol=1e-6)


def test_camera_info_of_another_size_is_refused(frames: list[Frame], tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "bag")
    camera = dataclasses.replace(frames[0].camera, width=1280, height=960)
    for frame in frames:
        simple(recorder, dataclasses.replace(frame, camera=camera))
    recorder.close()
    with pytest.raises(GeolocError, match=r"/image is 640x480 px, but /camera_info is of 1280x960 px; .* scales"):
        Bag(tmp_path / "bag")


@pytest.mark.parametrize("role", ["image", "camera_info", "altitude"])
def test_what_is_needed_is_named_with_the_remedy(frames: list[Frame], tmp_path: Path, role: str) -> None:
    recorder = Recorder(tmp_path / "bag")
    simple(recorder, frames[0], **{role: True})
    recorder.close()
    with pytest.raises(GeolocError, match=f"no topic for {role} .*record"):
        Bag(tmp_path / "bag")


def test_topics_that_people_record_are_told_apart(frames: list[Frame], tmp_path: Path) -> None:
    """Raw images before compressed, the camera's own camera_info, an Imu with orientation, no battery as height."""
    recorder = Recorder(tmp_path / "bag")
    frame = frames[0]
    recorder.write("/down/image_raw", image_message(frame, compressed=False), frame.stamp_s)
    recorder.write("/down/image_raw/compressed", image_message(frame, compressed=True), frame.stamp_s)
    for side in ("down", "front"):
        recorder.write(f"/{side}/camera_info", camera_message(frame), frame.stamp_s)
    recorder.write("/imu", imu_message(frame.stamp_s, (0.0, 0.0, 0.0, 1.0), known=False), frame.stamp_s)
    recorder.write("/ins/attitude", imu_message(frame.stamp_s, body_quaternion(frame)), frame.stamp_s)
    recorder.write("/battery", T["std_msgs/msg/Float64"](11.1), frame.stamp_s)
    recorder.write("/range", T["sensor_msgs/msg/Range"](header(frame.stamp_s), 0, 0.1, 1.0, 9.0, 50.0), frame.stamp_s)
    recorder.write("/gnss", fix_message(frame.stamp_s, 1.0, 2.0), frame.stamp_s)
    recorder.write("/rtk/truth", fix_message(frame.stamp_s, 3.0, 4.0), frame.stamp_s)
    recorder.close()
    bag = Bag(tmp_path / "bag")
    assert {role: topic.name for role, topic in bag.topics.items()} == {
        "image": "/down/image_raw", "camera_info": "/down/camera_info", "imu": "/ins/attitude", "altitude": "/range",
        "truth": "/rtk/truth",
    }  # fmt: skip
    assert "truth: /rtk/truth (sensor_msgs/msg/NavSatFix, 1 messages), rather than /gnss" in bag.described()
    (read,) = bag
    assert math.isnan(read.height_m), "beyond the rangefinder's reach"


def test_a_cut_off_mcap_gives_what_is_left(small_flight: Path, tmp_path: Path) -> None:
    """As after a flat battery: no index, no metadata.yaml, the last chunk incomplete."""
    whole = record(small_flight, tmp_path / "bag", StoragePlugin.MCAP)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    file.write_bytes(file.read_bytes()[: int(0.6 * file.stat().st_size)])
    (tmp_path / "bag" / "metadata.yaml").unlink()
    bag = Bag(tmp_path / "bag")
    assert 2 <= len(bag) < len(whole)
    assert "is cut off" in bag.ends_early
    assert "mcap recover" in bag.notes[0]
    for _ in range(2):
        for frame, wanted in zip(bag, whole, strict=False):
            assert frame.image is not None
            np.testing.assert_array_equal(frame.image, wanted.image)
    (last,) = bag.frames(len(bag) - 1, len(bag))
    assert last.stamp_s == bag.stamp_s(len(bag) - 1)


def test_parts_of_a_recording_are_one(frames: list[Frame], tmp_path: Path) -> None:
    """rosbag2 splits long recordings; part 10 comes after part 9, and parts of two recordings are not mixed."""
    for number in (0, 2, 10):
        write_bag(tmp_path / f"part_{number}", frames[number % 8 : number % 8 + 2])
        shutil.move(next((tmp_path / f"part_{number}").glob("*.mcap")), tmp_path / f"flight_{number}.mcap")
        shutil.rmtree(tmp_path / f"part_{number}")
    (tmp_path / "flight_1.mcap").write_bytes((tmp_path / "flight_2.mcap").read_bytes())
    read = [frame.stamp_s for frame in Bag(tmp_path)]
    wanted = [frames[index].stamp_s for index in (0, 1, 2, 3, 2, 3, 2, 3)]
    assert read == wanted
    assert len(Bag(tmp_path / "flight_0.mcap")) == 2, "a file on its own is a recording"
    shutil.copy(tmp_path / "flight_0.mcap", tmp_path / "landing_0.mcap")
    with pytest.raises(GeolocError, match="several recordings"):
        open_recording(tmp_path)
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0")
    with pytest.raises(GeolocError, match="ROS 1; `rosbags-convert`"):
        open_recording(tmp_path / "old.bag")


def test_any_part_can_be_read_first(frames: list[Frame], tmp_path: Path) -> None:
    """Frames by their number, from either storage, in any order."""
    for storage in ("mcap", "sqlite3"):
        write_bag(tmp_path / storage, frames, storage)
        bag = Bag(tmp_path / storage)
        for first, stop in ((5, 8), (0, 2), (7, 7)):
            assert [frame.stamp_s for frame in bag.frames(first, stop)] == [
                frame.stamp_s for frame in frames[first:stop]
            ]


def test_unpacking_needs_room(frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bag(tmp_path / "bag", frames, "sqlite3", "file")
    (file,) = (tmp_path / "bag").glob("*.zstd")
    whole = bag_storage.zstandard.ZstdDecompressor().stream_reader(file.read_bytes()).read()
    # As rosbag2 compresses: in one go, so that the size is known beforehand.
    file.write_bytes(bag_storage.zstandard.ZstdCompressor().compress(whole))
    assert len(Bag(tmp_path / "bag")) == 8
    monkeypatch.setattr(bag_storage.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(GeolocError, match=r"unpacks to .* GB, but .* set TMPDIR"):
        Bag(tmp_path / "bag")


def test_truth_is_not_invented_in_gaps(frames: list[Frame], tmp_path: Path) -> None:
    """GNSS was away for 5 s: images in between have no truth, nor those before the first; the date line is no gap."""
    recorder = Recorder(tmp_path / "bag")
    start_s = frames[0].stamp_s
    for number in range(19):
        moved = dataclasses.replace(frames[0], stamp_s=start_s + 0.5 * number)
        simple(recorder, moved, truth=True)
        if number <= 4 or number >= 14:
            lon_deg = 179.9999 + 1e-5 * number
            stamp_s = moved.stamp_s + 0.1
            recorder.write("/truth", fix_message(stamp_s, 10.0, (lon_deg + 180) % 360 - 180), stamp_s)
    recorder.close()
    bag = Bag(tmp_path / "bag")
    known = [bag.truth(number) is not None for number in range(19)]
    assert known == [False] + [True] * 4 + [False] * 10 + [True] * 4
    for number in (*range(1, 5), *range(15, 19)):
        truth = bag.truth(number)
        assert truth is not None
        wanted = 179.9999 + 1e-5 * (number - 0.2)
        assert truth.lon_deg == pytest.approx((wanted + 180) % 360 - 180, abs=1e-8)


def test_a_recorder_that_was_killed_is_named(frames: list[Frame], tmp_path: Path) -> None:
    """What sqlite3 has not yet moved from its log into the file would silently be missing."""
    write_bag(tmp_path / "bag", frames, "sqlite3")
    (file,) = (tmp_path / "bag").glob("*.db3")
    file.with_name(file.name + "-wal").write_bytes(b"pages")
    with pytest.raises(GeolocError, match="wal_checkpoint"):
        Bag(tmp_path / "bag")
