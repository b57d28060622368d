# SPDX-License-Identifier: Apache-2.0
"""Crops of painted rasters: landmarks measured against geodesics, pixels against GDAL's own warper."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as gdal_copy
from rasterio.transform import Affine
from rasterio.warp import Resampling, reproject

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import CropStatus
from geoloc_ros.core.maps.layers import GdalLayer
from geoloc_ros.core.maps.raster import MapAhead, MapLayer, RasterMap

PLACES = {
    "utm": ("EPSG:32635", 60.2, 25.1),
    "geographic_60": ("EPSG:4326", 60.2, 25.1),
    "geographic_80": ("EPSG:4326", 80.0, -40.0),
    "web_mercator_60": ("EPSG:3857", 60.2, 25.1),
    "polar": ("EPSG:3413", 80.0, -40.0),
    "southern_utm": ("EPSG:32720", -33.0, -63.5),
    "antimeridian_geographic": ("EPSG:4326", -16.5, 180.0),
    "antimeridian_mercator": ("EPSG:3857", -16.5, 180.0),
    "antimeridian_utm": ("EPSG:32760", -16.5, 179.999),
}
TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128}
SPOTS_M = [(0.0, 0.0), (60.0, 35.0), (-55.0, 40.0), (30.0, -62.0), (-66.0, -66.0)]


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 smooth random colours, without black."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    return np.clip(128 + (smooth - 127.5) * 8, 30, 255).astype(np.uint8)


def pixel_grid(crs: str, lat: float, lon: float, gsd_m: float, size_px: int, turn_deg: float = 0.0) -> Affine:
    """Georeference of a square raster around a place, its pixels of about gsd_m on the ground."""
    to_crs = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    geod = pyproj.Geod(ellps="WGS84")
    x, y = to_crs.transform(lon, lat)
    unit = {}
    for name, azimuth in (("x", 90.0), ("y", 0.0)):
        east, north, _ = geod.fwd(lon, lat, azimuth, 1.0)
        dx, dy = np.subtract(to_crs.transform(east, north), (x, y))
        period = 360.0 if "4326" in crs else 2 * np.pi * 6378137.0
        dx = (dx + period / 2) % period - period / 2  # the other side of the antimeridian is next door
        unit[name] = float(np.hypot(dx, dy))
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    a, b, d, e = (cos * unit["x"] * gsd_m, sin * unit["y"] * gsd_m, sin * unit["x"] * gsd_m, -cos * unit["y"] * gsd_m)
    return Affine(a, b, x - (a + b) * size_px / 2, d, e, y - (d + e) * size_px / 2)


def apply(transform: Affine, col: Any, row: Any) -> tuple[Any, Any]:
    """Pixel-edge coordinates to CRS coordinates (or back, with the inverse)."""
    return (transform.a * col + transform.b * row + transform.c, transform.d * col + transform.e * row + transform.f)


def write_raster(path: Path, pixels: np.ndarray, crs: str | None, transform: Affine, **options: Any) -> Path:
    """Write (h, w, bands) pixels as a GeoTIFF."""
    bands = np.moveaxis(pixels, -1, 0)
    profile = {"driver": "GTiff", "dtype": pixels.dtype, "count": len(bands), "crs": crs, "transform": transform}
    with rasterio.open(path, "w", height=bands.shape[1], width=bands.shape[2], **profile, **options) as target:
        target.write(bands)
    return path


def paint_spots(crs: str, lat: float, lon: float, transform: Affine, size_px: int, gsd_m: float) -> np.ndarray:
    """Black raster with a soft white spot of 2 m at every one of SPOTS_M around the place."""
    to_crs = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    from_crs = pyproj.Transformer.from_crs(crs, 4326, always_xy=True)
    geod = pyproj.Geod(ellps="WGS84")
    image = np.zeros((size_px, size_px), np.float32)
    for east_m, north_m in SPOTS_M:
        azimuth_deg, distance_m = np.degrees(np.arctan2(east_m, north_m)), np.hypot(east_m, north_m)
        spot_lon, spot_lat, _ = geod.fwd(lon, lat, azimuth_deg, distance_m)
        col, row = apply(~transform, *to_crs.transform(spot_lon, spot_lat))
        if not 0 <= col < size_px:  # beyond the antimeridian
            world = 360.0 if "4326" in crs else 2 * np.pi * 6378137.0
            col, row = apply(~transform, *np.add(to_crs.transform(spot_lon, spot_lat), (world, 0.0)))
        left, top = int(col) - 25, int(row) - 25
        cols, rows = np.meshgrid(np.arange(50) + left + 0.5, np.arange(50) + top + 0.5)
        pixel_lon, pixel_lat = from_crs.transform(*apply(transform, cols, rows))
        # True distances, so that the spot is round on the ground whatever the projection does.
        here = np.full_like(cols, spot_lon), np.full_like(cols, spot_lat)
        _, _, distance_m = geod.inv(*here, pixel_lon, pixel_lat)
        image[top : top + 50, left : left + 50] += np.exp(-0.5 * (distance_m / 2.0) ** 2)
    return np.repeat((image.clip(0, 1) * 255)[..., None], 3, axis=2).round().astype(np.uint8)


def spot_at(image: np.ndarray, x: float, y: float, reach: int) -> tuple[float, float]:
    """Centroid, in pixel-edge coordinates, of the light within `reach` px of (x, y)."""
    left, top = int(x) - reach, int(y) - reach
    part = image[top : top + 2 * reach, left : left + 2 * reach, 0].astype(float)
    rows, cols = np.indices(part.shape) + 0.5
    return left + (cols * part).sum() / part.sum(), top + (rows * part).sum() / part.sum()


@pytest.mark.parametrize(("place", "turn_deg"), [*((place, 0.0) for place in PLACES), ("utm", 33.0), ("polar", -70.0)])
def test_landmarks_lie_where_geodesics_say(place: str, turn_deg: float, tmp_path: Path) -> None:
    crs, lat, lon = PLACES[place]
    gsd_m, size_px = 0.5, 512
    transform = pixel_grid(crs, lat, lon, gsd_m, size_px, turn_deg)
    spots = paint_spots(crs, lat, lon, transform, size_px, gsd_m)
    path = write_raster(tmp_path / "m.tif", spots, crs, transform, **TILED)
    with RasterMap(path) as source:
        # The same resolution, a finer one, and one so coarse that it comes from an averaged level.
        for crop_px in (400, 640, 100):
            crop = source.crop(lat, lon, 160.0, crop_px)
            assert (crop.status, crop.coverage) == (CropStatus.OK, 1.0)
            scale = crop_px / 160.0
            for east_m, north_m in SPOTS_M:
                x, y = (80 + east_m) * scale, (80 - north_m) * scale
                assert spot_at(crop.image, x, y, round(8 * scale)) == pytest.approx((x, y), abs=0.2)


# GDAL's warper itself loses the far half of a web Mercator raster that crosses the antimeridian.
@pytest.mark.parametrize("place", [place for place in PLACES if place != "antimeridian_mercator"])
def test_pixels_agree_with_gdals_warper(place: str, tmp_path: Path) -> None:
    crs, lat, lon = PLACES[place]
    size_px, crop_px, size_m = 600, 300, 150.0
    transform = pixel_grid(crs, lat, lon, 0.5, size_px)
    pixels = texture(size_px, size_px)
    path = write_raster(tmp_path / "map.tif", pixels, crs, transform)
    with RasterMap(path) as source:
        crop = source.crop(lat, lon, size_m, crop_px)
    expected = np.zeros((3, crop_px, crop_px), np.uint8)
    reproject(
        np.moveaxis(pixels, -1, 0),
        expected,
        src_transform=transform,
        src_crs=crs,
        dst_transform=Affine(0.5, 0, -75, 0, -0.5, 75),
        dst_crs=f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84",
        resampling=Resampling.bilinear,
    )
    difference = np.abs(crop.image.astype(int) - np.moveaxis(expected, 0, -1))[5:-5, 5:-5]
    # At 80 degrees a column of EPSG:4326 is a sixth of a row, so the two average columns differently.
    assert difference.mean() < (3.0 if place == "geographic_80" else 1.0)


def test_crop_georeference_round_trip(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    path = write_raster(tmp_path / "map.tif", texture(400, 400), crs, pixel_grid(crs, lat, lon, 0.5, 400))
    with RasterMap(path) as source:
        crop = source.crop(lat, lon, 100.0, 250)
        south, west, north, east = source.bounds_deg
    assert south < lat < north
    assert west < lon < east
    assert crop.gsd_m == pytest.approx(0.4)
    assert crop.pixel_to_geodetic(125, 125) == pytest.approx((lat, lon), abs=1e-12)
    corner = crop.pixel_to_geodetic(0, 0)
    azimuth_deg, _, distance_m = pyproj.Geod(ellps="WGS84").inv(lon, lat, corner[1], corner[0])
    assert (azimuth_deg, distance_m) == pytest.approx((-45.0, 50 * 2**0.5), abs=1e-3)
    assert crop.geodetic_to_pixel(*crop.pixel_to_geodetic(31.5, 200.25)) == pytest.approx((31.5, 200.25), abs=1e-4)


def test_edge_of_the_map_is_filled_with_the_mean_and_reported(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    transform = pixel_grid(crs, lat, lon, 0.5, 400)
    pixels = texture(400, 400)
    path = write_raster(tmp_path / "map.tif", pixels, crs, transform)
    edge_lon, edge_lat = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(*apply(transform, 400, 200))
    with RasterMap(path) as source:
        crop = source.crop(edge_lat, edge_lon, 100.0, 200)
        outside = source.crop(edge_lat, edge_lon + 0.01, 100.0, 200)
        nowhere = source.crop(float("nan"), edge_lon, 100.0, 200)
    assert crop.status is CropStatus.PARTLY_COVERED
    assert crop.coverage == pytest.approx(0.5, abs=0.01)
    covered_mean = crop.image[:, :98].reshape(-1, 3).mean(axis=0)
    assert np.ptp(crop.image[:, 103:].reshape(-1, 3), axis=0).max() == 0
    np.testing.assert_allclose(crop.image[0, 199], covered_mean, atol=2)
    assert (outside.status, outside.coverage) == (CropStatus.OUT_OF_BOUNDS, 0.0)
    assert "does not cover" in outside.text
    assert nowhere.status is CropStatus.OUT_OF_BOUNDS


def test_layers_by_priority_and_no_data(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    transform = pixel_grid(crs, lat, lon, 0.5, 400)
    low = np.full((400, 400, 3), 60, np.uint8)
    high = np.full((400, 400, 3), 200, np.uint8)
    high[:, 200:] = (255, 0, 255)
    low_path = write_raster(tmp_path / "low.tif", low, crs, transform)
    high_path = write_raster(tmp_path / "high.tif", high, crs, transform)
    layers = [MapLayer(low_path, 1), MapLayer(high_path, 2, nodata_rgb=(255, 0, 255))]
    with RasterMap(layers) as source:
        crop = source.crop(lat, lon, 100.0, 200)
    assert crop.status is CropStatus.OK
    assert np.all(crop.image[:, :92] == 200)
    assert np.all(crop.image[:, 108:] == 60)
    with RasterMap([MapLayer(high_path, nodata_rgb=(255, 0, 255))]) as source:
        crop = source.crop(lat, lon, 100.0, 200)
    assert crop.coverage == pytest.approx(0.5, abs=0.02)
    assert np.all(crop.image == 200)


def test_coarse_crop_of_a_map_whose_last_blocks_are_empty(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    pixels = texture(1200, 1200)
    pixels[600:] = 0
    path = write_raster(tmp_path / "map.tif", pixels, crs, pixel_grid(crs, lat, lon, 0.5, 1200), nodata=0)
    with RasterMap(path) as source:
        crop = source.crop(lat, lon, 560.0, 40)
    assert crop.status is CropStatus.PARTLY_COVERED
    assert crop.coverage == pytest.approx(0.5, abs=0.04)
    np.testing.assert_allclose(crop.image[:18].mean(axis=(0, 1)), pixels[40:540, 40:1160].mean(axis=(0, 1)), atol=3)


@pytest.mark.parametrize("kind", ["alpha", "mask", "nodata", "lossy_nodata"])
def test_every_way_of_saying_no_data(kind: str, tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    transform = pixel_grid(crs, lat, lon, 0.5, 400)
    pixels = texture(400, 400)
    pixels[:, 200:] = 0
    pixels[100, 100] = 0  # one black pixel is a shadow
    options: dict[str, Any] = {"nodata": 0} if "nodata" in kind else {}
    if kind == "lossy_nodata":
        options.update(tiled=True, compress="jpeg", photometric="ycbcr")
    if kind == "alpha":
        pixels = np.dstack([pixels, np.where(np.arange(400) < 200, 255, 0)[None].repeat(400, 0)]).astype(np.uint8)
    path = write_raster(tmp_path / "map.tif", pixels, crs, transform, **options)
    if kind == "alpha":
        with rasterio.open(path, "r+") as target:
            target.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
            target.write_mask(np.where(np.arange(400) < 200, 255, 0)[None].repeat(400, 0).astype(np.uint8))
    with RasterMap(path) as source:
        crop = source.crop(lat, lon, 100.0, 200)
    assert crop.status is CropStatus.PARTLY_COVERED
    assert crop.coverage == pytest.approx(0.5, abs=0.02)
    assert crop.image[:, 105:].min() > 30


def test_one_band_palette_four_bands_and_sixteen_bits(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    transform = pixel_grid(crs, lat, lon, 0.5, 300)
    pixels = texture(300, 300)

    def crop_of(values: np.ndarray, **options: Any) -> np.ndarray:
        path = write_raster(tmp_path / "map.tif", values, crs, transform, **options)
        with RasterMap(path) as source:
            return source.crop(lat, lon, 100.0, 200).image

    plain = crop_of(pixels)
    grey = crop_of(pixels[..., :1])
    np.testing.assert_array_equal(grey, plain[..., :1].repeat(3, axis=2))
    infrared = np.dstack([pixels, np.full((300, 300, 1), 7, np.uint8)])
    np.testing.assert_array_equal(crop_of(infrared, photometric="rgb", alpha="unspecified"), plain)
    # 11-bit values in 16 bits: the 2nd to the 98th percentile become 0 to 255.
    wide = crop_of(pixels.astype(np.uint16) * 8)
    low, high = np.percentile(pixels[..., 0], (2, 98))
    expected = np.clip((plain[..., 0].astype(float) - low) * 255 / (high - low), 0, 255)
    assert np.abs(wide[..., 0] - expected).mean() < 2.0

    path = write_raster(tmp_path / "map.tif", np.full((300, 300, 1), 3, np.uint8), crs, transform)
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {3: (10, 200, 90, 255)})
    with RasterMap(tmp_path / "map.tif") as source:
        assert np.all(source.crop(lat, lon, 100.0, 200).image == (10, 200, 90))


def test_overviews_serve_coarse_crops(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    pixels = texture(1024, 1024)
    path = write_raster(tmp_path / "map.tif", pixels, crs, pixel_grid(crs, lat, lon, 0.25, 1024), **TILED)
    with RasterMap(path) as source:
        computed = source.crop(lat, lon, 240.0, 120).image
    with rasterio.open(path, "r+") as target:
        target.build_overviews([2, 4, 8], Resampling.average)
    with RasterMap(path) as source:
        stored = source.crop(lat, lon, 240.0, 120).image
        used = source.cache.nbytes
    assert np.abs(computed.astype(int) - stored).mean() < 1.0
    assert used < 150_000  # one eighth of the resolution: four blocks at most, not the 3 MB of the original


def mercator_tiles(folder: Path, zooms: tuple[int, ...], lat: float, lon: float, around: int = 2) -> Path:
    """A z/x/y folder of the red-green-blue texture that depends on the place alone."""
    half = np.pi * 6378137.0
    x, y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(lon, lat)
    for zoom in zooms:
        side = 2 * half / 2**zoom
        middle_x, middle_y = int((x + half) / side), int((half - y) / side)
        for tile_x in range(middle_x - around, middle_x + around + 1):
            for tile_y in range(middle_y - around, middle_y + around + 1):
                pixel_x = (tile_x + (np.arange(256) + 0.5) / 256) * side - half - x
                pixel_y = half - (tile_y + (np.arange(256) + 0.5) / 256) * side - y
                file = folder / str(zoom) / str(tile_x) / f"{tile_y}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), waves(pixel_x, pixel_y)[..., ::-1])
    return folder


def waves(x_m: np.ndarray, y_m: np.ndarray) -> np.ndarray:
    """(rows, cols, 3) uint8 smooth pattern over mercator metres from the place."""
    a = 128 + 90 * np.sin(x_m / 30)[None, :] * np.cos(y_m / 21)[:, None]
    b = 128 + 90 * np.cos(x_m / 47)[None, :] * np.ones_like(y_m)[:, None]
    c = 128 + 90 * np.sin(y_m / 38)[:, None] * np.ones_like(x_m)[None, :]
    return np.dstack([a, b, c]).round().astype(np.uint8)


def expected_waves(lat: float, lon: float, size_m: float, size_px: int) -> np.ndarray:
    """What a crop of `waves` must show, by way of geodesics."""
    offset = (np.arange(size_px) + 0.5) / size_px * size_m - size_m / 2
    east, north = np.meshgrid(offset, -offset)
    lons, lats, _ = pyproj.Geod(ellps="WGS84").fwd(
        np.full_like(east, lon), np.full_like(east, lat), np.degrees(np.arctan2(east, north)), np.hypot(east, north)
    )
    to_mercator = pyproj.Transformer.from_crs(4326, 3857, always_xy=True)
    x, y = to_mercator.transform(lons, lats)
    x0, y0 = to_mercator.transform(lon, lat)
    x, y = x - x0, y - y0
    return np.dstack([128 + 90 * np.sin(x / 30) * np.cos(y / 21), 128 + 90 * np.cos(x / 47), 128 + 90 * np.sin(y / 38)])


def test_tile_folder(tmp_path: Path) -> None:
    lat, lon = 60.2, 25.1
    folder = mercator_tiles(tmp_path / "tiles", (15, 17), lat, lon)
    with RasterMap(folder) as source:
        for size_m, size_px in ((200.0, 340), (300.0, 128), (900.0, 200)):
            crop = source.crop(lat, lon, size_m, size_px)
            assert crop.status is CropStatus.OK
            assert np.abs(crop.image - expected_waves(lat, lon, size_m, size_px)).mean() < 1.5
    # A tile that the fine zoom lacks shows the coarse one.
    for file in sorted((folder / "17").glob("*/*"))[::2]:
        file.unlink()
    with RasterMap(folder) as source:
        crop = source.crop(lat, lon, 200.0, 340)
        assert crop.status is CropStatus.OK
        assert np.abs(crop.image - expected_waves(lat, lon, 200.0, 340)).mean() < 3.0


def test_damaged_tile_is_unreadable(tmp_path: Path) -> None:
    lat, lon = 60.2, 25.1
    folder = mercator_tiles(tmp_path / "tiles", (17,), lat, lon)
    for file in (folder / "17").glob("*/*"):
        if int(file.stem) % 2:
            file.write_bytes(b"not an image")
    with RasterMap(folder) as source:
        crop = source.crop(lat, lon, 300.0, 200)
    assert crop.status is CropStatus.UNREADABLE
    assert "damaged" in crop.text


@pytest.mark.parametrize("kind", ["mbtiles", "vrt", "cog"])
def test_other_formats(kind: str, tmp_path: Path) -> None:
    lat, lon = 60.2, 25.1
    transform = pixel_grid("EPSG:3857", lat, lon, 0.5, 700)
    x0, y0 = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(lon, lat)
    centres = np.arange(700) + 0.5
    pixels = waves(transform.a * centres + transform.c - x0, transform.e * centres + transform.f - y0)
    plain = write_raster(tmp_path / "map.tif", pixels, "EPSG:3857", transform)
    path = tmp_path / f"map.{kind}"
    driver = {"mbtiles": "MBTiles", "vrt": "VRT", "cog": "COG"}[kind]
    options = {"TILE_FORMAT": "PNG", "ZOOM_LEVEL_STRATEGY": "UPPER"} if kind == "mbtiles" else {}
    gdal_copy(plain, path, driver=driver, **options)
    with RasterMap(path) as source:
        crop = source.crop(lat, lon, 200.0, 300)
    assert crop.status is CropStatus.OK
    assert np.abs(crop.image - expected_waves(lat, lon, 200.0, 300)).mean() < 2.5


class _TileServer(BaseHTTPRequestHandler):
    """Serves a tile folder, after a delay."""

    folder: Path
    delay_s = 0.0

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        file = self.folder / self.path.lstrip("/")
        self.send_response(200 if file.is_file() else 404)
        self.end_headers()
        if file.is_file():
            self.wfile.write(file.read_bytes())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tile_server(tmp_path: Path) -> Iterator[tuple[type[_TileServer], Path]]:
    """A local tile server and a GDAL description of it."""
    handler = type("Handler", (_TileServer,), {"folder": tmp_path / "tiles"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    description = tmp_path / "tiles.xml"
    half = np.pi * 6378137.0
    description.write_text(
        f"""<GDAL_WMS><Service name="TMS">
        <ServerUrl>http://127.0.0.1:{server.server_port}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>
        <DataWindow><UpperLeftX>{-half}</UpperLeftX><UpperLeftY>{half}</UpperLeftY><LowerRightX>{half}</LowerRightX>
        <LowerRightY>{-half}</LowerRightY><TileLevel>17</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY>
        <YOrigin>top</YOrigin></DataWindow><Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX>
        <BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount></GDAL_WMS>"""
    )
    yield handler, description
    server.shutdown()
    server.server_close()


def test_online_source(tile_server: tuple[type[_TileServer], Path], tmp_path: Path) -> None:
    handler, description = tile_server
    lat, lon = 60.2, 25.1
    mercator_tiles(tmp_path / "tiles", (17,), lat, lon)
    with RasterMap(description) as source:
        crop = source.crop(lat, lon, 200.0, 300)
        assert crop.status is CropStatus.OK, crop.text
        assert np.abs(crop.image - expected_waves(lat, lon, 200.0, 300)).mean() < 2.0
        far = source.crop(lat + 0.5, lon, 200.0, 300)
        assert far.status is CropStatus.UNREADABLE, far.text
    handler.delay_s = 3.0
    with RasterMap(description, timeout_s=0.5) as source:
        started = time.monotonic()
        crop = source.crop(lat, lon, 200.0, 300)
        assert time.monotonic() - started < 2.0
        assert crop.status is CropStatus.TIMED_OUT
        assert "within 0.5 s" in crop.text


def test_cache_keeps_its_limit_and_serves_again(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    transform = pixel_grid(crs, lat, lon, 0.5, 2048)
    path = write_raster(tmp_path / "map.tif", texture(2048, 2048), crs, transform, **TILED)
    with RasterMap(path, cache_mib=1.0) as source:
        whole = source.crop(lat, lon, 900.0, 1800)
        assert whole.status is CropStatus.OK
        assert 0 < source.cache.nbytes <= 2**20
    with RasterMap(path, cache_mib=64.0) as source:
        source.crop(lat, lon, 100.0, 200)
        path.unlink()
        assert source.crop(lat, lon, 100.0, 200).status is CropStatus.OK


def test_prefetch_decodes_ahead(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    transform = pixel_grid(crs, lat, lon, 0.5, 1024)
    path = write_raster(tmp_path / "map.tif", texture(1024, 1024), crs, transform, **TILED)
    with RasterMap(path) as source:
        source.prefetch(lat, lon, 100.0, 200)
        deadline = time.monotonic() + 10.0
        while (before := source.cache.nbytes) < 4 * 128 * 128 * 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        crop = source.crop(lat, lon, 100.0, 200)
        assert crop.status is CropStatus.OK
        assert source.cache.nbytes == before


def test_track_is_decoded_ahead_and_a_search_is_not(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    path = write_raster(tmp_path / "map.tif", texture(256, 256), crs, pixel_grid(crs, lat, lon, 0.5, 256), **TILED)
    plane = LocalEnu(lat, lon)

    class Noting(RasterMap):
        """Tells where it was asked to look ahead, metres east and north."""

        ahead_m: list[tuple[float, float]] = []  # noqa: RUF012 (one map a test)

        def prefetch(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int = 384) -> None:
            super().prefetch(lat_deg, lon_deg, size_m, size_px)
            assert (size_m, size_px) == (60.0, 120)
            self.ahead_m.append(plane.to_enu(lat_deg, lon_deg))

    with Noting(path) as source:
        crops = MapAhead(source)
        for east_m, north_m in ((0.0, 0.0), (3.0, -1.0)):
            assert crops.crop(*plane.to_geodetic(east_m, north_m), 60.0, 120).status is CropStatus.OK
        np.testing.assert_allclose(source.ahead_m, [(6.0, -2.0), (33.0, -11.0)], atol=1e-3)
        # Half a crop away is another place of a search.
        crops.crop(*plane.to_geodetic(33.0, -1.0), 60.0, 120)
        assert len(source.ahead_m) == 2


def test_crops_from_many_threads_are_those_of_one(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    transform = pixel_grid(crs, lat, lon, 0.5, 1024)
    path = write_raster(tmp_path / "map.tif", texture(1024, 1024), crs, transform, **TILED)
    places = [(lat + 0.0002 * i, lon + 0.0003 * j) for i in range(-3, 4) for j in range(-3, 4)]
    with RasterMap(path) as source:
        expected = [source.crop(*place, 60.0, 120).image for place in places]
    with RasterMap(path, cache_mib=0.3) as source, ThreadPoolExecutor(4) as pool:
        for number, place in enumerate(places):
            source.prefetch(*places[-number], 60.0, 120)
            pool.submit(source.prefetch, *place, 60.0, 120)
        found = list(pool.map(lambda place: source.crop(*place, 60.0, 120).image, places))
    np.testing.assert_array_equal(found, expected)


def test_parallel_reads_of_mbtiles_are_those_of_one_thread(tmp_path: Path) -> None:
    lat, lon = 60.2, 25.1
    transform = pixel_grid("EPSG:3857", lat, lon, 0.5, 900)
    plain = write_raster(tmp_path / "map.tif", texture(900, 900), "EPSG:3857", transform)
    gdal_copy(plain, tmp_path / "map.mbtiles", driver="MBTiles", TILE_FORMAT="PNG")
    with rasterio.open(tmp_path / "map.mbtiles") as source:
        expected = np.moveaxis(source.read([1, 2, 3]), 0, -1)
    for _ in range(3):
        layer = GdalLayer(tmp_path / "map.mbtiles")
        side = layer.levels[0].block_width
        count = -(-layer.levels[0].width // side)
        places = [(row, col) for row in range(count) for col in range(count)]
        with ThreadPoolExecutor(4) as pool:
            blocks = list(pool.map(lambda place: layer.read(0, *place), places))  # noqa: B023 (used at once)
        layer.close()
        for (row, col), block in zip(places, blocks, strict=True):
            np.testing.assert_array_equal(
                block.rgb, expected[row * side : (row + 1) * side, col * side : (col + 1) * side]
            )


def test_truncated_file_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    path = write_raster(
        tmp_path / "map.tif", texture(512, 512), crs, pixel_grid(crs, lat, lon, 0.5, 512), **TILED, compress="deflate"
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 4])
    with RasterMap(path) as source:
        crop = source.crop(lat, lon, 150.0, 200)
    assert crop.status is CropStatus.UNREADABLE
    assert "map.tif" in crop.text


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("text", "cannot be read"),
        ("empty", "cannot be read"),
        ("no_crs", "has no CRS"),
        ("no_georeference", "has no georeference"),
        ("empty_folder", "holds no tiles"),
        ("complex", "complex64 values"),
        ("local_crs", "CRS"),
        ("all_nodata", "no valid values"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_unusable_map_is_refused_on_open(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    pixels, transform = texture(64, 64), Affine(0.5, 0, 400_000, 0, -0.5, 6_000_000)
    if kind == "text":
        path.write_text("this is no map")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no_crs":
        write_raster(path, pixels, None, transform)
    elif kind == "no_georeference":
        write_raster(path, pixels, "EPSG:32635", Affine.identity())
    elif kind == "empty_folder":
        path.mkdir()
    elif kind == "complex":
        write_raster(path, pixels.astype(np.complex64), "EPSG:32635", transform)
    elif kind == "local_crs":
        write_raster(path, pixels, 'LOCAL_CS["site",UNIT["metre",1]]', transform)
    elif kind == "all_nodata":
        write_raster(path, np.zeros((64, 64, 3), np.uint16), "EPSG:32635", transform, nodata=0)
    with pytest.raises(GeolocError, match=message):
        RasterMap(path)


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    crs, lat, lon = PLACES["utm"]
    path = write_raster(tmp_path / "map.tif", texture(64, 64), crs, pixel_grid(crs, lat, lon, 0.5, 64))
    with RasterMap(path) as source:
        for size_m, size_px in ((0.0, 100), (float("nan"), 100), (50.0, 0)):
            with pytest.raises(GeolocError, match="must be positive"):
                source.crop(lat, lon, size_m, size_px)
    with pytest.raises(GeolocError, match="no layers"):
        RasterMap([])


def test_real_flight_lies_on_its_map(shared_data: Path) -> None:
    """Rectified frames of the village correlate with the map at the true place and nowhere else around it."""
    from geoloc_ros.core.geometry.geodesy import LocalEnu
    from geoloc_ros.core.geometry.rectify import rectify
    from geoloc_ros.core.recording.flight_folder import Flight

    flight = Flight.open(shared_data / "flights" / "village")
    gsd_m, size_px, margin_px = 0.5, 128, 32
    with RasterMap(flight.map_path) as source:
        for index in range(5, 200, 30):
            frame = flight[index]
            assert frame.image is not None
            assert frame.truth is not None
            assert frame.rotation_enu_from_optical is not None
            view = rectify(frame.image, frame.camera, frame.rotation_enu_from_optical, frame.height_m, gsd_m, size_px)
            truth = LocalEnu(frame.truth.lat_deg, frame.truth.lon_deg)
            lat, lon = truth.to_geodetic(*view.centre_offset_enu_m)
            wide_px = size_px + 2 * margin_px
            crop = source.crop(lat, lon, gsd_m * wide_px, wide_px)
            match = cv2.matchTemplate(
                cv2.cvtColor(crop.image, cv2.COLOR_RGB2GRAY),
                cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY),
                cv2.TM_CCOEFF_NORMED,
            )
            row, col = np.unravel_index(match.argmax(), match.shape)
            assert match.max() > 0.6
            assert np.hypot(row - margin_px, col - margin_px) * gsd_m <= 2.0


UTM = PLACES["utm"]


@pytest.mark.parametrize(("kind", "opaque"), [("uint16", 255), ("uint16", 65535), ("uint16", 1), ("float32", 1)])
def test_alpha_of_any_range(kind: str, opaque: int, tmp_path: Path) -> None:
    crs, lat, lon = UTM
    values = np.dstack([texture(300, 300).astype(kind), np.full((300, 300), opaque, kind)])
    values[:, 150:, 3] = 0
    path = write_raster(tmp_path / "map.tif", values, crs, pixel_grid(crs, lat, lon, 0.5, 300))
    with rasterio.open(path, "r+") as target:
        target.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    with RasterMap(path) as source:
        assert source.crop(lat, lon, 100.0, 200).coverage == pytest.approx(0.5, abs=0.02)
        east = LocalEnu(lat, lon).to_geodetic(40.0, 0.0)
        text = source.crop(*map(float, east), 20.0, 40).text
    assert "no data" in text and "alpha" in text and "spans" not in text


def test_holes_of_a_pixel_are_no_shadows(tmp_path: Path) -> None:
    """NaN is nowhere drawn; coarser levels, where each pixel holds some, still show the mean of the others."""
    crs, lat, lon = UTM
    values = np.full((1200, 1200, 1), 100.0, np.float32)
    values[:, ::2] = 200.0
    values[1::4, 1::4] = np.nan
    path = write_raster(tmp_path / "map.tif", values, crs, pixel_grid(crs, lat, lon, 0.5, 1200), nodata=np.nan)
    with RasterMap(path) as source:
        fine, coarse = source.crop(lat, lon, 100.0, 200), source.crop(lat, lon, 400.0, 100)
    assert 0.5 < fine.coverage < 0.95
    assert coarse.status is CropStatus.OK and coarse.image.min() > 110 and coarse.image.max() < 160
    values = np.full((300, 300, 1), 500, np.uint16)
    values[10:20] = 900
    values[1::4, 1::4] = 65535
    path = write_raster(tmp_path / "map.tif", values, crs, pixel_grid(crs, lat, lon, 0.5, 300), nodata=65535)
    with RasterMap(path) as source:
        assert source.crop(lat, lon, 100.0, 200).coverage < 0.95


def vrt(path: Path, bands: list[tuple[str, str, str]], files: tuple[str, ...], side_px: int) -> Path:
    """A mosaic of files side by side, each side_px square; bands: (type, meaning, band of the file)."""
    crs, lat, lon = UTM
    grid = pixel_grid(crs, lat, lon, 0.5, side_px * len(files))
    text = f'<VRTDataset rasterXSize="{side_px * len(files)}" rasterYSize="{side_px}"><SRS>{crs}</SRS>'
    text += f"<GeoTransform>{grid.c}, {grid.a}, 0, {grid.f}, 0, {grid.e}</GeoTransform>"
    for number, (kind, meaning, band) in enumerate(bands, 1):
        text += f'<VRTRasterBand dataType="{kind}" band="{number}"><ColorInterp>{meaning}</ColorInterp>'
        for place, file in enumerate(files):
            rectangle = f'yOff="0" xSize="{side_px}" ySize="{side_px}"/>'
            text += f'<SimpleSource><SourceFilename relativeToVRT="1">{file}</SourceFilename>'
            text += f"<SourceBand>{band}</SourceBand>"
            text += f'<SourceProperties RasterXSize="{side_px}" RasterYSize="{side_px}" DataType="Byte" '
            text += f'BlockXSize="{side_px}" BlockYSize="8"/>'
            text += f'<SrcRect xOff="0" {rectangle}<DstRect xOff="{place * side_px}" {rectangle}</SimpleSource>'
        text += "</VRTRasterBand>"
    path.write_text(text + "</VRTDataset>")
    return path


RGB = [("Byte", "Red", "1"), ("Byte", "Green", "2"), ("Byte", "Blue", "3")]


def test_mosaic_whose_file_is_missing_names_it(tmp_path: Path) -> None:
    crs, lat, lon = UTM
    write_raster(tmp_path / "west.tif", texture(600, 600), crs, pixel_grid(crs, lat, lon, 0.5, 600))
    with RasterMap(vrt(tmp_path / "map.vrt", RGB, ("west.tif", "east.tif"), 600)) as source:
        # The place is the middle of the mosaic's lower edge.
        west, middle = (LocalEnu(lat, lon).to_geodetic(east_m, 200.0) for east_m in (-200.0, 0.0))
        assert source.crop(*west, 40.0, 80).status is CropStatus.OK
        crop = source.crop(*middle, 60.0, 100)
    assert crop.status is CropStatus.UNREADABLE
    assert "east.tif" in crop.text and "restore that file" in crop.text and "\n" not in crop.text
    with pytest.raises(GeolocError, match=r"gone\.tif.*restore that file"):
        RasterMap(vrt(tmp_path / "gone.vrt", RGB, ("gone.tif",), 200))


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ([("CInt16", "Gray", "1")], "complex_int16 values"),
        ([("Byte", "Red", "1"), ("UInt16", "Green", "2"), ("Float32", "Blue", "3")], "bands of several types"),
    ],
)
def test_band_types_that_make_no_picture(bands: list, message: str, tmp_path: Path) -> None:
    crs, lat, lon = UTM
    write_raster(tmp_path / "plain.tif", texture(100, 100), crs, pixel_grid(crs, lat, lon, 0.5, 100))
    with pytest.raises(GeolocError, match=message):
        RasterMap(vrt(tmp_path / "map.vrt", bands, ("plain.tif",), 100))


def test_palette_without_a_table_is_grey(tmp_path: Path) -> None:
    crs, lat, lon = UTM
    path = write_raster(tmp_path / "plain.tif", texture(200, 200), crs, pixel_grid(crs, lat, lon, 0.5, 200))
    palette = vrt(tmp_path / "map.vrt", [("Byte", "Palette", "2")], ("plain.tif",), 200)
    with RasterMap(path) as plain, RasterMap(palette) as source:
        wanted, crop = plain.crop(lat, lon, 60.0, 90), source.crop(lat, lon, 60.0, 90)
    np.testing.assert_array_equal(crop.image, wanted.image[..., 1:2].repeat(3, axis=2))


def test_palette_of_sixteen_bits(tmp_path: Path) -> None:
    crs, lat, lon = UTM
    path = write_raster(
        tmp_path / "map.tif", np.full((100, 100, 1), 300, np.uint16), crs, pixel_grid(crs, lat, lon, 0.5, 100)
    )
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {300: (10, 200, 90, 255)})
    with RasterMap(path) as source:
        assert (source.crop(lat, lon, 40.0, 40).image == (10, 200, 90)).all()


@pytest.mark.parametrize("kind", ["antimeridian_utm", "antimeridian_geographic", "antimeridian_mercator", "lon_360"])
def test_bounds_wherever_longitudes_turn_over(kind: str, tmp_path: Path) -> None:
    """A map of 150 m contains its own places and no others, by whatever count of longitudes."""
    crs, lat, lon = ("EPSG:4326", 49.05, 350.0) if kind == "lon_360" else PLACES[kind]
    path = write_raster(tmp_path / "map.tif", texture(300, 300), crs, pixel_grid(crs, lat, lon, 0.5, 300))
    with RasterMap(path) as source:
        south, west, north, east = source.bounds_deg
        assert -180 <= west < 180 and west < east < west + 0.01
        frame = LocalEnu(lat, lon)
        for east_m in (-60.0, 0.0, 60.0):
            place = tuple(map(float, frame.to_geodetic(east_m, 10.0)))
            assert source.contains(*place) and source.crop(*place, 20.0, 20).status is CropStatus.OK
        assert not source.contains(*map(float, frame.to_geodetic(120.0, 0.0)))
        assert not source.contains(lat, -lon / 2)
        half_m = np.abs(frame.to_enu((south + north) / 2, (west + east) / 2))
        assert half_m.max() < 5.0


def test_outline_that_leaves_the_projection(tmp_path: Path) -> None:
    """The whole disk as a weather satellite sees it: the corners are no places on the Earth."""
    crs = "+proj=geos +lon_0=-75 +h=35786023 +ellps=WGS84 +units=m"
    grid = Affine(40_000, 0, -6_000_000, 0, -40_000, 6_000_000)
    path = write_raster(tmp_path / "map.tif", texture(300, 300), crs, grid)
    with RasterMap(path) as source:
        south, west, north, east = source.bounds_deg
        assert -82 < south < -70 and 70 < north < 82 and -158 < west < -140 and -10 < east < 8
        assert source.contains(0.0, -75.0) and not source.contains(0.0, 100.0)
        assert np.isfinite(source.outline(LocalEnu(0.0, -75.0))).all()
        assert source.crop(10.0, -75.0, 10_000.0, 20).status is CropStatus.OK
        assert "does not cover" in source.crop(0.0, 100.0, 10_000.0, 20).text


@pytest.mark.parametrize("kind", ["tilemapresource", "metadata"])
def test_tiles_that_count_from_the_south(kind: str, tmp_path: Path) -> None:
    lat, lon = 60.2, 25.1
    folder = mercator_tiles(tmp_path / "tiles", (17,), lat, lon)
    for file in sorted((folder / "17").glob("*/*")):
        file.rename(file.with_name(f"{2**17 - 1 - int(file.stem)}.PNG"))
    if kind == "metadata":
        (folder / "metadata.json").write_text('{"scheme": "tms"}')
    else:
        tiles = '<TileMap version="1.0.0"><TileSets profile="mercator"><TileSet href="17"/></TileSets></TileMap>'
        (folder / "tilemapresource.xml").write_text(tiles)
    with RasterMap(folder) as source:
        crop = source.crop(lat, lon, 200.0, 340)
    assert crop.status is CropStatus.OK
    assert np.abs(crop.image - expected_waves(lat, lon, 200.0, 340)).mean() < 1.5
    if kind == "tilemapresource":
        (folder / "tilemapresource.xml").write_text(tiles.replace('"mercator"', '"geodetic"'))
        with pytest.raises(GeolocError, match="profile geodetic; make them with `gdal2tiles --xyz`"):
            RasterMap(folder)
