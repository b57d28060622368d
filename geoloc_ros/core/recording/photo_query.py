# SPDX-License-Identifier: Apache-2.0
"""What is known about a photo before it is located, and what is left to search: from its tags and from the user."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geoloc_models.datasets.faults import list_images
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.photos import Photo

HEIGHT_STEP = 1.25
"""Between heights that are tried; the alignment finds what lies between them."""


@dataclass(frozen=True)
class PhotoOptions:
    """What the user states for all photos; None: as the tags of each say.

    height_m: above ground. height_range_m: searched where no height is known. fov_deg: field of view along the image's
    width. GeolocError for an impossible value.
    """

    height_m: float | None = None
    height_range_m: tuple[float, float] = (50.0, 200.0)
    heading_deg: float | None = None
    fov_deg: float | None = None

    def __post_init__(self) -> None:
        low, high = self.height_range_m
        if not 0 < low <= high < math.inf:
            raise GeolocError(f"heights of {low:g} to {high:g} m are no range: give the lower first, above 0")
        if self.height_m is not None and not 0 < self.height_m < math.inf:
            raise GeolocError(f"height above ground is {self.height_m:g} m; it must be positive")
        if self.heading_deg is not None and not math.isfinite(self.heading_deg):
            raise GeolocError(f"heading is {self.heading_deg}; give degrees clockwise from north")
        if self.fov_deg is not None and not 1 <= self.fov_deg <= 170:
            raise GeolocError(f"field of view is {self.fov_deg:g} degrees; give 1 to 170, along the image's width")


@dataclass(frozen=True)
class PhotoQuery:
    """A photo to be located.

    frame: its rotation is None if its attitude is not known, its height does not count. heights_m: to try, the
    likeliest first. searched: what neither tags nor user state.
    """

    photo: Photo
    frame: Frame
    heights_m: tuple[float, ...]
    searched: tuple[str, ...]

    @property
    def heading_known(self) -> bool:
        """Whether tags or user state a heading."""
        return "heading" not in self.searched


def find_photos(places: Sequence[Path]) -> list[Path]:
    """Photos by name and all those of folders; GeolocError if there is none."""
    paths = []
    for place in places:
        if place.is_dir():
            paths += list_images(place)
        elif place.is_file():
            paths.append(place)
        else:
            raise GeolocError(f"there is no photo {place}; give files or a folder")
    if not paths:
        raise GeolocError(f"{places[0]} holds no photos; give a folder with .jpg, .tif or .png files")
    return list(dict.fromkeys(paths))


def read_query(path: Path, options: PhotoOptions) -> PhotoQuery:
    """Read a photo; GeolocError, to which the caller adds the file, if it is damaged or its lens is not known."""
    photo = Photo.read(path, placed=False)
    if photo.focal_35mm is None and options.fov_deg is None:
        raise GeolocError("states no focal length (FocalLengthIn35mmFilm): give its field of view with --fov-deg")
    image = photo.pixels()
    camera = photo.camera(*image.shape[:2])
    if options.fov_deg is not None:
        camera = _pinhole(image, options.fov_deg)
    if options.heading_deg is not None:
        photo = replace(photo, heading_deg=options.heading_deg, roll_deg=None)
    height_m = photo.height_m if options.height_m is None else options.height_m
    if height_m is not None and height_m <= 0:
        height_m = None  # below the take-off point
    known = {"heading": photo.heading_deg, "height": height_m, "tilt": photo.tilt_deg}
    frame = Frame(
        image=image,
        stamp_s=photo.taken_s or 0.0,
        rotation_enu_from_optical=None if photo.tilt_deg is None else photo.rotation(),
        height_m=height_m or math.nan,
        camera=camera,
        heading_deg=photo.heading_deg or 0.0,
    )
    heights = heights_within(*options.height_range_m) if height_m is None else heights_around(height_m)
    return PhotoQuery(photo, frame, heights, tuple(name for name, value in known.items() if value is None))


def heights_around(height_m: float) -> tuple[float, ...]:
    """A height as a photo states it, above take-off, and what it may be above the ground below."""
    return height_m, height_m / HEIGHT_STEP, height_m * HEIGHT_STEP


def heights_within(low_m: float, high_m: float) -> tuple[float, ...]:
    """Heights of a range, the middle first."""
    count = 1 + math.ceil(math.log(high_m / low_m) / math.log(HEIGHT_STEP))
    middle = math.sqrt(low_m * high_m)
    heights = np.geomspace(low_m, high_m, count).tolist() if count > 1 else [middle]
    return tuple(sorted(heights, key=lambda height: abs(math.log(height / middle))))


def _pinhole(image: np.ndarray, fov_deg: float) -> CameraModel:
    height_px, width_px = image.shape[:2]
    focal_px = width_px / 2 / math.tan(math.radians(fov_deg) / 2)
    matrix = np.array([[focal_px, 0, (width_px - 1) / 2], [0, focal_px, (height_px - 1) / 2], [0, 0, 1]])
    return CameraModel(width_px, height_px, matrix)
