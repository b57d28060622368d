# SPDX-License-Identifier: Apache-2.0
"""MCAP files whose index, chunks, clocks or ROS generation are unusual: what is there is read, what is not is named."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bag_recorder import T, body_quaternion, camera_message, fix_message, image_message, imu_message
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.typesys import Stores, get_typestore

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag import Bag
from geoloc_ros.core.bags.bag_check import check_bag
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Frame

STORE = get_typestore(Stores.ROS2_HUMBLE)
Stamp = Callable[[int, float], float]


@pytest.fixture(scope="module")
def frames(small_flight: Path) -> list[Frame]:
    return list(Flight.open(small_flight).frames(0, 8))


def write(
    path: Path,
    frames: list[Frame],
    stamp_s: Stamp = lambda number, stamp_s: stamp_s,
    encoding: str = "cdr",
    profile: str = "ros2",
    height_m: float | None = None,
    without_data: bool = False,
    **options: Any,
) -> Path:
    """Frames as five topics. stamp_s: of a frame's number and stamp; every frame is a chunk."""
    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=1, compression=CompressionType.NONE, **options)
        writer.start(profile=profile, library="test")
        channels: dict[str, int] = {}
        for number, frame in enumerate(frames):
            at_s = stamp_s(number, frame.stamp_s)
            assert frame.truth is not None
            messages = {
                "image": image_message(replace(frame, stamp_s=at_s), compressed=True),
                "camera_info": camera_message(frame),
                "imu": imu_message(at_s, body_quaternion(frame)),
                "altitude": T["std_msgs/msg/Float64"](frame.height_m if height_m is None else height_m),
                "truth": fix_message(at_s, frame.truth.lat_deg, frame.truth.lon_deg),
            }
            for name, message in messages.items():
                if name not in channels:
                    text, _ = STORE.generate_msgdef(message.__msgtype__, ros_version=2)
                    kind = message.__msgtype__
                    if encoding == "ros1":
                        kind = kind.replace("/msg/", "/")
                    schema = writer.register_schema(kind, "ros1msg" if encoding == "ros1" else "ros2msg", text.encode())
                    channels[name] = writer.register_channel(f"/{name}", encoding, schema)
                data = bytes(STORE.serialize_cdr(message, message.__msgtype__))
                if without_data and name == "image":
                    data = data[:12]
                writer.add_message(channels[name], round(at_s * 1e9), data, round(at_s * 1e9))
        writer.finish()
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"index_types": IndexType.ALL & ~IndexType.MESSAGE},
        {"index_types": IndexType.NONE},
        {"index_types": IndexType.ALL & ~IndexType.CHUNK},
        {"use_statistics": False},
        {"use_chunking": False},
        {"profile": ""},
    ],
    ids=str,
)
def test_a_whole_file_is_read_whole_whatever_its_index(options: dict, frames: list[Frame], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", frames, **options)
    report = check_bag(path, {})
    assert report.images == {"images": 8, "attitude": 8, "height": 8, "truth": 8} and report.faults == []
    assert [frame.stamp_s for frame in Bag(path).frames(3, 6)] == [frame.stamp_s for frame in frames[3:6]]


def test_index_that_names_a_part_only(frames: list[Frame], tmp_path: Path) -> None:
    """The index of one chunk's images is renamed: the file would be read in part, and called whole."""
    path = write(tmp_path / "a.mcap", frames)
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    data = bytearray(path.read_bytes())
    # The summary's record of the fourth chunk with images, opcode 8, named by the start that it lists.
    chunk = [chunk for chunk in summary.chunk_indexes if 1 in chunk.message_index_offsets][3]
    place = data.index(struct.pack("<QQ", chunk.message_start_time, chunk.message_end_time), summary_start(data))
    data[place - 9] = 0x7F
    path.write_bytes(data)
    assert len(Bag(path)) == 8


def summary_start(data: bytes) -> int:
    return int(struct.unpack("<Q", data[-28:-20])[0])


def test_damaged_chunk_is_left_out_and_counted(frames: list[Frame], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", frames, index_types=IndexType.NONE)
    data = bytearray(path.read_bytes())
    place = data.index(b"IEND", len(data) // 2)  # of a PNG
    data[place - 40] ^= 0xFF
    path.write_bytes(data)
    bag = Bag(path)
    assert len(bag) == 7
    assert "1 of 40 chunks of a.mcap are damaged and left out" in bag.notes[0]


@pytest.mark.parametrize("profile", ["ros1", "ros2"])
def test_messages_of_ros_1_are_named(profile: str, frames: list[Frame], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", frames[:2], encoding="ros1", profile=profile)
    for open_bag in (Bag, lambda path: check_bag(path, {})):
        with pytest.raises(GeolocError, match=r"holds ROS 1 messages; .*rosbags-convert") as caught:
            open_bag(path)
        assert "cut off" not in str(caught.value)


def test_messages_of_another_encoding_are_named(frames: list[Frame], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", frames[:2], encoding="json", profile="")
    with pytest.raises(GeolocError, match=r"other encodings than ROS 2's CDR: /image \(json\)"):
        Bag(path)


def test_messages_of_before_the_clock_are_left_out(frames: list[Frame], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", frames, lambda number, stamp_s: 0.0 if number < 3 else 100.0 + stamp_s)
    bag = Bag(path)
    assert [frame.stamp_s for frame in bag] == pytest.approx([100.0 + frame.stamp_s for frame in frames[3:]])
    assert [frame.stamp_s for frame in bag.frames(2, 4)] == [bag.stamp_s(2), bag.stamp_s(3)]
    assert "3 of 8 messages of /image have no stamp (0) and are left out" in bag.notes[0]
    report = check_bag(path, {})
    (image,) = [topic for topic in report.topics if topic.name == "/image"]
    assert (image.unset, image.gaps) == (3, 0)
    assert report.images["images"] == report.images["attitude"] == 5
    assert any("before the first /clock" in fault.text for fault in report.faults)


def test_a_clock_that_begins_at_zero_is_a_clock(frames: list[Frame], tmp_path: Path) -> None:
    path = write(tmp_path / "a.mcap", frames, lambda number, stamp_s: 0.5 * number)
    assert len(Bag(path)) == 8


@pytest.mark.parametrize("height_m", [-40.0, 0.0, float("nan")])
def test_check_refuses_what_evaluate_cannot_use(height_m: float, frames: list[Frame], tmp_path: Path) -> None:
    report = check_bag(write(tmp_path / "a.mcap", frames[:3], height_m=height_m), {})
    assert not report.usable and "only 0 of 3 images have height above ground" in report.faults[-1].text


def test_check_refuses_images_that_do_not_decode(frames: list[Frame], tmp_path: Path) -> None:
    report = check_bag(write(tmp_path / "a.mcap", frames[:3], without_data=True), {})
    assert not report.usable and "none of the images of /image" in report.faults[-1].text
