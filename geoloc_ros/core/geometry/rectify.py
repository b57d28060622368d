# SPDX-License-Identifier: Apache-2.0
"""The view straight down, north up, that the network compares with the map.

The ground is taken as a level plane `height_m` below the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import tilt_deg

if TYPE_CHECKING:
    from torch import Tensor

MAX_TILT_DEG = 60.0
"""A more oblique view puts a pixel's ground length at four times its nadir value or more."""


MAX_HEIGHT_M = 50_000.0
"""Beyond what flies; a larger number is of another unit."""


@dataclass(frozen=True)
class RectifiedView:
    """What the camera saw, as if looking straight down with north up."""

    pixels: np.ndarray | Tensor  # (size_px, size_px, 3) uint8 RGB; unseen ones have the mean colour of the seen ones
    gsd_m: float  # ground metres per pixel
    centre_offset_enu_m: tuple[float, float]  # view's centre minus the camera's nadir point, east and north
    coverage: float  # share of pixels that the camera really saw

    @property
    def image(self) -> np.ndarray:
        """The pixels as an array; fetches them from a GPU."""
        return self.pixels if isinstance(self.pixels, np.ndarray) else self.pixels.cpu().numpy()


def rectify(
    image: np.ndarray,
    camera: CameraModel,
    rotation_enu_from_optical: np.ndarray,
    height_m: float,
    gsd_m: float,
    size_px: int,
) -> RectifiedView:
    """Warp an image to the north-up view straight down, centred on the ground point of the image's centre.

    image: (camera.height, camera.width, 3) uint8 RGB. rotation_enu_from_optical: (3, 3). height_m: of the
    camera above ground. gsd_m: ground metres per pixel of the result. One warp goes from ground to distorted
    pixel, so nothing is resampled twice; a finer image is first averaged down so that it does not alias.
    GeolocError: image of another size, attitude no rotation, height or gsd <= 0, tilt over the limit.
    """
    sampling = sampled_at(image, camera, rotation_enu_from_optical, height_m, gsd_m, size_px)
    image, u, v = sampling.window(image)
    for _ in range(sampling.halvings):
        height, width = image.shape[0] // 2, image.shape[1] // 2
        # Halving is OpenCV's fast case; one go by 5 takes four times as long as two halvings.
        image = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        u, v = halved(u, v)
    view = cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if sampling.coverage < 1.0:
        seen = sampling.seen
        view[~seen] = np.rint(cv2.mean(view, mask=seen.view(np.uint8))[:3]).astype(np.uint8)
    return RectifiedView(view, gsd_m, sampling.centre_m, sampling.coverage)


@dataclass(frozen=True)
class Sampling:
    """Where in an image the pixels of a view lie."""

    u: np.ndarray  # (size_px, size_px) float32 column of each pixel of the view, whole numbers at pixel centres
    v: np.ndarray  # its row
    seen: np.ndarray  # bool: whether the camera saw it
    coverage: float  # share of pixels that it saw
    halvings: int  # how often to halve the image first, so that a finer one does not alias
    centre_m: tuple[float, float]  # of the view, east and north of the camera's nadir point

    def window(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The part of the (h, w, 3) image that the view needs, and columns and rows in it."""
        if not self.halvings:
            return image, self.u, self.v
        whole = bool(self.seen.all())
        left, right = _span(self.u if whole else self.u[self.seen], image.shape[1], 2**self.halvings)
        top, bottom = _span(self.v if whole else self.v[self.seen], image.shape[0], 2**self.halvings)
        return image[top:bottom, left:right], self.u - np.float32(left), self.v - np.float32(top)


def halved(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows in the image averaged over blocks of 2 x 2 px."""
    return u / 2 - np.float32(0.25), v / 2 - np.float32(0.25)


def sampled_at(
    image: np.ndarray,
    camera: CameraModel,
    rotation_enu_from_optical: np.ndarray,
    height_m: float,
    gsd_m: float,
    size_px: int,
) -> Sampling:
    """The sampling of `rectify`, which explains arguments and errors."""
    if image.shape != (camera.height, camera.width, 3) or image.dtype != np.uint8:
        raise GeolocError(
            f"image is {image.shape} {image.dtype}, but the camera model says "
            f"{camera.height}x{camera.width}x3 uint8; check camera_info"
        )
    if not (math.isfinite(gsd_m) and gsd_m > 0):
        raise GeolocError(f"ground sample distance is {gsd_m} m; it must be positive")
    rotation = _checked_pose(rotation_enu_from_optical, height_m)
    centre_m = ground_points(camera.centre[None], rotation, height_m)[0]
    u, v, seen = _source_pixels(camera, rotation, height_m, centre_m, gsd_m, size_px)
    coverage = float(np.count_nonzero(seen)) / seen.size
    if coverage == 0.0:
        raise GeolocError("the camera saw nothing of the view; check camera_info, attitude and height")
    # At least one pixel is left of each side.
    halvings = min(_halvings(camera, rotation, height_m, gsd_m), int(math.log2(min(camera.height, camera.width))))
    return Sampling(u, v, seen, coverage, halvings, (float(centre_m[0]), float(centre_m[1])))


def view_centre_m(camera: CameraModel, rotation_enu_from_optical: np.ndarray, height_m: float) -> np.ndarray:
    """(2,) east and north of the view's centre from the camera's nadir point; errors as in `rectify`."""
    return ground_points(camera.centre[None], _checked_pose(rotation_enu_from_optical, height_m), height_m)[0]


def footprint_m(camera: CameraModel, rotation_enu_from_optical: np.ndarray, height_m: float) -> float:
    """Side, in metres, of the largest north-up square around the centre's ground point that is seen whole."""
    rotation = _checked_pose(rotation_enu_from_optical, height_m)
    centre_m = ground_points(camera.centre[None], rotation, height_m)[0]
    start = ground_points(camera.border, rotation, height_m) - centre_m
    a, step = start[:-1], np.diff(start, axis=0)
    # max(|x|, |y|) along an edge is least at an end or where x = 0, y = 0, x = y or x = -y.
    with np.errstate(divide="ignore", invalid="ignore"):
        stops = [-(a @ n) / (step @ n) for n in ((1.0, 0.0), (0.0, 1.0), (1.0, -1.0), (1.0, 1.0))]
    shares = np.clip(np.nan_to_num(np.stack([np.zeros(len(a)), *stops])), 0.0, 1.0)
    return 2.0 * float(np.abs(a + shares[..., None] * step).max(axis=-1).min())


def check_height(height_m: float) -> None:
    """GeolocError for a height above ground that is NaN, not positive or beyond MAX_HEIGHT_M."""
    if not (math.isfinite(height_m) and height_m > 0):
        raise GeolocError(f"height above ground is {height_m} m; it must be positive, check the altitude topic")
    if height_m > MAX_HEIGHT_M:
        raise GeolocError(
            f"height above ground is {height_m:g} m, the limit is {MAX_HEIGHT_M:.0f} m; check the altitude topic"
        )


def _checked_pose(rotation: np.ndarray, height_m: float) -> np.ndarray:
    """The rotation as float64 after all checks of attitude and height."""
    rotation = np.asarray(rotation, dtype=np.float64)
    if rotation.shape != (3, 3) or not np.all(np.isfinite(rotation)):
        raise GeolocError("attitude is not finite; check the IMU")
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise GeolocError(f"attitude {rotation.round(3).tolist()} is no rotation matrix")
    check_height(height_m)
    if (tilt := tilt_deg(rotation)) > MAX_TILT_DEG:
        raise GeolocError(
            f"camera is tilted {tilt:.0f}° from straight down, the limit is {MAX_TILT_DEG:.0f}°; "
            "check the mount rotation or wait for level flight"
        )
    return rotation


def ground_points(plane: np.ndarray, rotation: np.ndarray, height_m: float) -> np.ndarray:
    """(n, 2) image-plane coordinates to (n, 2) east and north metres from the camera's nadir point."""
    rays = plane @ rotation[:, :2].T + rotation[:, 2]
    # A ray at or above the horizon counts as one that meets the ground very far away on its side.
    return rays[:, :2] * (height_m / np.maximum(-rays[:, 2:], 1e-6))


def _source_pixels(
    camera: CameraModel, rotation: np.ndarray, height_m: float, centre_m: np.ndarray, gsd_m: float, size_px: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Camera pixel (u, v) of every pixel of the view, and whether it was seen; each (size_px, size_px)."""
    offset_m = ((np.arange(size_px) + 0.5 - size_px / 2) * gsd_m).astype(np.float32)
    east_m = np.float32(centre_m[0]) + offset_m[None, :]
    north_m = np.float32(centre_m[1]) - offset_m[:, None]
    # Optical coordinates of the ground point (east, north, -height): the rows of the inverse rotation.
    x, y, z = (
        np.float32(rotation[0, i]) * east_m
        + (np.float32(rotation[1, i]) * north_m - np.float32(rotation[2, i] * height_m))
        for i in range(3)
    )
    ahead = z > 0
    z[~ahead] = 1.0
    x /= z
    y /= z
    u, v = camera.project(x, y)
    seen = ahead & (u >= -0.5) & (u <= camera.width - 0.5) & (v >= -0.5) & (v <= camera.height - 0.5)
    if camera.bends:
        seen &= x * x + y * y <= np.float32(camera.reach**2)
    return u.astype(np.float32, copy=False), v.astype(np.float32, copy=False), seen


def _halvings(camera: CameraModel, rotation: np.ndarray, height_m: float, gsd_m: float) -> int:
    """How often to halve the image so that its pixels come nearest to the view's, at its centre."""
    span = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) / [camera.matrix[0, 0], camera.matrix[1, 1]]
    a, b, c = ground_points(camera.centre + span, rotation, height_m)
    area_m2 = abs((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0])
    return max(0, round(math.log2(gsd_m / math.sqrt(area_m2))))


def _span(coordinates: np.ndarray, length: int, block: int) -> tuple[int, int]:
    """Range of rows or columns that sampling reads, with two blocks of margin, at least two blocks long."""
    first = min(max(0, int(coordinates.min()) - 2 * block), max(0, length - 2 * block))
    last = max(min(length, int(coordinates.max()) + 2 * block + 1), min(length, first + 2 * block))
    return first, last
