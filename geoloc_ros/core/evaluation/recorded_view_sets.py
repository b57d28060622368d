# SPDX-License-Identifier: Apache-2.0
"""Sets of samples that need coordinates: rasters of two dates, and the real frames of a flight over its map.

`open_set` finds a set by its name under a data folder, whatever its kind.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
import rasterio

from geoloc_models.datasets.homography import warp
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.stress import ViewErrors
from geoloc_models.evaluation.view_sets import (
    MAX_CENTRE_OFFSET,
    HeldOutPairs,
    PairProtocol,
    PairSample,
    PairSet,
    Pooled,
    Ul14Pairs,
    shift,
    view_homography,
)
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import footprint_m, rectify
from geoloc_ros.core.maps.crop import CropStatus
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight

_TRIES = 200
_COVERAGE_PX = 32
"""Side of the crops that only tell whether a raster covers a place."""
_RASTER_SAMPLES = 200
"""Drawn from a raster without a limit."""


class TwoDateRasters:
    """Views of one date in maps of the other, at random places that both rasters cover; directions alternate."""

    def __init__(self, first: Path, second: Path, name: str, protocol: PairProtocol) -> None:
        """first, second: georeferenced rasters of one ground, GeolocError if either cannot be read."""
        self.name = name
        self.about = (
            f"views of {protocol.view_m:g} m in maps of {protocol.crop_m:g} m of another date, "
            f"attitude ±{protocol.attitude_deg:g}°, height ±{protocol.height_percent:g} %"
        )
        self.protocol = protocol
        self._rasters = [RasterMap(first), RasterMap(second)]
        self._gsd_m = max(_ground_pixel_m(first), _ground_pixel_m(second))

    def __len__(self) -> int:
        return self.protocol.limit or _RASTER_SAMPLES

    def draw(self, index: int) -> PairSample | None:
        """A place that both dates cover, all of the map and a fifth more than the view; None if none turned up."""
        p = self.protocol
        rng = np.random.default_rng((p.seed, index))
        searched, seen = self._rasters if index % 2 == 0 else self._rasters[::-1]
        south, west, north, east = searched.bounds_deg
        for _ in range(_TRIES):
            centre = float(rng.uniform(south, north)), float(rng.uniform(west, east))
            east_m, north_m = p.crop_m * rng.uniform(-MAX_CENTRE_OFFSET, MAX_CENTRE_OFFSET, 2)
            place = LocalEnu(*centre).to_geodetic(east_m, north_m)
            if _covers(searched, centre, p.crop_m) and _covers(seen, place, 1.2 * p.view_m):
                break
        else:
            return None
        crop_px, view_px = round(p.crop_m / self._gsd_m), round(p.view_m / self._gsd_m)
        crop = searched.crop(*centre, crop_px * self._gsd_m, crop_px)
        name = f"{self.name} {index} {'second' if index % 2 else 'first'}"
        # Wide enough for a view that is turned, tilted and a third too large.
        around_px = 2 * view_px
        around = seen.crop(*place, around_px * self._gsd_m, around_px)
        errors = p.draw_errors(rng, name)
        ground = shift(np.full(2, view_px)) @ view_homography(view_px, errors)
        x_px, y_px = crop.geodetic_to_pixel(*place)
        return PairSample(
            name=name,
            query=p.stressed_image(warp(around.image, ground, view_px), name),
            search_map=crop.image,
            gsd_m=self._gsd_m,
            target_xy_px=(float(x_px), float(y_px)),
            heading_deg=math.degrees(errors.yaw_rad),
            scale=errors.scale,
        )


def _ground_pixel_m(path: Path) -> float:
    """Ground length of a raster's pixel at its middle: the root of the pixel's area."""
    with rasterio.open(path) as raster:
        row, col = raster.height // 2, raster.width // 2
        xs, ys = raster.xy([row, row, row + 1], [col, col + 1, col])
        to_degrees = pyproj.Transformer.from_crs(raster.crs, "EPSG:4326", always_xy=True)
    lons_deg, lats_deg = to_degrees.transform(xs, ys)
    east_m, north_m = LocalEnu(lats_deg[0], lons_deg[0]).to_enu(np.array(lats_deg[1:]), np.array(lons_deg[1:]))
    return math.sqrt(abs(float(east_m[0] * north_m[1] - east_m[1] * north_m[0])))


def _covers(raster: RasterMap, centre: tuple[float, float], size_m: float) -> bool:
    return raster.crop(*centre, size_m, _COVERAGE_PX).status is CropStatus.OK


class FlightFrames:
    """Real frames, each rectified by its attitude and height and searched in a crop of the flight's map.

    The place that counts is the one that the middle of the image shows, so that an error of height or heading in a
    stress does not move the truth.
    """

    def __init__(self, folder: Path, protocol: PairProtocol) -> None:
        """folder: a flight folder with map.tif; the protocol's view, attitude and height errors do not apply."""
        self.name = folder.name
        self.about = f"real frames, rectified, in {protocol.crop_m:g} m of map"
        self.protocol = protocol
        self._flight = Flight.open(folder)
        self._map = RasterMap(self._flight.map_path)
        count = len(self._flight)
        # Spread over the flight, whatever the limit.
        self._frames = np.unique(np.linspace(0, count - 1, min(count, protocol.limit or count)).round())

    def __len__(self) -> int:
        return len(self._frames)

    def draw(self, index: int) -> PairSample | None:
        """The frame's view and its crop; None where image, attitude or height is of no use, or the map ends."""
        p = self.protocol
        number = int(self._frames[index])
        frame = self._flight[number]
        if frame.problem or frame.image is None or frame.truth is None:
            return None
        name = f"{self.name} {number}"
        errors = p.stressed_errors(ViewErrors(), name)
        true_rotation = np.asarray(frame.rotation_enu_from_optical)
        rotation, height_m = _turned(errors.yaw_rad) @ true_rotation, frame.height_m / errors.scale
        try:
            side_m = footprint_m(frame.camera, rotation, height_m)
            gsd_m = side_m / min(frame.camera.width, frame.camera.height)
            view = rectify(frame.image, frame.camera, rotation, height_m, gsd_m, round(side_m / gsd_m))
            truth = rectify(frame.image, frame.camera, true_rotation, frame.height_m, side_m, 1)
        except GeolocError:
            return None
        place = LocalEnu(frame.truth.lat_deg, frame.truth.lon_deg).to_geodetic(*truth.centre_offset_enu_m)
        rng = np.random.default_rng((p.seed, number))
        off_m = p.crop_m * rng.uniform(-MAX_CENTRE_OFFSET, MAX_CENTRE_OFFSET, 2)
        crop_px = round(p.crop_m / gsd_m)
        crop = self._map.crop(*LocalEnu(*place).to_geodetic(*off_m), crop_px * gsd_m, crop_px)
        if crop.status not in (CropStatus.OK, CropStatus.PARTLY_COVERED):
            return None
        x_px, y_px = crop.geodetic_to_pixel(*place)
        return PairSample(
            name=name,
            query=p.stressed_image(view.image, name),
            search_map=crop.image,
            gsd_m=gsd_m,
            target_xy_px=(float(x_px), float(y_px)),
            height_m=frame.truth.height_above_ground_m,
            heading_deg=math.degrees(errors.yaw_rad),
            scale=errors.scale,
        )


def _turned(yaw_rad: float) -> np.ndarray:
    """(3, 3) rotation about the vertical."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class _Defaults:
    """Sizes that fit a set's images, and views for each pair and direction."""

    crop_m: float
    view_m: float
    views: int = 1


_PAIR_SOURCES = {
    "levir": _Defaults(200.0, 70.0),
    # 0.2 m images of 53 to 183 m, few of them.
    "srif": _Defaults(80.0, 28.0, views=4),
    "dsifn": _Defaults(300.0, 90.0, views=8),
}
_RASTERS = ("pre.tif", "post.tif")
_ELSEWHERE = _Defaults(300.0, 90.0)


def open_set(root: Path, name: str, protocol: PairProtocol, crops_m: list[float], view_m: float | None) -> PairSet:
    """The set of this name under `root`, or at this path: pairs, rasters of two dates, a flight or UL14.

    protocol: all but its sizes; crops_m: sides of the search map, several are pooled, none is the set's own;
    view_m: None is the set's own. GeolocError if there is no such set.
    """
    defaults = _PAIR_SOURCES.get(name, _ELSEWHERE)
    limit, sizes = protocol.limit, crops_m or [defaults.crop_m]
    sets: list[PairSet] = []
    for crop_m in sizes:
        share = None if limit is None else math.ceil(limit / len(sizes))
        sized = dataclasses.replace(
            protocol, crop_m=crop_m, view_m=defaults.view_m if view_m is None else view_m, limit=share
        )
        sets.append(_open_one(root, name, sized, defaults.views))
    return sets[0] if len(sets) == 1 else Pooled(sets)


def _open_one(root: Path, name: str, protocol: PairProtocol, views: int) -> PairSet:
    if name in _PAIR_SOURCES:
        return HeldOutPairs(root, name, protocol, views)
    for folder in (root / "crossdate" / name, root / "flights" / name, root / name, Path(name)):
        if all((folder / file).is_file() for file in _RASTERS):
            return TwoDateRasters(folder / _RASTERS[0], folder / _RASTERS[1], folder.name, protocol)
        if (folder / "flight.csv").is_file():
            return FlightFrames(folder, protocol)
        if (folder / "test").is_dir():
            return Ul14Pairs(folder, protocol)
    raise GeolocError(
        f"no set '{name}' under {root}: give one of {', '.join(_PAIR_SOURCES)}, or a folder with "
        f"{' and '.join(_RASTERS)}, with flight.csv, or with UL14's test split"
    )
