# SPDX-License-Identifier: Apache-2.0
"""Gazebo worlds: true size, the right place under every pixel, files that the SDF checker takes."""

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.transform import from_origin

from geoloc_models.errors import GeolocError
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.simulation.gazebo import VEHICLE, Camera, World, blocks_of, plan_ground, write_world
from geoloc_ros.core.simulation.gazebo_check import check_served_map, likeness

GEOD = pyproj.Geod(ellps="WGS84")
WAVE_PX = 64
CHECKER = next((name for name in ("ign", "gz") if shutil.which(name)), None)

# A PX4 x500 as far as the overlay leans on it.
X500 = """<?xml version="1.0"?>
<sdf version="1.9"><model name="x500"><pose>0 0 0.24 0 0 0</pose><link name="base_link"><inertial><mass>2</mass>
<inertia><ixx>0.02</ixx><iyy>0.02</iyy><izz>0.04</izz></inertia></inertial></link></model></sdf>
"""


def wave(pixels: np.ndarray) -> np.ndarray:
    """Up and down between 0 and 255, WAVE_PX to the round: 8 levels a pixel."""
    phase = np.mod(pixels / WAVE_PX, 1.0)
    return 255.0 * np.where(phase < 0.5, 2 * phase, 2 - 2 * phase)


def write_raster(path: Path, crs: str, lat_deg: float, lon_deg: float, gsd: float) -> Path:
    """600 x 500 px whose colours tell column (red; blue: coarsely) and row (green), centred on a place."""
    cols, rows = np.meshgrid(np.arange(600) + 0.5, np.arange(500) + 0.5)
    pixels = np.stack([wave(cols), wave(rows), cols * (255 / 600)])
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(lon_deg, lat_deg)
    with rasterio.open(
        path, "w", driver="GTiff", width=600, height=500, count=3, dtype="uint8", crs=crs,
        transform=from_origin(x - 300 * gsd, y + 250 * gsd, gsd, gsd),
    ) as target:  # fmt: skip
        target.write(np.rint(pixels).astype(np.uint8))
    return path


@dataclass
class Rendered:
    """A world as Gazebo reads it: from the SDF, the mesh and the images alone."""

    folder: Path

    def __post_init__(self) -> None:
        root = ElementTree.parse(next(self.folder.glob("*_flight.sdf"))).getroot()
        place = root.find(".//spherical_coordinates")
        assert place is not None
        assert place.findtext("world_frame_orientation") == "ENU"
        lat, lon = place.findtext("latitude_deg"), place.findtext("longitude_deg")
        # Gazebo's frame is the plane that touches the ellipsoid there.
        self.to_local = pyproj.Transformer.from_pipeline(
            "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart +ellps=WGS84 "
            f"+step +proj=topocentric +ellps=WGS84 +lat_0={lat} +lon_0={lon} +h_0={place.findtext('elevation')}"
        )
        self.visuals = root.findall(".//visual")
        self.collision = root.find(".//collision")

    def mesh(self, visual: ElementTree.Element) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) world coordinates of the corners and (n, 2) image coordinates, 0..1, right and down."""
        lines = (self.folder / str(visual.findtext(".//mesh/uri"))).read_text().splitlines()
        corners = np.array([line.split()[1:3] for line in lines if line.startswith("v ")], float)
        texture = np.array([line.split()[1:3] for line in lines if line.startswith("vt ")], float)
        faces = [
            tuple(map(int, part.split("/")[:2])) for line in lines if line.startswith("f ") for part in line.split()[1:]
        ]
        assert all(vertex == coordinate for vertex, coordinate in faces)
        scale = np.array(str(visual.findtext(".//mesh/scale")).split(), float)[:2]
        pose = np.array(str(visual.findtext("pose")).split(), float)
        assert not pose[2:].any()
        texture[:, 1] = 1 - texture[:, 1]  # OBJ counts from the bottom
        return corners * scale + pose[:2], texture

    def colour(self, lat_deg: float, lon_deg: float) -> np.ndarray | None:
        """RGB of the ground at a place; None where there is no ground."""
        east, north, _ = self.to_local.transform(lon_deg, lat_deg, 0.0)
        for visual in self.visuals:
            corners, texture = self.mesh(visual)
            affine, *_ = np.linalg.lstsq(np.column_stack([corners, np.ones(len(corners))]), texture, rcond=None)
            u, v = np.array([east, north, 1.0]) @ affine
            if 0 <= u < 1 and 0 <= v < 1:
                image = cv2.imread(str(self.folder / str(visual.findtext(".//albedo_map"))))
                height, width = image.shape[:2]
                x, y = np.clip([u * width - 0.5, v * height - 0.5], 0, [width - 1, height - 1])
                point = np.float32([[x]]), np.float32([[y]])
                return cv2.remap(image, *point, cv2.INTER_LINEAR)[0, 0, ::-1].astype(float)
        return None

    def size_m(self) -> np.ndarray:
        """(width, height) of all tiles together."""
        corners = np.concatenate([self.mesh(visual)[0] for visual in self.visuals])
        return np.ptp(corners, axis=0)


def make(raster: Path, out: Path, name: str = "geoloc", **options: object) -> World:
    """The world of a raster, in PNG, for JPEG is not exact."""
    with RasterMap(raster) as source:
        plan = plan_ground(source, texture_format="png", **options)  # type: ignore[arg-type]
        return write_world(source, raster.name, out, plan, Camera(), name)


@pytest.mark.parametrize(
    ("crs", "lat_deg", "lon_deg", "gsd"),
    [
        ("EPSG:32635", 58.4, 26.7, 1.0),
        ("EPSG:32633", 78.2, 11.0, 1.0),  # far north and 4 degrees off the zone's meridian
        ("EPSG:3857", 70.0, -50.0, 3.0),  # a pixel is a third as large on the ground
        ("EPSG:4326", -54.8, 179.9985, 1.2e-5),  # pixels that are no squares, over the antimeridian
        ("EPSG:3413", 82.0, 120.0, 1.0),  # north is not up
    ],
)
def test_every_place_lies_where_it_is(tmp_path: Path, crs: str, lat_deg: float, lon_deg: float, gsd: float) -> None:
    raster = write_raster(tmp_path / "map.tif", crs, lat_deg, lon_deg, gsd)
    world = make(raster, tmp_path / "world", tile_px=256)
    assert len(world.plan.tiles) > 4
    rendered = Rendered(tmp_path / "world")
    to_crs = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    errors, seen = [], 0
    with rasterio.open(raster) as source:
        for col, row in np.random.default_rng(3).uniform([20, 20], [580, 480], (60, 2)):
            lon, lat = to_crs.transform(*(source.transform @ (col, row)), direction="INVERSE")
            colour = rendered.colour(lat, lon)
            assert colour is not None
            seen += 1
            errors.append(np.abs(colour[:2] - [wave(col), wave(row)]))
            assert abs(colour[2] - col * (255 / 600)) < 4  # not mirrored, and not a wave off
    assert seen == 60
    # 8 levels are a pixel; what is resampled loses a little at the waves' crests.
    assert np.median(errors) < 1.5
    assert np.mean(errors) < 3.0


@pytest.mark.parametrize(("lat_deg", "crs"), [(0.1, "EPSG:3857"), (47.0, "EPSG:32632"), (78.2, "EPSG:3857")])
def test_ground_has_its_true_size(tmp_path: Path, lat_deg: float, crs: str) -> None:
    """Against geodesics between the raster's own edges."""
    raster = write_raster(tmp_path / "map.tif", crs, lat_deg, 9.0, 5.0)
    world = make(raster, tmp_path / "world")
    to_crs = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    with rasterio.open(raster) as source:
        (west, south, east, north), middle = source.bounds, source.transform @ (300, 250)
    ends = [(west, middle[1]), (east, middle[1]), (middle[0], south), (middle[0], north)]
    lon, lat = to_crs.transform(*zip(*ends, strict=True), direction="INVERSE")
    width_m = GEOD.inv(lon[0], lat[0], lon[1], lat[1])[2]
    height_m = GEOD.inv(lon[2], lat[2], lon[3], lat[3])[2]
    # The grid is turned against north by up to a degree, so that the upright rectangle about it is larger.
    rendered = Rendered(tmp_path / "world")
    turn = abs(np.radians(GEOD.inv(lon[2], lat[2], lon[3], lat[3])[0]))
    expected = np.array([width_m + np.sin(turn) * height_m, height_m + np.sin(turn) * width_m])
    np.testing.assert_allclose(rendered.size_m(), expected, rtol=2e-3, atol=2 * world.plan.gsd_m)
    assert rendered.collision is not None
    size = np.array(str(rendered.collision.findtext(".//size")).split(), float)
    np.testing.assert_allclose(size, rendered.size_m(), atol=1e-3)
    # The ends of the ground, as Gazebo places them, are as far apart as the ground is wide.
    half = rendered.size_m()[0] / 2
    ends = [rendered.to_local.transform(offset, 0.0, 0.0, direction="INVERSE") for offset in (-half, half)]
    assert GEOD.inv(*ends[0][:2], *ends[1][:2])[2] == pytest.approx(2 * half, rel=1e-5)


def test_plan_keeps_to_its_limits(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "map.tif", "EPSG:32633", 58.4, 15.0, 1.0)
    with RasterMap(raster) as source:
        native = plan_ground(source)
        assert native.gsd_m == pytest.approx(1.0, rel=2e-3)
        small = plan_ground(source, texture_mib=0.25)
        assert small.pixels * 4 * 4 / 3 <= 0.26 * 2**20
        assert small.bounds_m == pytest.approx(native.bounds_m, abs=2 * small.gsd_m)
        cut = plan_ground(source, centre=(58.4, 15.001), size_m=100.0, gsd_m=0.5)
        assert (cut.lat_deg, cut.lon_deg) == (58.4, 15.001)
        assert cut.bounds_m == pytest.approx((-50.0, -50.0, 50.0, 50.0))
        assert sum(tile.width_px * tile.height_px for tile in cut.tiles) == 200 * 200
        for options, word in (
            ({"gsd_m": 0.1, "texture_mib": 1.0}, "--gsd-m"),
            ({"size_m": 100.0, "centre": (10.0, 10.0)}, "the map has nothing within"),
            ({"size_m": -1.0}, "give 1 to 100000 m"),
            ({"tile_px": 100}, "give 256 to 16384"),
        ):
            with pytest.raises(GeolocError, match=re.escape(word)):
                plan_ground(source, **options)  # type: ignore[arg-type]


def test_world_tells_what_it_is(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "map.tif", "EPSG:32633", 58.4, 15.0, 1.0)
    written = make(raster, tmp_path / "world", name="over_there")
    assert World.open(tmp_path / "world") == written
    assert written.coverage == pytest.approx(1.0, abs=0.01)
    drawn: list[int] = []
    with RasterMap(raster) as source:
        plan = plan_ground(source, tile_px=256)
        write_world(source, "m", tmp_path / "other", plan, Camera(), on_block=lambda: drawn.append(1))
        with pytest.raises(GeolocError, match="a letter followed by"):
            write_world(source, "m", tmp_path / "other", plan, Camera(), name="two words")
    assert len(drawn) == blocks_of(plan) > 1


@pytest.mark.parametrize("damage", ["missing", "truncated", "texture"])
def test_damaged_world_is_refused(tmp_path: Path, damage: str) -> None:
    raster = write_raster(tmp_path / "map.tif", "EPSG:32633", 58.4, 15.0, 1.0)
    world = make(raster, tmp_path / "world")
    info = tmp_path / "world" / "world.json"
    if damage == "missing":
        info.unlink()
    elif damage == "truncated":
        info.write_text(info.read_text()[:200])
    else:
        (world.ground / world.plan.tiles[0].file).unlink()
    with pytest.raises(GeolocError, match=r"make the world anew|make it with"):
        World.open(tmp_path / "world")


def test_outside_the_map_is_of_one_colour(tmp_path: Path) -> None:
    """And the share that the map covers is told."""
    raster = write_raster(tmp_path / "map.tif", "EPSG:32633", 58.4, 15.0, 1.0)
    world = make(raster, tmp_path / "world", centre=(58.4, 15.0), size_m=1000.0, tile_px=512)
    assert world.coverage == pytest.approx(600 * 500 / 1000**2, abs=0.01)
    corners = [cv2.imread(str(world.ground / f"tile_{row}_{col}.png"))[-row, -col] for row, col in ((0, 0), (1, 1))]
    np.testing.assert_array_equal(corners[0], corners[1])


def test_ground_without_data_is_refused(tmp_path: Path, write_patchwork) -> None:
    """Inside the raster, where it holds nothing."""
    raster = write_patchwork(tmp_path / "map.tif")
    to_crs = pyproj.Transformer.from_crs(4326, 32633, always_xy=True)
    lon, lat = to_crs.transform(500_060, 5_299_800, direction="INVERSE")
    with RasterMap(raster) as source:
        plan = plan_ground(source, centre=(lat, lon), size_m=50.0)
        with pytest.raises(GeolocError, match="shows nothing on this ground"):
            write_world(source, "map.tif", tmp_path / "void", plan, Camera())
    assert not (tmp_path / "void" / "world.json").exists()


def test_served_map_must_be_another_picture(tmp_path: Path, write_texture) -> None:
    """Known again as another file, format, resolution and brightness."""
    ground, other = write_texture(tmp_path / "ground.tif", 1), write_texture(tmp_path / "other.tif", 2)
    with RasterMap(ground) as source:
        plan = plan_ground(source, gsd_m=1.0)
        world = write_world(source, "ground.tif", tmp_path / "world", plan, Camera())
    copy = tmp_path / "copy.tif"
    with rasterio.open(ground) as source:
        darker = (source.read(out_shape=(3, 800, 800)) * 0.8).astype(np.uint8)
        with rasterio.open(
            copy, "w", driver="GTiff", width=800, height=800, count=3, dtype="uint8", crs=source.crs,
            transform=source.transform * source.transform.scale(1.5), compress="jpeg",
        ) as target:  # fmt: skip
            target.write(darker)
    for served in (ground, copy):
        with pytest.raises(GeolocError, match="same_map:=true"):
            check_served_map(world, served, same_map=False)
        assert "says nothing about real flights" in check_served_map(world, served, same_map=True)
    assert check_served_map(world, other, same_map=False) == ""
    elsewhere = write_raster(tmp_path / "elsewhere.tif", "EPSG:32633", 58.4, 15.0, 1.0)
    with pytest.raises(GeolocError, match="does not show the ground"):
        check_served_map(world, elsewhere, same_map=True)


def test_other_date_counts_as_another_picture(tmp_path: Path, shared_data: Path) -> None:
    joplin = shared_data / "crossdate" / "joplin"
    with RasterMap(joplin / "pre.tif") as before, RasterMap(joplin / "post.tif") as after:
        plan = plan_ground(before, gsd_m=2.0)
        world = write_world(before, "pre.tif", tmp_path / "world", plan, Camera())
        like = likeness(world, after)
    assert like is not None
    assert like < 0.8


@pytest.mark.parametrize("camera", [(640, 480, 120.0, 10.0), (8, 480, 66.0, 10.0), (640, 480, 66.0, 0.0)])
def test_impossible_cameras_are_refused(camera: tuple[int, int, float, float]) -> None:
    with pytest.raises(GeolocError, match="give"):
        Camera(*camera)


def test_camera_and_bridge_name_the_same_topics(tmp_path: Path) -> None:
    import yaml

    raster = write_raster(tmp_path / "map.tif", "EPSG:32633", 58.4, 15.0, 1.0)
    with RasterMap(raster) as source:
        plan = plan_ground(source)
        world = write_world(source, "m", tmp_path / "w", plan, Camera(800, 600, 60.0, 15.0), "hill", 123.5)
    model = ElementTree.parse(world.models / "geoloc_camera" / "model.sdf").getroot()
    topics = {str(sensor.get("type")): sensor.findtext("topic") for sensor in model.iter("sensor")}
    bridged = {entry["ros_topic_name"]: entry for entry in yaml.safe_load((tmp_path / "w" / "bridge.yaml").read_text())}
    assert bridged["/clock"]["gz_topic_name"] == "/world/hill/clock"
    assert bridged["truth"]["gz_topic_name"] == topics["navsat"]
    # Gazebo publishes camera_info beside the image.
    assert bridged["camera_info"]["gz_topic_name"] == str(topics["camera"]).rsplit("/", 1)[0] + "/camera_info"
    vehicle = ElementTree.parse(world.flight_sdf).getroot().findtext(".//include/name")
    assert vehicle == VEHICLE == ElementTree.parse(world.models / VEHICLE / "model.sdf").getroot()[0].get("name")
    assert {entry["direction"] for entry in bridged.values()} == {"GZ_TO_ROS"}
    assert float(str(model.findtext(".//horizontal_fov"))) == pytest.approx(np.radians(60.0), abs=1e-6)
    assert [model.findtext(f".//image/{side}") for side in ("width", "height")] == ["800", "600"]
    assert "<elevation>123.500</elevation>" in world.sdf.read_text()
    assert json.loads((tmp_path / "w" / "world.json").read_text())["camera"]["rate_hz"] == 15.0
    systems = ElementTree.parse(tmp_path / "w" / "server.config").getroot()
    assert {"gz::sim::systems::Imu", "gz::sim::systems::NavSat", "gz::sim::systems::Sensors"} <= {
        str(plugin.get("name")) for plugin in systems.iter("plugin")
    }


def check_sdf(path: Path, *model_folders: Path) -> subprocess.CompletedProcess[str]:
    """What the SDF checker says."""
    environment = {**os.environ, "SDF_PATH": ":".join(map(str, model_folders))}
    return subprocess.run(
        [str(CHECKER), "sdf", "-k", str(path)],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.skipif(CHECKER is None, reason="no SDF checker (apt-get install ignition-tools sdformat-sdf)")
def test_sdf_checker_takes_every_file(tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "map.tif", "EPSG:32633", 58.4, 15.0, 1.0)
    world = make(raster, tmp_path / "world", tile_px=256)
    stock = tmp_path / "px4" / "x500"
    stock.mkdir(parents=True)
    (stock / "model.sdf").write_text(X500)
    (stock / "model.config").write_text(
        '<model><name>x500</name><sdf version="1.9">model.sdf</sdf></model>', encoding="utf-8"
    )
    files = sorted((tmp_path / "world").rglob("*.sdf"))
    assert len(files) == 4
    assert check_sdf(world.sdf).returncode == 0  # needs nobody else's models
    for path in files:
        done = check_sdf(path, world.models, tmp_path / "px4")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Valid" in done.stdout
        assert "not defined in SDF" not in done.stdout + done.stderr
    # The checker does find mistakes: a joint to a link that is not there.
    vehicle = world.models / "x500_geoloc" / "model.sdf"
    vehicle.write_text(vehicle.read_text().replace("<parent>base_link<", "<parent>base<"))
    assert check_sdf(vehicle, world.models, tmp_path / "px4").returncode != 0
