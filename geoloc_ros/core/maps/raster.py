# SPDX-License-Identifier: Apache-2.0
"""The map: crops of any raster as north-up squares of true metres.

A crop's frame is the local ENU plane at its centre (geodesy.LocalEnu): x px to the right is east, y px down
is south, (0, 0) is the outer corner of the top-left pixel. It is right at any latitude and for any CRS.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.block_cache import BlockCache
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.core.maps.layers import GdalLayer, Layer, readable
from geoloc_ros.core.maps.resampling import FIT, NODES, CropPart, fill_uncovered, level_for
from geoloc_ros.core.maps.tile_folder import TileFolder

_INVERSE = pyproj.enums.TransformDirection.INVERSE


@dataclass(frozen=True)
class MapLayer:
    """One raster of a map."""

    path: str | Path
    priority: int = 0  # a higher one is drawn on top
    nodata_rgb: tuple[int, int, int] | None = None  # colour that means "no image here", beside the file's own


class RasterMap:
    """One or several rasters as a single map; thread-safe."""

    def __init__(
        self, layers: Sequence[MapLayer] | str | Path, cache_mib: float = 256.0, timeout_s: float = 10.0
    ) -> None:
        """Open all layers; GeolocError names the file, what is wrong with it and the remedy.

        cache_mib: limit of the decoded-block cache. timeout_s: how long a crop waits for a source.
        """
        if isinstance(layers, (str, Path)):
            layers = [MapLayer(layers)]
        if not layers:
            raise GeolocError("the map has no layers; name at least one raster")
        if cache_mib < 0 or timeout_s <= 0:
            raise GeolocError(f"cache of {cache_mib} MiB and timeout of {timeout_s} s must not be negative")
        ordered = sorted(layers, key=lambda layer: -layer.priority)
        self._timeout_s = timeout_s
        self._layers = [_open(layer, timeout_s) for layer in ordered]
        self._to_crs = [_transformer(layer) for layer in self._layers]
        self.cache = BlockCache(self._layers, cache_mib)
        self.bounds_deg = self._bounds_deg()

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        """Cut the square of size_m metres around the centre as size_px pixels; `status` is the outcome.

        Only a size that is not positive raises GeolocError.
        """
        image, covered, failure, text = self._painted(_frame_at(lat_deg, lon_deg), 0.0, 0.0, size_m, size_px)
        coverage = np.count_nonzero(covered) / covered.size
        fill_uncovered(image, covered, coverage)
        if coverage == 1.0:
            status, text = CropStatus.OK, "covered"
        elif failure is not None:
            status = failure
        elif coverage > 0.0:
            status, text = CropStatus.PARTLY_COVERED, f"the map covers {100 * coverage:.1f} % of the crop"
        else:
            status, text = CropStatus.OUT_OF_BOUNDS, self._out_of_bounds(lat_deg, lon_deg, size_m / size_px)
        return MapCrop(image, lat_deg, lon_deg, size_m, size_m / size_px, coverage, status, text)

    def contains(self, lat_deg: float, lon_deg: float) -> bool:
        """Whether a place lies within `bounds_deg`."""
        south, west, north, east = self.bounds_deg
        return south <= lat_deg <= north and (lon_deg - west) % 360.0 <= east - west

    def _out_of_bounds(self, lat_deg: float, lon_deg: float, gsd_m: float) -> str:
        if self.contains(lat_deg, lon_deg):
            south, west, north, east = self.bounds_deg
            corner = np.hypot(*LocalEnu(south, west).to_enu(north, east))
            if corner < 2.0 * gsd_m:
                return (
                    f"pixels of {gsd_m:g} m miss the map, which is {corner:.0f} m from corner to corner; ask for more "
                    "pixels or less ground"
                )
            return (
                f"the map has no data around {lat_deg:.6f}, {lon_deg:.6f}, within its bounds: by its no-data value, "
                "alpha band or mask; check them with gdalinfo"
            )
        south, west, north, east = self.bounds_deg
        return (
            f"the map does not cover {lat_deg:.6f}, {lon_deg:.6f}; "
            f"it spans {south:.6f}, {west:.6f} to {north:.6f}, {east:.6f}"
        )

    def draw(
        self, frame: LocalEnu, east_m: float, north_m: float, size_m: float, size_px: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The square of size_m metres about a point of a local plane, with its sides along that plane's axes.

        Returns the image, (size_px, size_px, 3) uint8 RGB with uncovered pixels in the mean colour of the others,
        and (size_px, size_px) uint8, 255 where the map has data. Squares of one frame fit together without a seam,
        which crops, each with its own north, do not. GeolocError if a source cannot be read.
        """
        image, covered, failure, text = self._painted(frame, east_m, north_m, size_m, size_px)
        if failure is not None:
            raise GeolocError(f"the map cannot be drawn: {text}; mend the file or its connection")
        fill_uncovered(image, covered, np.count_nonzero(covered) / covered.size)
        return image, covered

    def outline(self, frame: LocalEnu) -> tuple[np.ndarray, np.ndarray]:
        """(east_m, north_m) of points all along the edges of the layers, in a local plane."""
        share = np.linspace(0.0, 1.0, 17)
        zero, one = np.zeros_like(share), np.ones_like(share)
        x, y = np.concatenate([share, share, zero, one]), np.concatenate([zero, one, share, share])
        east_m: list[np.ndarray] = []
        north_m: list[np.ndarray] = []
        for layer, to_crs in zip(self._layers, self._to_crs, strict=True):
            level = layer.levels[0]
            corner = level.crs_from_pixel
            cols, rows = x * level.width, y * level.height
            xs, ys = (corner.a * cols + corner.b * rows + corner.c, corner.d * cols + corner.e * rows + corner.f)
            lon, lat = to_crs.transform(xs, ys, direction=_INVERSE)
            on_earth = np.isfinite(lon) & np.isfinite(lat)
            for values, found in zip((east_m, north_m), frame.to_enu(lat[on_earth], lon[on_earth]), strict=True):
                values.append(found)
        return np.concatenate(east_m), np.concatenate(north_m)

    def pixel_m(self, frame: LocalEnu) -> float:
        """Ground sample distance of the finest layer at a frame's origin, m: the root of a pixel's area."""
        sizes = []
        for layer, to_crs in zip(self._layers, self._to_crs, strict=True):
            # The origin and of the points 10 m to its east and north.
            lat, lon = frame.to_geodetic(np.array([0.0, 10.0, 0.0]), np.array([0.0, 0.0, 10.0]))
            points = np.array(to_crs.transform(lon, lat))
            area = abs(np.linalg.det(points[:, 1:] - points[:, :1]))  # of 100 m², in the CRS's units
            sizes.append(math.sqrt(100.0 * abs(layer.levels[0].crs_from_pixel.determinant) / area))
        return min(sizes)

    def prefetch(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int = 384) -> None:
        """Decode, in the background, the blocks that such a crop will need."""
        frame = _frame_at(lat_deg, lon_deg)
        for number in range(len(self._layers)):
            for part in self._parts(number, frame, 0.0, 0.0, size_m, size_px)[:1]:
                self.cache.prefetch(part.keys())

    def close(self) -> None:
        """Stop the readers and close the files."""
        self.cache.close()
        for layer in self._layers:
            layer.close()

    def __enter__(self) -> "RasterMap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _painted(
        self, frame: LocalEnu | None, east_m: float, north_m: float, size_m: float, size_px: int
    ) -> tuple[np.ndarray, np.ndarray, CropStatus | None, str]:
        """Image, coverage (0 or 255), and what failed, of a square about a point of a frame."""
        if not (math.isfinite(size_m) and size_m > 0 and size_px >= 1):
            raise GeolocError(f"a crop of {size_m} m and {size_px} px is impossible; both must be positive")
        image = np.empty((size_px, size_px, 3), np.uint8)
        covered = np.zeros((size_px, size_px), np.uint8)
        failure, text = None, ""
        deadline = time.monotonic() + self._timeout_s
        for number, layer in enumerate(self._layers):
            try:
                for part in self._parts(number, frame, east_m, north_m, size_m, size_px):
                    if part.draw(image, covered, self.cache, deadline):
                        break
            except FutureTimeoutError:
                failure = CropStatus.TIMED_OUT
                text = f"{layer.name} gave no data within {self._timeout_s:g} s"
            except GeolocError as error:
                failure, text = CropStatus.UNREADABLE, str(error)
            if covered.all():
                break
        return image, covered, failure, text

    def _parts(
        self, number: int, frame: LocalEnu | None, east_m: float, north_m: float, size_m: float, size_px: int
    ) -> list[CropPart]:
        """The pieces of a layer that may show in a square, in the order in which to draw them."""
        layer, to_crs = self._layers[number], self._to_crs[number]
        if frame is None:
            return []
        nodes = NODES * size_m / 2
        lat, lon = frame.to_geodetic(
            np.tile(east_m + nodes, (NODES.size, 1)), np.tile(north_m - nodes[:, None], (1, NODES.size))
        )
        x, y = to_crs.transform(lon, lat)
        if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
            return []
        period = _longitude_period(layer.crs)
        if period:
            middle = x[NODES.size // 2, NODES.size // 2]
            x = x - period * np.round((x - middle) / period)
        parts = []
        for shift in (0.0, period, -period) if period else (0.0,):
            fit_x, fit_y = FIT @ (x + shift) @ FIT.T, FIT @ y @ FIT.T
            first = level_for(layer.levels, fit_x, fit_y, size_px)
            last = min(first + 3, len(layer.levels) - 1) if layer.sparse else first
            for index in range(first, last + 1):
                part = CropPart.of(number, index, layer.levels[index], fit_x, fit_y, size_px)
                if part is not None:
                    parts.append(part)
        return parts

    def _bounds_deg(self) -> tuple[float, float, float, float]:
        """(south, west, north, east) of all layers together, degrees: west in [-180, 180), east beyond it."""
        boxes = [_layer_bounds(layer, to_crs) for layer, to_crs in zip(self._layers, self._to_crs, strict=True)]
        first_west = boxes[0][1]
        for number, (south, west, north, east) in enumerate(boxes):
            # Of two layers at the antimeridian one may count beyond 180 and the other from -180.
            turns = 360.0 * round((west - first_west) / 360.0)
            boxes[number] = (south, west - turns, north, east - turns) if turns else (south, west, north, east)
        array = np.array(boxes)
        south, west = array[:, :2].min(axis=0)
        north, east = array[:, 2:].max(axis=0)
        return float(south), float(west), float(north), float(east)


def _layer_bounds(layer: Layer, to_crs: pyproj.Transformer) -> tuple[float, float, float, float]:
    """(south, west, north, east) of a layer, degrees: west in [-180, 180), east the next one beyond it."""
    level = layer.levels[0]
    affine = level.crs_from_pixel
    cols, rows = (np.array([0, level.width, level.width, 0]), np.array([0, 0, level.height, level.height]))
    xs = affine.a * cols + affine.b * rows + affine.c
    ys = affine.d * cols + affine.e * rows + affine.f
    try:
        west, south, east, north = to_crs.transform_bounds(xs.min(), ys.min(), xs.max(), ys.max(), direction=_INVERSE)
    except pyproj.exceptions.ProjError:
        south = west = north = east = math.nan
    if not all(map(math.isfinite, (south, west, north, east))):
        # Corners beyond the projection, such as those of a satellite's view of the whole disk: what is on the Earth.
        share = np.linspace(0.0, 1.0, 65)
        cols, rows = np.meshgrid(share * level.width, share * level.height)
        lon, lat = to_crs.transform(
            affine.a * cols + affine.b * rows + affine.c,
            affine.d * cols + affine.e * rows + affine.f,
            direction=_INVERSE,
        )
        on_earth = np.isfinite(lon) & np.isfinite(lat)
        if not on_earth.any():
            raise GeolocError(
                f"map {layer.name} lies nowhere on the Earth; check its CRS and georeference with gdalinfo"
            )
        lon, lat = lon[on_earth], lat[on_earth]
        lon = lon[0] + (lon - lon[0] + 180.0) % 360.0 - 180.0
        south, west, north, east = lat.min(), lon.min(), lat.max(), lon.max()
    turns = 360.0 * math.floor((west + 180.0) / 360.0)
    west, east = (west - turns, east - turns) if turns else (west, east)
    return float(south), float(west), float(north), float(east + 360.0 if east < west else east)


def _frame_at(lat_deg: float, lon_deg: float) -> LocalEnu | None:
    """The local plane about a place; None if it is none on Earth, where no map has data."""
    try:
        return LocalEnu(lat_deg, lon_deg)
    except GeolocError:
        return None


class MapAhead:
    """A RasterMap that decodes in the background what the next crops will need, should the track go on as it went.

    Sources such as a WMS take a second, so it looks that far ahead too at ten crops a second.
    """

    STEPS = (1, 10)

    def __init__(self, source: RasterMap) -> None:
        self._source = source
        self._last: tuple[float, float] | None = None

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        """As RasterMap.crop."""
        crop = self._source.crop(lat_deg, lon_deg, size_m, size_px)
        last, self._last = self._last, (lat_deg, lon_deg)
        frame = _frame_at(lat_deg, lon_deg)
        if last is None or frame is None:
            return crop
        east_m, north_m = frame.to_enu(*last)
        # A search jumps from place to place: that is no track.
        if math.hypot(east_m, north_m) < size_m / 4:
            for step in self.STEPS:
                place = frame.to_geodetic(-step * east_m, -step * north_m)
                self._source.prefetch(float(place[0]), float(place[1]), size_m, size_px)
        return crop


def _open(layer: MapLayer, timeout_s: float) -> Layer:
    """A folder as XYZ tiles, anything else through GDAL."""
    if Path(layer.path).is_dir():
        with readable(str(layer.path), "map "):
            return TileFolder(layer.path, layer.nodata_rgb)
    return GdalLayer(layer.path, layer.nodata_rgb, timeout_s)


def _transformer(layer: Layer) -> pyproj.Transformer:
    """Longitude and latitude to the layer's CRS."""
    try:
        return pyproj.Transformer.from_crs(4326, layer.crs, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise GeolocError(
            f"map {layer.name} has a CRS that PROJ cannot tie to the Earth: {' '.join(str(error).split())}"
        ) from None


def _longitude_period(crs: pyproj.CRS) -> float:
    """How far x runs once around the Earth, in the CRS's units; 0 where x is not a matter of longitude."""
    if crs.is_geographic:
        return 360.0
    operation = crs.coordinate_operation
    method = operation.method_name.lower() if operation is not None else ""
    if "mercator" in method and "transverse" not in method and crs.ellipsoid is not None:
        return 2 * math.pi * crs.ellipsoid.semi_major_metre
    return 0.0
