# SPDX-License-Identifier: Apache-2.0
"""Dataset builder: views, maps and labels of photos and flights show the same ground."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin

from geoloc_models.datasets.checks import check_dataset
from geoloc_models.datasets.image_pairs import read_rgb
from geoloc_models.datasets.ul14 import Ul14TestPair, load_test, load_train
from geoloc_models.errors import GeolocError
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.ul14_builder import BuildSettings, Built, FlightShots, PhotoShots, build

SIDE_PX, GSD_M = 1500, 0.5
LEFT_M, TOP_M = 500_000.0, 5_300_000.0  # on the central meridian, where UTM's north is true north
UTM_SCALE = 0.9996
FOCAL_35MM = 24

WritePhoto = Callable[..., Path]


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """A texture of many scales, (n, n, 3) uint8."""
    rng = np.random.default_rng(5)
    layers = [
        cv2.resize(rng.uniform(0, 62, (n, n, 3)).astype(np.float32), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC)
        for n in (10, 40, 160, 500)
    ]
    return np.clip(sum(layers), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def raster(ground: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "map.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=SIDE_PX, height=SIDE_PX, count=3, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(LEFT_M, TOP_M, GSD_M, GSD_M), tiled=True,
    ) as file:  # fmt: skip
        file.write(ground.transpose(2, 0, 1))
    return path


def place_of(x_px: float, y_px: float) -> tuple[float, float]:
    """(lat_deg, lon_deg) of a point of the ground image."""
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    lon_deg, lat_deg = to_degrees.transform(LEFT_M + x_px * GSD_M, TOP_M - y_px * GSD_M)
    return lat_deg, lon_deg


def photograph(
    ground: np.ndarray, x_px: float, y_px: float, height_m: float, heading_deg: float, tilt_deg: float = 0.0
) -> np.ndarray:
    """What a 640 x 480 camera sees from above (x, y), ray by ray, without the package's camera code."""
    width, height = 640, 480
    focal_px = FOCAL_35MM * math.hypot(width, height) / math.hypot(36, 24)
    heading, tilt = math.radians(heading_deg), math.radians(tilt_deg)
    forward = np.array([math.sin(heading), math.cos(heading), 0.0])  # east, north, up
    right = np.array([math.cos(heading), -math.sin(heading), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    axis = math.cos(tilt) * down + math.sin(tilt) * forward
    bottom = math.sin(tilt) * down - math.cos(tilt) * forward
    u, v = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    rays = axis + u[..., None] / focal_px * right + v[..., None] / focal_px * bottom
    metres = rays[..., :2] * (height_m / -rays[..., 2:]) * UTM_SCALE
    columns = (x_px + metres[..., 0] / GSD_M - 0.5).astype(np.float32)
    rows = (y_px - metres[..., 1] / GSD_M - 0.5).astype(np.float32)
    return cv2.remap(ground, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def dji(height_m: float, heading_deg: float, tilt_deg: float = 0.0) -> str:
    return (
        f'<a drone-dji:RelativeAltitude="{height_m:+.2f}" drone-dji:GimbalYawDegree="{heading_deg:+.2f}"'
        f' drone-dji:GimbalPitchDegree="{tilt_deg - 90:+.2f}"/>'
    )


@pytest.fixture(scope="module")
def photos(ground: np.ndarray, write_photo: WritePhoto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good photos, the second of them tilted, one outside the map and one without a position."""
    folder = tmp_path_factory.mktemp("photos")
    for number, (x, y, height_m, heading_deg, tilt_deg) in enumerate(
        [(750, 700, 80, 0, 0), (820.5, 790.25, 95, 137, 12), (640, 760, 90, -60, 0)]
    ):
        image = photograph(ground, x, y, height_m, heading_deg, tilt_deg)
        xmp = dji(height_m, heading_deg, tilt_deg)
        write_photo(folder / f"DJI_{number}.JPG", image, *place_of(x, y), focal_35mm=FOCAL_35MM, xmp=xmp)
    write_photo(folder / "DJI_8.JPG", image, *place_of(-4000, 700), focal_35mm=FOCAL_35MM, xmp=xmp)
    write_photo(folder / "DJI_9.JPG", image)
    return folder


def run(shots: PhotoShots | FlightShots, raster: Path, root: Path, settings: BuildSettings) -> list[Built]:
    with RasterMap(raster) as source:
        return list(build(shots, [source], root, settings))


def likeness(view: np.ndarray, search_map: np.ndarray, row_px: float, col_px: float, side_px: float) -> float:
    """Correlation of a view with the square of that side on a map, as far as the map reaches."""
    scale = side_px / 96
    matrix = np.array([[scale, 0, col_px - side_px / 2], [0, scale, row_px - side_px / 2]])
    matrix[:, 2] += scale / 2 - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(search_map, matrix, (96, 96), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full(search_map.shape[:2], 255, np.uint8), matrix, (96, 96), flags=flags) == 255
    small = cv2.resize(view, (96, 96), interpolation=cv2.INTER_AREA)
    images = [cv2.GaussianBlur(image, (0, 0), 1)[inside].ravel() for image in (patch, small)]
    return float(np.corrcoef(*images)[0, 1])


def side_m(height_m: float) -> float:
    """Ground under the shorter side of an upright, north-up image."""
    focal_px = FOCAL_35MM * math.hypot(640, 480) / math.hypot(36, 24)
    return height_m * 480 / focal_px


@pytest.fixture(scope="module")
def built_set(photos: Path, raster: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos built as a test place."""
    root = tmp_path_factory.mktemp("built_set")
    built = run(PhotoShots(photos), raster, root, BuildSettings("Field", "test"))
    assert [(b.name, len(b.coverages) > 0) for b in built[:3]] == [(f"DJI_{n}.JPG", True) for n in range(3)]
    assert [b.skipped for b in built[3:]] == ["shows ground outside the map", "has no GPS position in its EXIF"]
    return root


def test_test_maps_show_the_photo_at_their_label(built_set: Path) -> None:
    pairs = load_test(built_set)
    assert {(pair.place, pair.height_m) for pair in pairs} == {("Field", 80), ("Field", 95), ("Field", 90)}
    north_up = [pair for pair in pairs if pair.height_m == 80]
    assert [pair.map_size_px for pair in north_up] == list(range(700, 1801, 100))
    for pair in north_up:
        assert matches(pair, side_m(80)) > 0.9, pair.satellite
    assert check_dataset(built_set).faults == []


def matches(pair: Ul14TestPair, view_m: float) -> float:
    search_map = read_rgb(pair.satellite)
    row_px, col_px = np.multiply(pair.target, search_map.shape[0])
    return likeness(read_rgb(pair.uav), search_map, row_px, col_px, view_m / pair.size_m * search_map.shape[0])


def test_turned_and_tilted_photos_come_out_north_up(photos: Path, raster: Path, tmp_path: Path) -> None:
    """At the right place and turn they look like the map, and neither 4 m beside it nor turned by 5 degrees."""
    run(PhotoShots(photos), raster, tmp_path, BuildSettings("Field", "train"))
    items = load_train(tmp_path)
    assert [item.height_m for item in items] == [80, 90, 95]
    for item in items:
        view, search_map = read_rgb(item.uav), read_rgb(item.satellites[0])
        assert view.shape == (512, 512, 3) and search_map.shape == (1280, 1280, 3)
        scores = {
            (shift, view_m): likeness(view, search_map, 640 + shift, 640, view_m / 0.46)
            for shift in (0, 9)
            for view_m in np.arange(0.5, 1.01, 0.02) * side_m(item.height_m)
        }
        best = max(scores, key=lambda key: scores[key])
        assert best[0] == 0 and scores[best] > 0.9, (item.uav, best, scores[best])
        turn = cv2.getRotationMatrix2D((255.5, 255.5), 5, 1)
        turned = cv2.warpAffine(view, turn, (512, 512), borderMode=cv2.BORDER_REFLECT)
        assert likeness(turned, search_map, 640, 640, best[1] / 0.46) < scores[best] - 0.05


def test_tilted_photo_stands_where_it_looks(built_set: Path) -> None:
    """12 degrees at 95 m look 20.2 m ahead, to 137 degrees; the label is that point."""
    pair = next(pair for pair in load_test(built_set) if pair.height_m == 95)
    ahead_px = 95 * math.tan(math.radians(12)) / GSD_M * UTM_SCALE
    x = 820.5 + ahead_px * math.sin(math.radians(137))
    y = 790.25 - ahead_px * math.cos(math.radians(137))
    assert (pair.lat_deg, pair.lon_deg) == pytest.approx(place_of(x, y), abs=2e-7)


def test_flight_becomes_a_data_set(small_flight: Path, tmp_path: Path) -> None:
    flight = Flight.open(small_flight)
    shots = FlightShots(flight, every=12)
    assert [shots.name(i) for i in range(len(shots))] == ["frame 0", "frame 12"]
    run(shots, flight.map_path, tmp_path, BuildSettings("Loop", "test", seed=3))
    pairs = load_test(tmp_path)
    assert {pair.sequence for pair in pairs} == {
        f"Loop_{round(flight.truth(12 * n).height_above_ground_m)}_{n}" for n in range(2)
    }
    # A map of 500 m holds most of the small maps and, as the set of the paper, targets all over them.
    assert {pair.map_size_px for pair in pairs} >= {700, 800, 900, 1000}
    targets = np.array([pair.target for pair in pairs])
    assert targets.min() < 0.3 and targets.max() > 0.7
    assert targets.min() >= 0.025 and targets.max() <= 0.975
    assert check_dataset(tmp_path).faults == []
    first = load_test(tmp_path)[0]
    assert (first.lat_deg, first.lon_deg) == pytest.approx((flight.truth(0).lat_deg, flight.truth(0).lon_deg), abs=3e-4)


def test_maps_of_two_dates_give_two_maps_of_each_photo(photos: Path, raster: Path, tmp_path: Path) -> None:
    with RasterMap(raster) as one, RasterMap(raster) as other:
        built = list(build(PhotoShots(photos), [one, other], tmp_path, BuildSettings("Field", "train")))
    assert [len(b.coverages) for b in built] == [2, 2, 2, 0, 0]
    assert [path.name for path in load_train(tmp_path)[0].satellites] == ["0.tif", "1.tif"]


def test_a_place_is_built_once_and_in_one_split(photos: Path, raster: Path, tmp_path: Path) -> None:
    run(PhotoShots(photos), raster, tmp_path, BuildSettings("North_Field", "train"))
    for place, split in (("North_Field", "train"), ("North_Field", "test")):
        with pytest.raises(GeolocError, match="train already holds 3 sequences of place North_Field; give another"):
            run(PhotoShots(photos), raster, tmp_path, BuildSettings(place, split))
    # A name that only begins alike is another place.
    run(PhotoShots(photos), raster, tmp_path, BuildSettings("North", "train"))
    assert len(load_train(tmp_path)) == 6


def test_height_by_argument_and_photos_that_cannot_be_used(
    ground: np.ndarray, raster: Path, write_photo: WritePhoto, tmp_path: Path
) -> None:
    image = photograph(ground, 750, 700, 80, 0)
    write_photo(tmp_path / "p" / "a.jpg", image, *place_of(750, 700))
    write_photo(tmp_path / "p" / "b.jpg", image, *place_of(750, 700), xmp=dji(80, 0, 20))
    write_photo(tmp_path / "p" / "c.jpg", image, *place_of(750, 700), focal_35mm=24, xmp=dji(80, 0, 75))
    shots = PhotoShots(tmp_path / "p")
    skipped = [b.skipped for b in run(shots, raster, tmp_path / "a", BuildSettings("A", "train"))]
    assert skipped[0] == "has no height above ground in its XMP; give one with --height-m"
    assert skipped[1].startswith("looks 20° off straight down and does not name its lens")
    assert skipped[2].startswith("camera is tilted 75° from straight down, the limit is 60°")
    assert not (tmp_path / "a" / "train").exists()
    shots = PhotoShots(tmp_path / "p", height_m=70.0)
    assert run(shots, raster, tmp_path / "b", BuildSettings("A", "train"))[0].coverages == (1.0,)
    assert shots.without_heading == 1
    assert load_train(tmp_path / "b")[0].height_m == 70


def test_impossible_wishes_are_told(tmp_path: Path, small_flight: Path) -> None:
    with pytest.raises(GeolocError, match="holds no photos; give a folder"):
        PhotoShots(tmp_path)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(GeolocError, match=r"height above ground is -5\.0 m; it must be positive"):
        PhotoShots(tmp_path, -5.0)
    with pytest.raises(GeolocError, match="every 0th frame"):
        FlightShots(Flight.open(small_flight), every=0)
    with pytest.raises(GeolocError, match="place 'a/b' cannot be part of a folder's name"):
        BuildSettings("a/b", "train")
    with pytest.raises(GeolocError, match=r"train maps of 0\.0 m a pixel"):
        BuildSettings("a", "train", gsd_m=0.0)
