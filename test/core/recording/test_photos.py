# SPDX-License-Identifier: Apache-2.0
"""Photo tags: EXIF positions of all four quarters, DJI's XMP in both spellings, and what is missing."""

import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.photos import Photo

GREY = np.full((60, 80, 3), 99, np.uint8)

WritePhoto = Callable[..., Path]


@pytest.mark.parametrize(("lat_deg", "lon_deg"), [(49.123456, 9.654321), (-33.8568, 151.2153), (-0.25, -78.5)])
def test_position_of_every_quarter(lat_deg: float, lon_deg: float, tmp_path: Path, write_photo: WritePhoto) -> None:
    photo = Photo.read(write_photo(tmp_path / "a.jpg", GREY, lat_deg, lon_deg))
    # EXIF's fractions keep a millimetre or so.
    assert (photo.lat_deg, photo.lon_deg) == pytest.approx((lat_deg, lon_deg), abs=2e-8)
    assert photo.height_m is None and photo.heading_deg is None and photo.tilt_deg is None
    assert photo.focal_35mm is None


@pytest.mark.parametrize(
    "xmp",
    [
        '<rdf:Description drone-dji:RelativeAltitude="+80.30" drone-dji:GimbalYawDegree="-12.5"'
        ' drone-dji:GimbalPitchDegree="-89.90"/>',
        "<drone-dji:RelativeAltitude>+80.30</drone-dji:RelativeAltitude><drone-dji:GimbalYawDegree>-12.5"
        "</drone-dji:GimbalYawDegree><drone-dji:GimbalPitchDegree>-89.90</drone-dji:GimbalPitchDegree>",
    ],
)
def test_dji_tags_in_both_spellings(xmp: str, tmp_path: Path, write_photo: WritePhoto) -> None:
    path = write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, direction_deg=200.0, focal_35mm=24, xmp=xmp)
    photo = Photo.read(path)
    assert photo.height_m == 80.3
    assert photo.heading_deg == -12.5  # the gimbal's, not GPSImgDirection's
    assert photo.tilt_deg == pytest.approx(0.1)
    assert photo.focal_35mm == 24.0


@pytest.mark.parametrize(
    ("xmp", "height_m"),
    [
        (
            '<rdf:Description xmlns:drone="http://www.autelrobotics.com/drone/1.0/" drone:RelativeAltitude="+60.5"'
            ' drone:GimbalYawDegree="-170.25" drone:GimbalPitchDegree="-88.0"/>',
            60.5,
        ),
        ('<rdf:Description Camera:Yaw="189.75" Camera:Pitch="2.0" Camera:AboveGroundAltitude="60.5"/>', 60.5),
        ('<rdf:Description Camera:Yaw="189.75" Camera:Pitch="-88.0" Camera:AboveGroundAltitude="60.5"/>', 60.5),
        (
            "<Camera:AboveGroundAltitude>60.5</Camera:AboveGroundAltitude>"
            "<Camera:Yaw>3.0</Camera:Yaw><Camera:Pitch>9.0</Camera:Pitch>"
            "<drone-parrot:CameraYawDegree>189.75</drone-parrot:CameraYawDegree>"
            "<drone-parrot:CameraPitchDegree>-88.0</drone-parrot:CameraPitchDegree>",
            60.5,
        ),
        (
            '<drone-skydio:FlightYaw drone-skydio:Yaw="7"/><drone-skydio:CameraOrientationNED rdf:parseType="Resource">'
            "<drone-skydio:Roll>0.19</drone-skydio:Roll><drone-skydio:Pitch>-88.0</drone-skydio:Pitch>"
            "<drone-skydio:Yaw>189.75</drone-skydio:Yaw></drone-skydio:CameraOrientationNED>",
            None,
        ),
    ],
    ids=["autel", "autel-pix4d", "autel-pix4d-from-horizon", "parrot", "skydio"],
)
def test_other_makes(xmp: str, height_m: float | None, tmp_path: Path, write_photo: WritePhoto) -> None:
    photo = Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, direction_deg=1.0, xmp=xmp))
    assert photo.heading_deg is not None and photo.heading_deg % 360 == pytest.approx(189.75)
    assert photo.tilt_deg == pytest.approx(2.0)
    assert photo.height_m == height_m


def test_time_of_the_cameras_clock(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x9003: "2024:05:06 10:00:01", 0x9291: "25"}
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif)
    photo = Photo.read(tmp_path / "a.jpg", placed=False)
    assert photo.taken_s == 1714989601.25
    assert math.isnan(photo.lat_deg) and math.isnan(photo.lon_deg)
    exif[0x8769] = {0x9003: "0000:00:00 00:00:00"}
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif)
    assert Photo.read(tmp_path / "a.jpg", placed=False).taken_s is None


def test_direction_of_exif_where_there_is_no_gimbal(tmp_path: Path, write_photo: WritePhoto) -> None:
    photo = Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, direction_deg=200.25))
    assert photo.heading_deg == 200.25


def test_attitude_by_hand(tmp_path: Path, write_photo: WritePhoto) -> None:
    """Heading east and leaning 20 degrees forward: the axis points down and east, the right side south."""
    xmp = '<a drone-dji:GimbalYawDegree="90" drone-dji:GimbalPitchDegree="-70"/>'
    rotation = Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, xmp=xmp)).rotation()
    lean = math.radians(20)
    assert rotation @ [0, 0, 1] == pytest.approx([math.sin(lean), 0, -math.cos(lean)])
    assert rotation @ [1, 0, 0] == pytest.approx([0, -1, 0], abs=1e-12)


def test_field_of_view_of_a_35mm_lens(tmp_path: Path, write_photo: WritePhoto) -> None:
    """24 mm see 84 degrees along the diagonal (ISO's 43.27 mm), whatever the image's shape."""
    photo = Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, focal_35mm=24))
    camera = photo.camera(3000, 4000)
    assert math.degrees(2 * math.atan(2500 / camera.matrix[0, 0])) == pytest.approx(84.06, abs=0.02)


def test_picture_stands_as_its_orientation_says(tmp_path: Path, write_photo: WritePhoto) -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, :40] = 255
    pixels = Photo.read(write_photo(tmp_path / "a.jpg", image, 49.0, 9.0, orientation=6)).pixels()
    assert pixels.shape == (80, 60, 3)
    assert pixels[:30].mean() > 250 and pixels[50:].mean() < 5


def test_what_is_missing_is_told(tmp_path: Path, write_photo: WritePhoto) -> None:
    with pytest.raises(GeolocError, match="has no GPS position in its EXIF"):
        Photo.read(write_photo(tmp_path / "a.jpg", GREY))
    with pytest.raises(GeolocError, match="has no GPS position in its EXIF"):
        Photo.read(write_photo(tmp_path / "b.jpg", GREY, lat_deg=40.0))
    (tmp_path / "c.jpg").write_bytes(b"no image")
    with pytest.raises(GeolocError, match="is no readable image"):
        Photo.read(tmp_path / "c.jpg")
    path = write_photo(tmp_path / "d.jpg", np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8), 40, 9)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(GeolocError, match="is damaged"):
        Photo.read(path).pixels()


def dji(**degrees: float) -> str:
    return "<rdf:Description " + " ".join(f'drone-dji:Gimbal{k}Degree="{v:+.2f}"' for k, v in degrees.items()) + "/>"


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"), [(30, -90, 0), (-150, -90, 180), (-150, -80, 180), (40, -75, 9), (40, -95, -20)]
)
def test_gimbal_of_any_attitude(yaw: float, pitch: float, roll: float, tmp_path: Path, write_photo: WritePhoto) -> None:
    """Yaw, pitch and roll in this order from NED, the optical axis ahead, as the aerospace sequence has it."""
    xmp = dji(Yaw=yaw, Pitch=pitch, Roll=roll)
    photo = Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, direction_deg=200.0, xmp=xmp))
    ned_from_gimbal = Rotation.from_euler("ZYX", [yaw, pitch, roll], degrees=True).as_matrix()
    enu_from_ned = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    gimbal_from_optical = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    expected = enu_from_ned @ ned_from_gimbal @ gimbal_from_optical
    np.testing.assert_allclose(photo.rotation(), expected, atol=1e-12)


def test_gimbal_beyond_straight_down_is_the_same_attitude(tmp_path: Path, write_photo: WritePhoto) -> None:
    rotations = [
        Photo.read(write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, xmp=dji(Yaw=y, Pitch=p, Roll=r))).rotation()
        for y, p, r in ((30, -85, 0), (-150, -95, 180))
    ]
    np.testing.assert_allclose(*rotations, atol=1e-12)


def test_picture_of_a_gimbal_stands_as_it_is_stored(tmp_path: Path, write_photo: WritePhoto) -> None:
    path = write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, orientation=6, xmp=dji(Yaw=10, Pitch=-90))
    assert Photo.read(path).pixels().shape == (60, 80, 3)


def write_tiff(path: Path, pixels: np.ndarray, xmp: str = "") -> Path:
    """A geotagged TIFF of one strip, as libtiff writes it: the directory behind the pixels."""
    height, width = pixels.shape[:2]
    out = bytearray(b"II*\0" + bytes(4) + pixels.astype(pixels.dtype.newbyteorder("<")).tobytes())

    def put(data: bytes) -> int:
        place = len(out)
        out.extend(data + bytes(len(data) % 2))
        return place

    def directory(entries: list[tuple[int, int, int, int]]) -> int:
        rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return put(struct.pack("<H", len(entries)) + rows + bytes(4))

    degrees = [put(struct.pack("<6I", value, 1, 30, 1, 0, 1)) for value in (46, 9)]
    letters = [int.from_bytes(letter.encode(), "little") for letter in "NE"]
    gps = directory([(1, 2, 2, letters[0]), (2, 5, 3, degrees[0]), (3, 2, 2, letters[1]), (4, 5, 3, degrees[1])])
    channels, bits = 1 if pixels.ndim == 2 else 3, 8 * pixels.dtype.itemsize
    form = 3 if pixels.dtype.kind == "f" else 1
    entries = [
        *((256, 3, 1, width), (257, 3, 1, height)),
        (258, 3, channels, bits if channels == 1 else put(struct.pack("<3H", *(bits,) * 3))),
        *((259, 3, 1, 1), (262, 3, 1, 1 if channels == 1 else 2), (273, 4, 1, 8), (277, 3, 1, channels)),
        *((278, 3, 1, height), (279, 4, 1, pixels.nbytes)),
        (339, 3, channels, form if channels == 1 else put(struct.pack("<3H", *(form,) * 3))),
        *([(700, 1, len(xmp), put(xmp.encode()))] if xmp else []),
        (34853, 4, 1, gps),
    ]
    out[4:8] = struct.pack("<I", directory(entries))
    path.write_bytes(out)
    return path


def test_metadata_behind_the_pixels_of_a_tiff(tmp_path: Path) -> None:
    xmp = '<a drone-dji:RelativeAltitude="+46.00" drone-dji:GimbalYawDegree="+84.20"/>'
    photo = Photo.read(write_tiff(tmp_path / "a.tif", np.zeros((400, 400, 3), np.uint8), xmp))
    assert (photo.lat_deg, photo.lon_deg, photo.height_m, photo.heading_deg) == (46.5, 9.5, 46.0, 84.2)


def test_metadata_behind_a_large_segment_of_a_jpeg(tmp_path: Path, write_photo: WritePhoto) -> None:
    path = write_photo(tmp_path / "a.jpg", GREY, 49.0, 9.0, xmp='<a drone-dji:RelativeAltitude="+46.00"/>')
    data = path.read_bytes()
    preview = b"\xff\xe4\xff\xff" + bytes(65533)
    path.write_bytes(data[:2] + preview * 5 + data[2:])
    assert Photo.read(path).height_m == 46.0


@pytest.mark.parametrize("kind", ["grey16", "colour16", "grey12", "colour12", "float"])
def test_photo_of_more_than_eight_bits(kind: str, tmp_path: Path) -> None:
    """Values become a picture, neither white nor black, with the colours in their order."""
    ramp = np.linspace(0.0, 1.0, 80 * 60).reshape(60, 80)
    values = (ramp * {"16": 50000, "12": 4000, "at": 0.8}[kind[-2:]]).astype(np.float32 if kind == "float" else "u2")
    if kind.startswith("colour"):
        values = np.stack([values, values // 2, values // 4], axis=-1)
    pixels = Photo.read(write_tiff(tmp_path / "a.tif", values)).pixels().astype(int)
    assert pixels.shape == (60, 80, 3)
    assert pixels[0, 0, 0] <= 2 and pixels[-1, -1, 0] >= 190 and pixels[..., 0].std() > 50
    share = 0.5 if kind.startswith("colour") else 1.0
    assert pixels[-1, -40, 1] == pytest.approx(share * pixels[-1, -40, 0], abs=6)
