# SPDX-License-Identifier: Apache-2.0
"""The check of a bag finds what was done to it, and nothing in a good one."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from bag_recorder import (
    RECORDED_LATER_S,
    Recorder,
    T,
    body_quaternion,
    camera_message,
    fix_message,
    image_message,
    imu_message,
)
from rosbags.rosbag2 import StoragePlugin

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag_check import BagReport, check_bag
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Frame

IMAGES = 24
PERIOD_S = 0.5


@pytest.fixture(scope="module")
def frames(small_flight: Path) -> list[Frame]:
    return list(Flight.open(small_flight))


def recorded(
    frames: list[Frame],
    path: Path,
    leave_out: tuple[str, ...] = (),
    imu_clock: tuple[float, float] = (0.0, 1.0),
    imu_pause_s: tuple[float, float] = (0.0, 0.0),
    image_back: int = 0,
) -> BagReport:
    """Images at 2 Hz and an imu at 10 Hz. imu_clock: offset, s, and rate of its clock; imu_pause_s: from, to;
    image_back: the stamp of this image is a second too old.
    """
    recorder = Recorder(path, StoragePlugin.MCAP)
    start_s = frames[0].stamp_s
    for number in range(IMAGES * 5):
        now_s = 0.1 * number
        frame = frames[number // 5]
        if "imu" not in leave_out and not imu_pause_s[0] < now_s < imu_pause_s[1]:
            message = imu_message(start_s + imu_clock[0] + imu_clock[1] * now_s, body_quaternion(frame))
            recorder.write("/imu", message, start_s + now_s + 0.002)
        if number % 5:
            continue
        assert frame.truth is not None
        shown_s = start_s + now_s - (1.0 if image_back and number == 5 * image_back else 0.0)
        image = image_message(dataclasses.replace(frame, stamp_s=shown_s), compressed=True)
        messages = {
            "image": image,
            "camera_info": camera_message(frame),
            "altitude": T["std_msgs/msg/Float64"](frame.height_m),
            "truth": fix_message(start_s + now_s, frame.truth.lat_deg, frame.truth.lon_deg),
        }
        for name, message in messages.items():
            if name not in leave_out:
                recorder.write(f"/{name}", message, start_s + now_s + 0.03)
    recorder.close()
    return check_bag(path, {})


def test_a_good_bag_has_no_faults(frames: list[Frame], tmp_path: Path) -> None:
    report = recorded(frames, tmp_path / "bag")
    assert report.usable
    assert report.faults == []
    assert report.images == {"images": 24, "attitude": 24, "height": 24, "truth": 24}
    topics = {topic.name: topic for topic in report.topics}
    assert topics["/imu"].rate_hz == pytest.approx(10.0, rel=1e-3)
    assert topics["/image"].rate_hz == pytest.approx(2.0, rel=1e-3)
    assert topics["/image"].longest_gap_s == pytest.approx(0.5, abs=1e-6)
    assert topics["/imu"].lag_s == pytest.approx(RECORDED_LATER_S + 0.002, abs=1e-3)
    assert topics["/altitude"].lag_s is None
    assert report.duration_s == pytest.approx(11.9, abs=1e-3)
    as_json = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert as_json["roles"]["truth"]["topic"] == "/truth"
    assert as_json["usable"] is True


@pytest.mark.parametrize(
    ("what", "needed", "words"),
    [
        ({"leave_out": ("image",)}, True, "no topic for image .*record the camera's image"),
        ({"leave_out": ("altitude",)}, True, "no topic for altitude .*rangefinder"),
        ({"leave_out": ("truth",)}, False, "no topic for truth .*NavSatFix"),
        ({"leave_out": ("imu",)}, False, "no topic for imu .*looking straight down"),
        ({"imu_clock": (-5000.0, 1.0)}, False, "two clocks, 4999.97. s apart"),
        ({"imu_clock": (0.0, 0.97)}, False, "move apart by 0.3.. s"),
        ({"imu_pause_s": (3.05, 7.95)}, False, "/imu pauses 1 times .* longest is 5.0 s at 3.0 s"),
        ({"imu_pause_s": (3.05, 7.95)}, False, "only .. of 24 images have attitude"),
        ({"image_back": 7}, False, "/image go back 1 times, by 0.500 s"),
    ],
)
def test_a_fault_is_found(
    frames: list[Frame], tmp_path: Path, what: dict[str, object], needed: bool, words: str
) -> None:
    report = recorded(frames, tmp_path / "bag", **what)  # type: ignore[arg-type]
    found = [fault for fault in report.faults if re.search(words, fault.text)]
    assert len(found) == 1, report.faults
    assert found[0].needed == needed
    assert report.usable != needed


def test_pictures_of_another_size(frames: list[Frame], tmp_path: Path) -> None:
    camera = dataclasses.replace(frames[0].camera, width=320, height=200)
    report = recorded([dataclasses.replace(frame, camera=camera) for frame in frames], tmp_path / "bag")
    assert not report.usable
    assert "/image is 640x480 px, but /camera_info is of 320x200 px; calibrate" in report.faults[0].text


def test_a_cut_off_recording(frames: list[Frame], tmp_path: Path) -> None:
    recorded(frames, tmp_path / "bag")
    (file,) = (tmp_path / "bag").glob("*.mcap")
    file.write_bytes(file.read_bytes()[: int(0.7 * file.stat().st_size)])
    report = check_bag(tmp_path / "bag", {})
    assert report.usable
    assert "cut off" in report.faults[0].text
    assert 0 < report.images["images"] < IMAGES
    with pytest.raises(GeolocError, match="no rosbag2"):
        check_bag(tmp_path, {})


def test_stamps_that_are_never_set(frames: list[Frame], tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "bag")
    for number in range(5):
        recorder.write("/imu", imu_message(0.0, (0.0, 0.0, 0.0, 1.0)), 100.0 + number)
    recorder.write("/image", image_message(frames[0], compressed=True), 100.0)
    recorder.close()
    report = check_bag(tmp_path / "bag", {})
    assert any("/imu has no stamps" in fault.text for fault in report.faults)
    assert np.isclose({topic.name: topic for topic in report.topics}["/imu"].rate_hz or 0.0, 1.0)
