# SPDX-License-Identifier: Apache-2.0
"""What a photo's tags leave open is searched, or asked for by the option that states it."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.photo_query import PhotoOptions, find_photos, heights_within, read_query

GREY = np.full((60, 80, 3), 99, np.uint8)
POSE = {
    "yaw": 'drone-dji:GimbalYawDegree="-90"',
    "pitch": 'drone-dji:GimbalPitchDegree="-80"',
    "height": 'drone-dji:RelativeAltitude="+90.00"',
}

WritePhoto = Callable[..., Path]


def whole(write_photo: WritePhoto, path: Path, *left_out: str, focal_35mm: int | None = 24) -> Path:
    """A DJI's photo without a place and without what is left out."""
    xmp = " ".join(text for name, text in POSE.items() if name not in left_out)
    return write_photo(path, GREY, focal_35mm=focal_35mm, xmp=f"<rdf:Description {xmp}/>")


def test_a_photo_that_states_its_pose_leaves_nothing_to_search(tmp_path: Path, write_photo: WritePhoto) -> None:
    query = read_query(whole(write_photo, tmp_path / "a.jpg"), PhotoOptions())
    assert query.searched == () and query.heading_known
    assert query.heights_m == (90.0, 72.0, 112.5)  # above take-off, which the ground below may not be
    rotation = query.frame.rotation_enu_from_optical
    assert rotation is not None
    assert rotation @ [0, 0, 1] == pytest.approx([-math.sin(math.radians(10)), 0, -math.cos(math.radians(10))])


def test_a_missing_heading_is_searched_unless_the_user_states_it(tmp_path: Path, write_photo: WritePhoto) -> None:
    path = whole(write_photo, tmp_path / "a.jpg", "yaw")
    query = read_query(path, PhotoOptions())
    assert query.searched == ("heading",) and not query.heading_known
    stated = read_query(path, PhotoOptions(heading_deg=270.0))
    assert stated.searched == () and stated.frame.heading_deg == 270.0
    rotation = stated.frame.rotation_enu_from_optical
    assert rotation is not None
    assert rotation[:, 0] == pytest.approx(nadir_rotation(270.0)[:, 0])


@pytest.mark.parametrize("left_out", ["height", "below take-off"])
def test_a_missing_height_is_searched_in_a_range(left_out: str, tmp_path: Path, write_photo: WritePhoto) -> None:
    path = whole(write_photo, tmp_path / "a.jpg", "height")
    if left_out == "below take-off":
        path = write_photo(
            path, GREY, focal_35mm=24,
            xmp=f'<a {POSE["yaw"]} {POSE["pitch"]} drone-dji:RelativeAltitude="-12.0"/>',
        )  # fmt: skip
    query = read_query(path, PhotoOptions(height_range_m=(50.0, 100.0)))
    assert query.searched == ("height",)
    assert sorted(query.heights_m) == pytest.approx(np.geomspace(50, 100, 5))
    assert query.heights_m[0] == pytest.approx(math.sqrt(5000))
    assert read_query(path, PhotoOptions(height_m=80.0)).heights_m == (80.0, 64.0, 100.0)


def test_a_photo_without_attitude_counts_as_taken_straight_down(tmp_path: Path, write_photo: WritePhoto) -> None:
    query = read_query(whole(write_photo, tmp_path / "a.jpg", "pitch"), PhotoOptions())
    assert query.searched == ("tilt",)
    assert query.frame.rotation_enu_from_optical is None and query.frame.heading_deg == -90.0


def test_a_missing_lens_is_asked_for(tmp_path: Path, write_photo: WritePhoto) -> None:
    path = whole(write_photo, tmp_path / "a.jpg", focal_35mm=None)
    with pytest.raises(GeolocError, match=r"states no focal length .*: give its field of view with --fov-deg"):
        read_query(path, PhotoOptions())
    camera = read_query(path, PhotoOptions(fov_deg=90.0)).frame.camera
    assert camera.matrix[0, 0] == pytest.approx(40.0) and camera.matrix[1, 1] == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height_m": -5.0}, "height above ground is -5 m"),
        ({"height_range_m": (90.0, 30.0)}, "heights of 90 to 30 m are no range"),
        ({"fov_deg": 180.0}, "field of view is 180 degrees"),
        ({"heading_deg": math.nan}, "heading is nan"),
    ],
)
def test_impossible_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(GeolocError, match=message):
        PhotoOptions(**options)  # type: ignore[arg-type]


def test_a_range_of_one_height() -> None:
    assert heights_within(70.0, 70.0) == (70.0,)


def test_photos_of_files_and_folders_once_each(tmp_path: Path, write_photo: WritePhoto) -> None:
    second, tenth = write_photo(tmp_path / "DJI_2.JPG", GREY), write_photo(tmp_path / "DJI_10.JPG", GREY)
    (tmp_path / "notes.txt").write_text("no photo")
    assert find_photos([tenth, tmp_path]) == [tenth, second]
    with pytest.raises(GeolocError, match=r"there is no photo .*DJI_3.JPG; give files or a folder"):
        find_photos([tmp_path / "DJI_3.JPG"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(GeolocError, match=r"empty holds no photos"):
        find_photos([tmp_path / "empty"])
