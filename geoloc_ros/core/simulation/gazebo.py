# SPDX-License-Identifier: Apache-2.0
"""A Gazebo world whose ground is a georeferenced raster in true size, with our camera under PX4's x500.

Gazebo's world frame is ENU about the place that <spherical_coordinates> names; the ground lies in its plane z = 0
and is cut into textures that a graphics card can hold, each on a rectangle of its own. Docs: docs/gazebo.md.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import jinja2
import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.raster import RasterMap

INFO_FILE = "world.json"
VEHICLE = "x500_geoloc"
BLOCK_PX = 1024
"""Side of what is drawn at once."""

_RGBA_WITH_MIPMAPS = 4 * 4 / 3  # bytes that a pixel takes on the graphics card
_FORMATS = {"jpeg": (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]), "png": (".png", [])}


@dataclass(frozen=True)
class Camera:
    """The camera under the vehicle, an ideal pinhole; the image's top is forward."""

    width_px: int = 640
    height_px: int = 480
    hfov_deg: float = 66.0
    rate_hz: float = 10.0

    def __post_init__(self) -> None:
        """GeolocError where Gazebo or the vehicle's legs set a limit."""
        if not (16 <= self.width_px <= 8192 and 16 <= self.height_px <= 8192):
            raise GeolocError(f"an image of {self.width_px}x{self.height_px} px; give 16 to 8192 px each way")
        if not 5.0 <= self.hfov_deg <= 100.0:
            raise GeolocError(f"a field of view of {self.hfov_deg:g}°; give 5 to 100, wider sees the vehicle's legs")
        if not 0.1 <= self.rate_hz <= 100.0:
            raise GeolocError(f"{self.rate_hz:g} frames a second; give 0.1 to 100")


@dataclass(frozen=True)
class Tile:
    """One texture; (east_m, north_m) is the centre of its rectangle in the world's frame."""

    name: str
    file: str  # in the world's folder ground/
    east_m: float
    north_m: float
    width_m: float
    height_m: float
    width_px: int
    height_px: int


@dataclass(frozen=True)
class GroundPlan:
    """Where the ground lies and how it is cut; metres are those of the plane about (lat_deg, lon_deg)."""

    lat_deg: float
    lon_deg: float
    gsd_m: float
    tiles: tuple[Tile, ...]

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) of the ground."""
        return (
            min(tile.east_m - tile.width_m / 2 for tile in self.tiles),
            min(tile.north_m - tile.height_m / 2 for tile in self.tiles),
            max(tile.east_m + tile.width_m / 2 for tile in self.tiles),
            max(tile.north_m + tile.height_m / 2 for tile in self.tiles),
        )

    @property
    def pixels(self) -> int:
        """Of all textures."""
        return sum(tile.width_px * tile.height_px for tile in self.tiles)


def plan_ground(
    source: RasterMap,
    centre: tuple[float, float] | None = None,
    size_m: float | None = None,
    gsd_m: float | None = None,
    tile_px: int = 4096,
    texture_mib: float = 1024.0,
    texture_format: str = "jpeg",
) -> GroundPlan:
    """Lay the ground out: the whole map, or the square of size_m metres about `centre` (latitude, longitude).

    Without gsd_m the map's own resolution is kept as far as texture_mib of graphics memory allow; a gsd_m that
    needs more raises GeolocError, as do a centre outside the map and sizes that make no ground.
    """
    if not 256 <= tile_px <= 16384:
        raise GeolocError(f"textures of {tile_px} px; give 256 to 16384, what graphics cards hold")
    south, west, north, east = source.bounds_deg
    lat_deg, lon_deg = centre or ((south + north) / 2, (west + east) / 2)
    frame = LocalEnu(lat_deg, lon_deg)
    box = _bounds(source, frame)
    if centre is None:
        # The middle of the ground is the middle of the map in metres.
        frame = LocalEnu(*frame.to_geodetic((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        box = _bounds(source, frame)
    if size_m is not None:
        if not 1.0 <= size_m <= 100_000.0:
            raise GeolocError(f"a ground of {size_m:g} m; give 1 to 100000 m")
        if not (box[0] < size_m / 2 and box[1] < size_m / 2 and box[2] > -size_m / 2 and box[3] > -size_m / 2):
            raise GeolocError(
                f"the map has nothing within {size_m / 2:g} m of {lat_deg:.6f}, {lon_deg:.6f}; it spans {south:.6f}, "
                f"{west:.6f} to {north:.6f}, {east:.6f}"
            )
        box = (-size_m / 2, -size_m / 2, size_m / 2, size_m / 2)
    width_m, height_m = box[2] - box[0], box[3] - box[1]
    finest_m = math.sqrt(width_m * height_m * _RGBA_WITH_MIPMAPS / (texture_mib * 2**20))
    if gsd_m is None:
        gsd_m = max(source.pixel_m(frame), finest_m)
    elif not finest_m <= gsd_m <= min(width_m, height_m):
        raise GeolocError(
            f"{gsd_m:g} m a pixel over {width_m:.0f} x {height_m:.0f} m; {texture_mib:g} MiB of textures allow no "
            f"finer than {finest_m:.3g} m: give a coarser --gsd-m, a smaller --size-m or more --texture-mib"
        )
    suffix = _FORMATS[texture_format][0]
    return GroundPlan(frame.lat_deg, frame.lon_deg, gsd_m, tuple(_tiles(box, gsd_m, tile_px, suffix)))


def _bounds(source: RasterMap, frame: LocalEnu) -> tuple[float, float, float, float]:
    """(west, south, east, north) of a map in a plane, m."""
    east_m, north_m = source.outline(frame)
    return float(east_m.min()), float(north_m.min()), float(east_m.max()), float(north_m.max())


def _tiles(box: tuple[float, float, float, float], gsd_m: float, tile_px: int, suffix: str) -> Iterator[Tile]:
    """Rectangles of whole pixels that cover the box without gap or overlap, from the north-west."""
    west, south, east, north = box
    columns = _cuts(math.ceil((east - west) / gsd_m - 1e-6), tile_px)
    rows = _cuts(math.ceil((north - south) / gsd_m - 1e-6), tile_px)
    for row, (top, height_px) in enumerate(rows):
        for column, (left, width_px) in enumerate(columns):
            name = f"tile_{row}_{column}"
            yield Tile(
                name, name + suffix,
                west + (left + width_px / 2) * gsd_m, north - (top + height_px / 2) * gsd_m,
                width_px * gsd_m, height_px * gsd_m, width_px, height_px,
            )  # fmt: skip


def _cuts(length_px: int, limit_px: int) -> list[tuple[int, int]]:
    """(start, length) of as few and as equal parts as possible."""
    parts = math.ceil(length_px / limit_px)
    edges = [round(length_px * part / parts) for part in range(parts + 1)]
    return [(start, end - start) for start, end in pairwise(edges)]


def blocks_of(plan: GroundPlan) -> int:
    """How many times `write_world` reports progress."""
    return sum(math.ceil(t.width_px / BLOCK_PX) * math.ceil(t.height_px / BLOCK_PX) for t in plan.tiles)


def ground_colour(source: RasterMap, plan: GroundPlan) -> np.ndarray:
    """(3,) uint8 RGB, the map's mean on this ground, for what it does not cover; GeolocError if it covers nothing."""
    west, south, east, north = plan.bounds_m
    side_m = max(east - west, north - south)
    frame = LocalEnu(plan.lat_deg, plan.lon_deg)
    image, mask = source.draw(frame, (west + east) / 2, (south + north) / 2, side_m, 512)
    if not mask.any():
        raise GeolocError("the map shows nothing on this ground; choose --centre and --size-m where it has data")
    return np.rint(image[mask > 0].mean(axis=0)).astype(np.uint8)


def draw_tile(
    source: RasterMap, plan: GroundPlan, tile: Tile, colour: np.ndarray, on_block: Callable[[], None]
) -> tuple[np.ndarray, float]:
    """(height_px, width_px, 3) uint8 RGB texture, north up, and the share of it that the map covers.

    colour: (3,) uint8 RGB of the rest.
    """
    frame = LocalEnu(plan.lat_deg, plan.lon_deg)
    image = np.empty((tile.height_px, tile.width_px, 3), np.uint8)
    covered = 0
    west, north = tile.east_m - tile.width_m / 2, tile.north_m + tile.height_m / 2
    half_m = BLOCK_PX * plan.gsd_m / 2
    for top in range(0, tile.height_px, BLOCK_PX):
        for left in range(0, tile.width_px, BLOCK_PX):
            target = image[top : top + BLOCK_PX, left : left + BLOCK_PX]
            east_m, north_m = west + left * plan.gsd_m + half_m, north - top * plan.gsd_m - half_m
            block, mask = source.draw(frame, east_m, north_m, 2 * half_m, BLOCK_PX)
            height, width = target.shape[:2]
            drawn = mask[:height, :width] > 0
            target[:] = np.where(drawn[..., None], block[:height, :width], colour)
            covered += int(np.count_nonzero(drawn))
            on_block()
    return image, covered / (tile.width_px * tile.height_px)


@dataclass(frozen=True)
class World:
    """What `geoloc sim gazebo` wrote, as its world.json says."""

    folder: Path
    name: str
    altitude_m: float  # ellipsoidal, of the ground
    coverage: float  # share of the ground that shows the map
    ground_map: str  # file name of the raster
    camera: Camera
    plan: GroundPlan

    @property
    def sdf(self) -> Path:
        """The world without a vehicle; it needs no other models."""
        return self.folder / f"{self.name}.sdf"

    @property
    def flight_sdf(self) -> Path:
        """The world with the vehicle on its origin; it needs PX4's models."""
        return self.folder / f"{self.name}_flight.sdf"

    @property
    def bridge(self) -> Path:
        """Settings of ros_gz_bridge."""
        return self.folder / "bridge.yaml"

    @property
    def server_config(self) -> Path:
        """Gazebo's systems, for a PX4 that names none."""
        return self.folder / "server.config"

    @property
    def models(self) -> Path:
        """What belongs on GZ_SIM_RESOURCE_PATH."""
        return self.folder / "models"

    @property
    def ground(self) -> Path:
        """Folder of the textures."""
        return self.folder / "ground"

    @classmethod
    def open(cls, folder: str | Path) -> "World":
        """Read world.json; GeolocError if it is missing or damaged, or if a file that it names is missing."""
        folder = Path(folder)
        try:
            read = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
            plan = read.pop("plan")
            tiles = tuple(Tile(**tile) for tile in plan.pop("tiles"))
            world = cls(folder, camera=Camera(**read.pop("camera")), plan=GroundPlan(tiles=tiles, **plan), **read)
        except FileNotFoundError:
            raise GeolocError(
                f"{folder} is no Gazebo world; make it with: geoloc sim gazebo MAP --out {folder}"
            ) from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise GeolocError(f"{folder / INFO_FILE} cannot be read ({error}); make the world anew") from None
        for path in (world.flight_sdf, *(world.ground / tile.file for tile in world.plan.tiles)):
            if not path.is_file():
                raise GeolocError(f"{path} is missing; make the world anew: geoloc sim gazebo MAP --out {folder}")
        return world


def write_world(
    source: RasterMap,
    ground_map: str,
    folder: Path,
    plan: GroundPlan,
    camera: Camera,
    name: str = "geoloc",
    altitude_m: float = 0.0,
    on_block: Callable[[], None] = lambda: None,
) -> World:
    """Draw the textures and write world, models, bridge settings and, last, world.json.

    name: of the world and its file. altitude_m: ellipsoidal, of the ground. on_block: called `blocks_of(plan)` times.
    GeolocError if the name makes no Gazebo topic, or the map cannot be read or covers nothing of the ground.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise GeolocError(f"'{name}' names no Gazebo world; give a letter followed by letters, digits and _")
    if not (math.isfinite(altitude_m) and -1000.0 <= altitude_m <= 10000.0):
        raise GeolocError(f"a ground {altitude_m} m above the ellipsoid; give -1000 to 10000 m")
    info = folder / INFO_FILE
    info.unlink(missing_ok=True)  # half a world must not look like one
    covered, colour = 0.0, ground_colour(source, plan)
    ground = folder / "ground"
    ground.mkdir(parents=True, exist_ok=True)
    for tile in plan.tiles:
        image, share = draw_tile(source, plan, tile, colour, on_block)
        covered += share * tile.width_px * tile.height_px / plan.pixels
        _write_image(ground / tile.file, image)
    world = World(folder, name, altitude_m, covered, ground_map, camera, plan)
    _write_files(world)
    record = {key: value for key, value in asdict(world).items() if key != "folder"}
    info.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return world


def _write_image(path: Path, image: np.ndarray) -> None:
    settings = next(settings for suffix, settings in _FORMATS.values() if suffix == path.suffix)
    encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)[1]
    path.write_bytes(encoded.tobytes())


def _write_files(world: World) -> None:
    """Fill the templates."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
        autoescape=True,
    )  # fmt: skip
    camera, vehicle = world.models / "geoloc_camera", world.models / VEHICLE
    files = {
        world.sdf: "gazebo_world.sdf.j2",
        world.flight_sdf: "gazebo_world.sdf.j2",
        world.bridge: "gazebo_bridge.yaml.j2",
        world.server_config: "gazebo_server.config.j2",
        world.ground / "quad.obj": "gazebo_quad.obj.j2",
        world.ground / "quad.mtl": "gazebo_quad.mtl.j2",
        camera / "model.sdf": "gazebo_camera.sdf.j2",
        vehicle / "model.sdf": "gazebo_vehicle.sdf.j2",
        **{model / "model.config": "gazebo_model.config.j2" for model in (camera, vehicle)},
    }
    for path, template in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = templates.get_template(template).render(
            world=world, plan=world.plan, camera=world.camera, bounds=world.plan.bounds_m, vehicle=VEHICLE,
            with_vehicle=path == world.flight_sdf, model=path.parent.name, down_rad=math.pi / 2,
            hfov_rad=math.radians(world.camera.hfov_deg),
        )  # fmt: skip
        path.write_text(text, encoding="utf-8")
