# SPDX-License-Identifier: Apache-2.0
"""Makes the UL14 layout of one's own map and photos, or of a flight folder.

Every photo is rectified to the north-up view straight down, as the localizer does it live. The position of an
item is the ground point in the middle of that view, the UAV's own where the camera looks straight down.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from geoloc_models.datasets.faults import list_folders, list_images
from geoloc_models.datasets.ul14 import MAP_PIXEL_M, MAP_SIZES_PX, Corners
from geoloc_models.datasets.ul14_writer import (
    TEST_MAP_PX,
    TEST_VIEW_PX,
    TRAIN_MAP_GSD_M,
    TRAIN_MAP_PX,
    TRAIN_VIEW_PX,
    LabelledMap,
    draw_target,
    sequence_name,
    write_test_sequence,
    write_train_item,
)
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import footprint_m, rectify
from geoloc_ros.core.maps.crop import MapCrop, MapSource
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.recording.photos import Photo

MIN_COVERAGE = 0.75
"""Share of a map that the raster must cover; the rest gets the mean colour, as RSC pads in training."""

DRAWS = 10
"""Positions on a test map that are tried until the raster covers it."""

PROBE_PX = 48
"""Side of the small crop that measures coverage."""

MAX_BLIND_TILT_DEG = 5.0
"""A photo tilted more than this cannot be rectified without knowing its lens."""


class Shots(Protocol):
    """Frames to build from; `frame` raises GeolocError for one that is of no use."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """File name, for messages."""
        ...

    def frame(self, index: int) -> Frame:
        """The frame with its image, attitude, height and truth."""
        ...


class PhotoShots:
    """A folder of geotagged photos."""

    def __init__(self, folder: str | Path, height_m: float | None = None) -> None:
        """height_m: above ground, for all photos; None: from each photo's XMP."""
        self.paths = list_images(Path(folder))
        self.height_m = height_m
        self.without_heading = 0
        if not self.paths:
            raise GeolocError(f"{folder} holds no photos; give a folder with .jpg, .tif or .png files")
        if height_m is not None and not (math.isfinite(height_m) and height_m > 0):
            raise GeolocError(f"height above ground is {height_m} m; it must be positive")

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """File name of a photo."""
        return self.paths[index].name

    def frame(self, index: int) -> Frame:
        """One photo as a frame; it counts photos that name no heading and are taken as north-up."""
        photo = Photo.read(self.paths[index])
        height_m = photo.height_m if self.height_m is None else self.height_m
        if height_m is None:
            raise GeolocError("has no height above ground in its XMP; give one with --height-m")
        if photo.focal_35mm is None and abs(photo.tilt_deg or 0.0) > MAX_BLIND_TILT_DEG:
            raise GeolocError(
                f"looks {photo.tilt_deg:.0f}° off straight down and does not name its lens "
                f"(FocalLengthIn35mmFilm); up to {MAX_BLIND_TILT_DEG:g}° need none"
            )
        image = photo.pixels()
        self.without_heading += photo.heading_deg is None
        return Frame(
            image=image,
            stamp_s=float(index),
            rotation_enu_from_optical=photo.rotation(),
            height_m=height_m,
            camera=photo.camera(*image.shape[:2]),
            truth=Truth(photo.lat_deg, photo.lon_deg, height_m),
        )


class FlightShots:
    """Every n-th frame of a flight folder."""

    def __init__(self, flight: Flight, every: int = 1) -> None:
        if every < 1:
            raise GeolocError(f"every {every}th frame is impossible; give 1 for all of them, 2 for half, ...")
        self.flight = flight
        self.indices = range(0, len(flight), every)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """The frame's place in the flight."""
        return f"frame {self.indices[index]}"

    def frame(self, index: int) -> Frame:
        """One frame of the flight."""
        frame = self.flight[self.indices[index]]
        if frame.image is None:
            raise GeolocError(frame.problem)
        return frame


@dataclass(frozen=True)
class BuildSettings:
    """What to write."""

    place: str
    split: str  # "train" or "test"
    gsd_m: float = TRAIN_MAP_GSD_M  # of train maps
    seed: int = 0  # of the targets on test maps

    def __post_init__(self) -> None:
        if not self.place or set(self.place) & set('/\\:*?"<>|') or self.place.startswith("."):
            raise GeolocError(f"place '{self.place}' cannot be part of a folder's name; give letters and digits")
        if not (math.isfinite(self.gsd_m) and 0 < self.gsd_m <= 10):
            raise GeolocError(f"train maps of {self.gsd_m} m a pixel are of no use; give 0.1 to 10")


@dataclass(frozen=True)
class Built:
    """What became of one shot: how much of each of its maps the raster covers, or why it was skipped."""

    name: str
    coverages: tuple[float, ...] = ()  # shares 0..1, one a map
    skipped: str = ""


def build(shots: Shots, rasters: Sequence[MapSource], root: str | Path, settings: BuildSettings) -> Iterator[Built]:
    """Write <root>/<split>/<place>_* of all shots, one after the other.

    rasters: the map, or several of different dates; each gives every item a map (train) or a set of maps (test).
    GeolocError, before anything is written, if the place is there already.
    """
    root = Path(root)
    for split in ("train", "val", "test"):
        names = [folder.name for folder in list_folders(root / split)]
        if taken := [name for name in names if name.rsplit("_", 2)[0] == settings.place]:
            raise GeolocError(
                f"{root / split} already holds {len(taken)} sequences of place {settings.place}; give another "
                "--place or remove them, for a place belongs to one split and is built in one go"
            )
    return _build(shots, rasters, root / settings.split, settings)


def _build(shots: Shots, rasters: Sequence[MapSource], folder: Path, settings: BuildSettings) -> Iterator[Built]:
    for index in range(len(shots)):
        name = shots.name(index)
        try:
            coverages = _write(shots.frame(index), index, rasters, folder, settings)
        except GeolocError as error:
            yield Built(name, skipped=str(error))
        else:
            yield Built(name, coverages)


def _write(
    frame: Frame, index: int, rasters: Sequence[MapSource], folder: Path, settings: BuildSettings
) -> tuple[float, ...]:
    """Write one sequence and return its maps' coverages; GeolocError states why it is unusable."""
    assert frame.image is not None and frame.rotation_enu_from_optical is not None and frame.truth is not None
    size_m = footprint_m(frame.camera, frame.rotation_enu_from_optical, frame.height_m)
    view_px = TRAIN_VIEW_PX if settings.split == "train" else TEST_VIEW_PX
    view = rectify(
        frame.image, frame.camera, frame.rotation_enu_from_optical, frame.height_m, size_m / view_px, view_px
    )
    enu = LocalEnu(frame.truth.lat_deg, frame.truth.lon_deg)
    lat_deg, lon_deg = enu.to_geodetic(*view.centre_offset_enu_m)
    rasters = [raster for raster in rasters if _covers(raster, lat_deg, lon_deg, size_m)]
    if not rasters:
        raise GeolocError("shows ground outside the map")
    sequence = folder / sequence_name(settings.place, frame.height_m, index)
    if settings.split == "train":
        crops = [raster.crop(lat_deg, lon_deg, TRAIN_MAP_PX * settings.gsd_m, TRAIN_MAP_PX) for raster in rasters]
        write_train_item(sequence, view.image, [crop.image for crop in crops])
        return tuple(crop.coverage for crop in crops)
    rng = np.random.default_rng([settings.seed, index])
    maps = [
        labelled
        for raster in rasters
        for size_px in MAP_SIZES_PX
        if (labelled := _labelled_map(raster, lat_deg, lon_deg, size_px, rng)) is not None
    ]
    if not maps:
        raise GeolocError(f"none of the test maps of {MAP_SIZES_PX[0] * MAP_PIXEL_M:.0f} m or more fits the raster")
    write_test_sequence(sequence, view.image, [labelled for labelled, _ in maps], lat_deg, lon_deg)
    return tuple(coverage for _, coverage in maps)


def _labelled_map(
    raster: MapSource, lat_deg: float, lon_deg: float, size_px: int, rng: np.random.Generator
) -> tuple[LabelledMap, float] | None:
    """A map with the place somewhere on it, and its coverage; None if the raster covers too little wherever it lies."""
    size_m = size_px * MAP_PIXEL_M
    enu = LocalEnu(lat_deg, lon_deg)
    for _ in range(DRAWS):
        row, col = draw_target(rng)
        centre = enu.to_geodetic((0.5 - col) * size_m, (row - 0.5) * size_m)
        if not _covers(raster, *centre, size_m):
            continue
        crop = raster.crop(*centre, size_m, TEST_MAP_PX)
        x_px, y_px = crop.geodetic_to_pixel(lat_deg, lon_deg)
        target = y_px / TEST_MAP_PX, x_px / TEST_MAP_PX
        return LabelledMap(crop.image, target, _corners(crop), size_px), crop.coverage
    return None


def _covers(raster: MapSource, lat_deg: float, lon_deg: float, size_m: float) -> bool:
    return raster.crop(lat_deg, lon_deg, size_m, PROBE_PX).coverage >= MIN_COVERAGE


def _corners(crop: MapCrop) -> Corners:
    """Outer corners of a crop. Meridians converge by centimetres over it, which a stored pixel does not show."""
    side_px = crop.image.shape[0]
    return Corners(*crop.pixel_to_geodetic(0.0, 0.0), *crop.pixel_to_geodetic(side_px, side_px))
