# SPDX-License-Identifier: Apache-2.0
"""`geoloc locate` with the network that ships: photos of three makes over their map and over another one."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geoloc_ros.cli.main import main
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.photos import DIAGONAL_35MM, Photo
from geoloc_ros.core.simulation.simulator import CameraSimulator

FOCAL_35MM, HEIGHT_M = 27, 100.0
FOCAL_PX = FOCAL_35MM * 400 / DIAGONAL_35MM
CAMERA = CameraModel(320, 240, np.array([[FOCAL_PX, 0, 159.5], [0, FOCAL_PX, 119.5], [0, 0, 1]]))
# Name: place east and north of the map's centre, m, heading, and the XMP.
PHOTOS = {
    "DJI_0001.JPG": (
        (-12.0, 5.0, 30.0),
        '<a drone-dji:RelativeAltitude="+100" drone-dji:GimbalYawDegree="+30" drone-dji:GimbalPitchDegree="-90"/>',
    ),
    "P0030003.JPG": (
        (3.0, 11.0, 300.0),
        "<Camera:AboveGroundAltitude>100.0</Camera:AboveGroundAltitude><drone-parrot:CameraYawDegree>300.0"
        "</drone-parrot:CameraYawDegree><drone-parrot:CameraPitchDegree>-90.0</drone-parrot:CameraPitchDegree>",
    ),
    # A Skydio with neither height nor yaw.
    "S1000004.JPG": (
        (14.0, -8.0, 140.0),
        '<drone-skydio:CameraOrientationNED rdf:parseType="Resource"><drone-skydio:Pitch>-90.0</drone-skydio:Pitch>'
        "</drone-skydio:CameraOrientationNED>",
    ),
}


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, write_texture: Callable[..., Path], write_photo: Callable[..., Path]
) -> tuple[Path, LocalEnu]:
    """A folder with map.tif, other.tif, photos/ over the first, and the map's centre."""
    folder = tmp_path_factory.mktemp("locate")
    ground = write_texture(folder / "map.tif", 0)
    write_texture(folder / "other.tif", 1)
    with RasterMap(ground) as raster:
        south, west, north, east = raster.bounds_deg
    home = LocalEnu((south + north) / 2, (west + east) / 2)
    camera = CameraSimulator(ground, CAMERA)
    for number, (name, ((east_m, north_m, heading_deg), xmp)) in enumerate(PHOTOS.items()):
        place = home.to_geodetic(east_m, north_m)
        image = camera.render(*place, HEIGHT_M, nadir_rotation(heading_deg))
        # The tag is 3 km off: nobody is to start from it.
        write_photo(
            folder / "photos" / name, image, place[0] + 0.027, place[1], focal_35mm=FOCAL_35MM, xmp=xmp,
            taken=f"2024:05:06 10:00:0{9 - number}",
        )  # fmt: skip
    return folder, home


def test_photos_of_three_makes_are_located(
    scene: tuple[Path, LocalEnu], small_retriever: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    write_photo: Callable[..., Path],
) -> None:  # fmt: skip
    folder, home = scene
    blind = write_photo(tmp_path / "blind.jpg", np.full((24, 32, 3), 90, np.uint8), taken="2024:05:06 10:01:00")
    outs = [tmp_path / f"out.{kind}" for kind in ("csv", "geojson", "html")]
    near = home.to_geodetic(5.0, 0.0)
    arguments = [str(folder / "photos"), str(blind), "--map", str(folder / "map.tif"), "--threads", "1"]
    arguments += ["--retrieval-weights", str(small_retriever), f"--near={near[0]:.6f},{near[1]:.6f},0.03"]
    arguments += ["--height-range-m", "80", "125", "--sequence", "--write-exif", str(tmp_path / "copies")]
    arguments += [word for out in outs for word in ("--out", str(out))]
    assert main(["locate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "blind.jpg: states no focal length" in printed and "DJI_0001.JPG" in printed

    with outs[0].open(newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert list(rows) == [*reversed(PHOTOS), "blind.jpg"]  # as they were taken
    assert list(rows["blind.jpg"]) == [
        "file", "latitude_deg", "longitude_deg", "altitude_m", "heading_deg", "sigma_east_m", "sigma_north_m",
        "valid", "reason",
    ]  # fmt: skip
    assert list(rows["blind.jpg"].values())[1:8] == [""] * 6 + ["false"]
    for name, ((east_m, north_m, heading_deg), _) in PHOTOS.items():
        row = rows[name]
        assert row["valid"] == "true" and row["reason"] == "", row
        found = home.to_enu(float(row["latitude_deg"]), float(row["longitude_deg"]))
        assert math.dist(found, (east_m, north_m)) < 3.0, name
        assert (float(row["heading_deg"]) - heading_deg + 180) % 360 - 180 == pytest.approx(0, abs=2.0), name
        assert 0 < float(row["sigma_east_m"]) < 30 and row["altitude_m"] == ""
        copy = Photo.read(tmp_path / "copies" / name)
        assert (copy.lat_deg, copy.lon_deg) == pytest.approx(
            (float(row["latitude_deg"]), float(row["longitude_deg"])), abs=1e-7
        )
    assert not (tmp_path / "copies" / "blind.jpg").exists()

    features = json.loads(outs[1].read_text())["features"]
    assert [feature["geometry"] is None for feature in features] == [False] * 3 + [True]
    row = rows["S1000004.JPG"]
    assert features[0]["geometry"]["coordinates"] == [float(row["longitude_deg"]), float(row["latitude_deg"])]
    assert features[0]["properties"]["from_gps_tag_m"] == pytest.approx(3000, abs=15)
    page = outs[2].read_text()
    assert page.count("photo over map</figcaption>") == 3
    assert "Not located: states no focal length" in page


def test_another_map_gives_no_place(
    scene: tuple[Path, LocalEnu], small_retriever: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, home = scene
    arguments = [str(folder / "photos" / "DJI_0001.JPG"), "--map", str(folder / "other.tif"), "--threads", "1"]
    near = f"--near={home.lat_deg:.6f},{home.lon_deg:.6f},0.02"
    arguments += ["--retrieval-weights", str(small_retriever), near, "--out", str(tmp_path / "out.csv")]
    assert main(["locate", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("geoloc: DJI_0001.JPG was not located: ") and "\n" not in error
    values = (tmp_path / "out.csv").read_text().splitlines()[1].split(",")
    assert values[:8] == ["DJI_0001.JPG", "", "", "", "", "", "", "false"] and values[8]


def test_mistakes_end_before_any_work(
    scene: tuple[Path, LocalEnu], tmp_path: Path, capsys: pytest.CaptureFixture[str], write_photo: Callable[..., Path]
) -> None:
    folder, _ = scene
    write_photo(tmp_path / "timeless.jpg", np.zeros((24, 32, 3), np.uint8))
    photos = ["locate", str(folder / "photos"), "--map", str(folder / "map.tif")]
    for words, message in (
        (["--out", "places.kml"], "the ending says what to write"),
        (["--write-exif", str(folder / "photos")], "holds the photos themselves"),
        (["--height-range-m", "9", "3"], "are no range"),
    ):
        assert main([*photos, *words]) == 2
        assert message in capsys.readouterr().err
    assert main([*photos[:2], str(tmp_path / "timeless.jpg"), *photos[2:], "--sequence"]) == 2
    assert "timeless.jpg states no time (DateTimeOriginal)" in capsys.readouterr().err
    (tmp_path / "DJI_0001.JPG").write_bytes((folder / "photos" / "DJI_0001.JPG").read_bytes())
    twice = [*photos[:2], str(tmp_path), *photos[2:], "--write-exif", str(tmp_path / "copies")]
    assert main(twice) == 2
    assert "two photos are called DJI_0001.JPG" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*photos, "--near", "58,26"])
    assert "give LAT,LON,KM" in capsys.readouterr().err
