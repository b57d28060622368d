# SPDX-License-Identifier: Apache-2.0
"""Flight folders, whole and damaged."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.flight_folder import Flight, write_flight
from geoloc_ros.core.recording.frame import Frame, Truth

CAMERA = CameraModel(64, 48, np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]), (0.1, 0, 0, 0, 0))


def frames(count: int = 3) -> list[Frame]:
    """A short flight over a smooth image."""
    ramp = np.linspace(0, 255, 64)[None, :, None] * np.ones((48, 1, 3))
    return [
        Frame(
            image=ramp.astype(np.uint8),
            stamp_s=1455008967.2 + 0.5 * index,
            rotation_enu_from_optical=nadir_rotation(30.0 * index),
            height_m=100.0 + index,
            camera=CAMERA,
            truth=Truth(60.0 + 1e-5 * index, 25.0, 100.0 + index),
        )
        for index in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A flight of three frames on disk."""
    (tmp_path / "source.tif").write_bytes(b"any raster")
    assert write_flight(tmp_path / "flight", CAMERA, frames(), tmp_path / "source.tif") == 3
    return tmp_path / "flight"


def test_round_trip(folder: Path) -> None:
    flight = Flight.open(folder)
    assert len(flight) == 3
    assert flight.map_path.read_bytes() == b"any raster"
    assert flight.camera.distortion == CAMERA.distortion
    for written, read in zip(frames(), flight, strict=True):
        assert read.stamp_s == pytest.approx(written.stamp_s, abs=1e-6)
        assert read.height_m == written.height_m
        assert read.truth == written.truth
        assert read.problem == ""
        assert read.image is not None
        assert written.image is not None
        assert np.abs(read.image.astype(int) - written.image).mean() < 2.0
        np.testing.assert_allclose(read.rotation_enu_from_optical, written.rotation_enu_from_optical, atol=1e-8)
    assert cv2.imdecode(np.frombuffer(flight[0].encoded, np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)


def test_colours_keep_their_order(tmp_path: Path) -> None:
    frame = frames(1)[0]
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 250
    write_flight(tmp_path, CAMERA, [Frame(**{**frame.__dict__, "image": red})])
    image = Flight.open(tmp_path)[0].image
    assert image is not None
    np.testing.assert_allclose(image[20, 20], (250, 0, 0), atol=4)


@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_damaged_picture_leaves_the_others_readable(folder: Path, damage: str) -> None:
    path = sorted((folder / "frames").iterdir())[1]
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"no image")
    first, second, third = Flight.open(folder)
    assert second.image is None
    assert path.name in second.problem
    assert second.truth == frames()[1].truth
    assert first.image is not None
    assert third.image is not None


@pytest.mark.parametrize("quaternion", ["0,0,0,0", "nan,0,0,1"])
def test_damaged_attitude_is_nan_not_a_guess(folder: Path, quaternion: str) -> None:
    path = folder / "flight.csv"
    lines = path.read_text().splitlines()
    lines[2] = ",".join(lines[2].split(",")[:5]) + "," + quaternion
    path.write_text("\n".join(lines))
    frame = Flight.open(folder)[1]
    assert frame.image is not None
    assert np.isnan(frame.rotation_enu_from_optical).all()
    assert "quaternion" in frame.problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("height_above_ground_m", "height"), "lacks the column.*height_above_ground_m"),
        (lambda text: text.replace("60.000010000", "north"), "line 3: latitude_deg is 'north'"),
        (lambda text: text.replace("60.000010000", "nan"), "line 3: .*must be finite"),
        (lambda text: text.replace("60.000010000", "95.0"), "line 3: latitude_deg is 95.0, the limit is 90"),
        (lambda text: "\n".join([text.splitlines()[0], *reversed(text.splitlines()[1:])]), "sort the lines by stamp_s"),
        (lambda text: text.splitlines()[0], "lists no frames"),
        (lambda text: text.rsplit(",", 2)[0], "line 4: qz is 'None'"),
        (lambda _: "", "lacks the column"),
    ],
)
def test_malformed_table_is_refused(folder: Path, change: Callable[[str], str], message: str) -> None:
    path = folder / "flight.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(GeolocError, match=message):
        Flight.open(folder)


@pytest.mark.parametrize(
    ("remove", "message"), [("flight.csv", "flight.csv cannot be read"), ("camera.yaml", "camera.yaml cannot be read")]
)
def test_missing_part_is_named(folder: Path, remove: str, message: str) -> None:
    (folder / remove).unlink()
    with pytest.raises(GeolocError, match=message):
        Flight.open(folder)


def test_missing_map_and_folder(folder: Path) -> None:
    (folder / "map.tif").unlink()
    with pytest.raises(GeolocError, match=r"no map\.tif"):
        _ = Flight.open(folder).map_path
    with pytest.raises(GeolocError, match="no flight folder"):
        Flight.open(folder / "nothing")


def test_a_frame_without_picture_is_not_written(tmp_path: Path) -> None:
    frame = Frame(**{**frames(1)[0].__dict__, "image": None})
    with pytest.raises(GeolocError, match="lacks image"):
        write_flight(tmp_path, CAMERA, [frame])


def test_real_flight_opens(shared_data: Path) -> None:
    flight = Flight.open(shared_data / "flights" / "village")
    assert len(flight) == 203
    assert (flight.camera.width, flight.camera.height) == (960, 540)
    frame = flight[-1]
    assert frame.image is not None
    assert frame.image.shape == (540, 960, 3)
    assert frame.problem == ""
