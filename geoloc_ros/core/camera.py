# SPDX-License-Identifier: Apache-2.0
"""The camera: its model, its attitude, and the view straight down that the network compares with the map.

Frames as in REP-103: the optical frame is x right, y down, z forward; the body is FLU (x forward, y left,
z up); the world is local ENU. A rotation `b_from_a` turns vectors of a into b. Pixel (u, v) of a camera has
its centre at whole numbers, as in sensor_msgs/CameraInfo and OpenCV. The ground is taken as a level plane
`height_m` below the camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import yaml

from geoloc_models.errors import GeolocError

if TYPE_CHECKING:
    from torch import Tensor

MAX_TILT_DEG = 60.0
"""A more oblique view puts a pixel's ground length at four times its nadir value or more."""

DISTORTION_LENGTHS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8,), "equidistant": (4,)}
"""Models of sensor_msgs/distortion_models with the numbers of coefficients that each may have."""

# Optical axes in FLU for a camera that looks down with the picture's top towards the nose.
FLU_FROM_OPTICAL_DOWN = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])

_HALF = math.sqrt(0.5)
DOWN_XYZW = (_HALF, -_HALF, 0.0, 0.0)
"""That rotation as a quaternion, FLU from the optical frame: the usual mount of a camera."""


@dataclass(frozen=True, eq=False)
class CameraModel:
    """Intrinsics as in sensor_msgs/CameraInfo: size in pixels, K, distortion coefficients and their model.

    Equal by value, so that what follows from the lens alone is computed once even if camera_info comes anew
    with every picture.
    """

    width: int
    height: int
    matrix: np.ndarray  # (3, 3) float64, px
    distortion: tuple[float, ...] = ()
    model: str = "plumb_bob"

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        distortion = tuple(float(value) for value in self.distortion)
        if self.width < 1 or self.height < 1:
            raise GeolocError(f"camera size is {self.width}x{self.height} px; it must be at least 1x1")
        if matrix.shape != (3, 3) or not np.all(np.isfinite(matrix)):
            raise GeolocError(
                f"camera matrix must be 3x3 and finite, not {matrix.tolist()}; calibrate the camera"
            )
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise GeolocError(
                f"focal lengths are {matrix[0, 0]:g} and {matrix[1, 1]:g} px; they must be positive: "
                "an uncalibrated driver sends zeros, calibrate the camera"
            )
        lengths = DISTORTION_LENGTHS.get(self.model)
        if lengths is None:
            raise GeolocError(
                f"distortion model '{self.model}' is not supported; use {', '.join(DISTORTION_LENGTHS)}"
            )
        if not all(math.isfinite(value) for value in distortion):
            raise GeolocError(
                f"distortion coefficients must be finite, not {distortion}; calibrate the camera"
            )
        if any(distortion) and len(distortion) not in lengths:
            raise GeolocError(
                f"{self.model} takes {' or '.join(map(str, lengths[-2:]))} distortion coefficients, "
                f"not {len(distortion)}; check the calibration"
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "distortion", distortion)

    def _values(self) -> tuple[object, ...]:
        return self.width, self.height, self.matrix.tobytes(), self.distortion, self.model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CameraModel) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    @classmethod
    def from_yaml(cls, path: str | Path) -> CameraModel:
        """Read `camera.yaml` of a flight folder: width, height, fx, fy, cx, cy, distortion_model, d."""
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            width, height = int(values["width"]), int(values["height"])
            fx, fy, cx, cy = (float(values[key]) for key in ("fx", "fy", "cx", "cy"))
            distortion = tuple(float(value) for value in values.get("d") or ())
        except OSError as error:
            raise GeolocError(f"camera file {path} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise GeolocError(
                f"camera file {path} is not YAML; it needs width, height, fx, fy, cx, cy"
            ) from None
        except KeyError as error:
            raise GeolocError(
                f"camera file {path} lacks {error}; it needs width, height, fx, fy, cx, cy"
            ) from None
        except (TypeError, ValueError, AttributeError) as error:
            raise GeolocError(f"camera file {path} has a value of the wrong type: {error}") from None
        matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        return cls(width, height, matrix, distortion, str(values.get("distortion_model", "plumb_bob")))

    def to_yaml(self, path: str | Path) -> None:
        """Write the file that `from_yaml` reads."""
        values = {
            "width": self.width,
            "height": self.height,
            "fx": float(self.matrix[0, 0]),
            "fy": float(self.matrix[1, 1]),
            "cx": float(self.matrix[0, 2]),
            "cy": float(self.matrix[1, 2]),
            "distortion_model": self.model,
            "d": list(self.distortion),
        }
        Path(path).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def undistort(self, pixels: np.ndarray) -> np.ndarray:
        """(n, 2) pixels (u, v) to (n, 2) ideal image-plane coordinates (x/z, y/z), by Newton's method.

        A pixel that the lens model cannot reach is moved to the edge of what it can.
        """
        k = self.matrix
        y = (np.asarray(pixels, dtype=np.float64)[:, 1] - k[1, 2]) / k[1, 1]
        x = (np.asarray(pixels, dtype=np.float64)[:, 0] - k[0, 2] - k[0, 1] * y) / k[0, 0]
        if not self.bends:
            return np.stack([x, y], axis=1)
        goal, point, delta = np.stack([x, y]), np.stack([x, y]), 1e-6
        for _ in range(30):
            point *= np.minimum(1.0, self.reach / np.maximum(np.hypot(*point), 1e-12))
            value = np.stack(self._distort(*point))
            error = goal - value
            if np.abs(error).max() < 1e-12:
                break
            by_x = (np.stack(self._distort(point[0] + delta, point[1])) - value) / delta
            by_y = (np.stack(self._distort(point[0], point[1] + delta)) - value) / delta
            determinant = by_x[0] * by_y[1] - by_x[1] * by_y[0]
            determinant[np.abs(determinant) < 1e-9] = 1e-9
            point[0] += (error[0] * by_y[1] - error[1] * by_y[0]) / determinant
            point[1] += (error[1] * by_x[0] - error[0] * by_x[1]) / determinant
        point *= np.minimum(1.0, self.reach / np.maximum(np.hypot(*point), 1e-12))
        return point.T

    def project(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ideal image-plane coordinates (any shape) to pixels (u, v); the inverse of `undistort`."""
        x, y = self._distort(x, y)
        k = self.matrix
        return k[0, 0] * x + k[0, 1] * y + k[0, 2], k[1, 1] * y + k[1, 2]

    def _distort(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lens distortion on the image plane: Brown (plain or rational) or Kannala and Brandt."""
        if not self.bends:
            return x, y
        r2 = x * x + y * y
        if self.model == "equidistant":
            k1, k2, k3, k4 = self.distortion or (0.0,) * 4
            r = np.sqrt(r2)
            theta = np.arctan(r)
            t2 = theta * theta
            theta_d = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
            scale = theta_d / np.maximum(r, 1e-9)
            return x * scale, y * scale
        k1, k2, p1, p2, k3, k4, k5, k6 = (self.distortion + (0.0,) * 8)[:8]
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        if k4 or k5 or k6:
            radial = radial / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        xy2 = 2 * x * y
        return (
            x * radial + p1 * xy2 + p2 * (r2 + 2 * x * x),
            y * radial + p2 * xy2 + p1 * (r2 + 2 * y * y),
        )

    @property
    def bends(self) -> bool:
        """Whether straight lines come out bent."""
        return any(self.distortion) or self.model == "equidistant"

    @property
    def reach(self) -> float:
        """Largest image-plane radius up to which the lens model grows, at most that of 87 degrees off axis.

        Beyond it a distortion polynomial turns round and maps far points back into the picture.
        """
        return _reach(self)

    @property
    def border(self) -> np.ndarray:
        """(n, 2) ideal image-plane coordinates of the picture's outline, closed, from the top left."""
        return _border(self)

    @property
    def centre(self) -> np.ndarray:
        """(2,) ideal image-plane coordinates of the picture's centre."""
        return _centre(self)


@lru_cache(maxsize=16)
def _reach(camera: CameraModel) -> float:
    radius = np.tan(np.linspace(0.0, math.radians(87.0), 1000))
    radial = camera.distortion
    if camera.model != "equidistant" and radial:
        radial = (*radial[:2], 0.0, 0.0, *radial[4:])
    along_x, _ = replace(camera, distortion=radial)._distort(radius, np.zeros_like(radius))
    shrinking = np.flatnonzero(np.diff(along_x) <= 0)
    return float(radius[shrinking[0]] if shrinking.size else radius[-1])


@lru_cache(maxsize=16)
def _border(camera: CameraModel) -> np.ndarray:
    right, bottom = camera.width - 0.5, camera.height - 0.5
    corners = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
    # A straight edge needs its two ends only; a bent one is followed in 32 steps.
    steps = 32 if camera.bends else 1
    share = np.arange(steps)[:, None] / steps
    sides = [a + (b - a) * share for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)]
    return camera.undistort(np.concatenate([*sides, corners[:1]]))


@lru_cache(maxsize=16)
def _centre(camera: CameraModel) -> np.ndarray:
    return camera.undistort(np.array([[(camera.width - 1) / 2, (camera.height - 1) / 2]]))[0]


@dataclass(frozen=True)
class RectifiedView:
    """What the camera saw, as if looking straight down with north up."""

    pixels: (
        np.ndarray | Tensor
    )  # (size_px, size_px, 3) uint8 RGB; unseen ones have the mean colour of the seen ones
    gsd_m: float  # ground metres per pixel
    centre_offset_enu_m: tuple[float, float]  # view's centre minus the camera's nadir point, east and north
    coverage: float  # share of pixels that the camera really saw

    @property
    def image(self) -> np.ndarray:
        """The pixels as an array; fetches them from a GPU."""
        return self.pixels if isinstance(self.pixels, np.ndarray) else self.pixels.cpu().numpy()


def rotation_from_quaternion(qx: float, qy: float, qz: float, qw: float) -> np.ndarray:
    """(3, 3) rotation of a quaternion; its length is normalised, GeolocError where that is impossible."""
    q = np.array([qx, qy, qz, qw], dtype=np.float64)
    norm = float(np.linalg.norm(q))
    if not math.isfinite(norm):
        raise GeolocError(f"attitude quaternion {q.tolist()} is not finite; check the IMU")
    if norm < 1e-6:
        raise GeolocError("attitude quaternion is zero: the sender knows no attitude; check the IMU")
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw) with qw >= 0 of a (3, 3) rotation."""
    r = np.asarray(rotation, dtype=np.float64)
    # Bar-Itzhack (2000): the quaternion is the leading eigenvector of this symmetric matrix, at any angle.
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0.0, 0.0, 0.0],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0.0, 0.0],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], 0.0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]  # eigh reads the lower triangle
    x, y, z, w = q if q[3] >= 0 else -q
    return float(x), float(y), float(z), float(w)


def rotation_enu_from_optical(
    quaternion: Sequence[float], flu_from_optical: np.ndarray = FLU_FROM_OPTICAL_DOWN
) -> np.ndarray:
    """(3, 3) rotation of the optical frame to ENU, for `rectify`.

    quaternion: (qx, qy, qz, qw) of sensor_msgs/Imu, ENU from FLU body. flu_from_optical: the camera's mount;
    by default it looks down with the picture's top forward. GeolocError for an impossible quaternion.
    """
    return rotation_from_quaternion(*quaternion) @ flu_from_optical


def body_from_optical_quaternion(quaternion: Sequence[float]) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw) of the FLU body from that of its camera, which looks down with the picture's top forward."""
    qx, qy, qz, qw = optical_from_body_quaternion(quaternion)
    return -qx, -qy, -qz, -qw


def optical_from_body_quaternion(
    quaternion: Sequence[float], mount: Sequence[float] = DOWN_XYZW
) -> tuple[float, float, float, float]:
    """The camera's (qx, qy, qz, qw) from its body's. mount: quaternion, FLU from the optical frame.

    Nothing is normalised: a quaternion of whatever length keeps it.
    """
    x, y, z, w = quaternion
    a, b, c, d = mount
    return (
        w * a + x * d + y * c - z * b,
        w * b - x * c + y * d + z * a,
        w * c + x * b - y * a + z * d,
        w * d - x * a - y * b - z * c,
    )


def nadir_rotation(heading_deg: float = 0.0) -> np.ndarray:
    """(3, 3) optical frame to ENU: straight down, the picture's top `heading_deg` clockwise of north."""
    if not math.isfinite(heading_deg):
        raise GeolocError(f"heading is {heading_deg}; give degrees clockwise from north")
    angle = math.radians(heading_deg)
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [-s, -c, 0.0], [0.0, 0.0, -1.0]])


def tilt_deg(rotation: np.ndarray) -> float:
    """Angle between the optical axis and straight down, degrees."""
    return math.degrees(math.acos(float(np.clip(-np.asarray(rotation)[2, 2], -1.0, 1.0))))


def rectify(
    image: np.ndarray,
    camera: CameraModel,
    rotation_enu_from_optical: np.ndarray,
    height_m: float,
    gsd_m: float,
    size_px: int,
) -> RectifiedView:
    """Warp a picture to the north-up view straight down, centred on the ground point of the picture's centre.

    image: (camera.height, camera.width, 3) uint8 RGB. rotation_enu_from_optical: (3, 3). height_m: of the
    camera above ground. gsd_m: ground metres per pixel of the result. One warp goes from ground to distorted
    pixel, so nothing is resampled twice; a finer picture is first averaged down so that it does not alias.
    GeolocError: picture of another size, attitude no rotation, height or gsd <= 0, tilt over the limit.
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
    """Where in a picture the pixels of a view lie."""

    u: (
        np.ndarray
    )  # (size_px, size_px) float32 column of each pixel of the view, whole numbers at pixel centres
    v: np.ndarray  # its row
    seen: np.ndarray  # bool: whether the camera saw it
    coverage: float  # share of pixels that it saw
    halvings: int  # how often to halve the picture first, so that a finer one does not alias
    centre_m: tuple[float, float]  # of the view, east and north of the camera's nadir point

    def window(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The part of the (h, w, 3) picture that the view needs, and columns and rows in it."""
        if not self.halvings:
            return image, self.u, self.v
        whole = bool(self.seen.all())
        left, right = _span(self.u if whole else self.u[self.seen], image.shape[1], 2**self.halvings)
        top, bottom = _span(self.v if whole else self.v[self.seen], image.shape[0], 2**self.halvings)
        return image[top:bottom, left:right], self.u - np.float32(left), self.v - np.float32(top)


def halved(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows in the picture averaged over blocks of 2 x 2 px."""
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
            f"picture is {image.shape} {image.dtype}, but the camera model says "
            f"{camera.height}x{camera.width}x3 uint8; check camera_info"
        )
    if not (math.isfinite(gsd_m) and gsd_m > 0):
        raise GeolocError(f"ground sample distance is {gsd_m} m; it must be positive")
    rotation = _checked_pose(rotation_enu_from_optical, height_m)
    centre_m = _ground_points(camera.centre[None], rotation, height_m)[0]
    u, v, seen = _source_pixels(camera, rotation, height_m, centre_m, gsd_m, size_px)
    coverage = float(np.count_nonzero(seen)) / seen.size
    if coverage == 0.0:
        raise GeolocError("the camera saw nothing of the view; check camera_info, attitude and height")
    # At least one pixel is left of each side.
    halvings = min(
        _halvings(camera, rotation, height_m, gsd_m), int(math.log2(min(camera.height, camera.width)))
    )
    return Sampling(u, v, seen, coverage, halvings, (float(centre_m[0]), float(centre_m[1])))


def footprint_m(camera: CameraModel, rotation_enu_from_optical: np.ndarray, height_m: float) -> float:
    """Side, in metres, of the largest north-up square around the centre's ground point that is seen whole."""
    rotation = _checked_pose(rotation_enu_from_optical, height_m)
    centre_m = _ground_points(camera.centre[None], rotation, height_m)[0]
    start = _ground_points(camera.border, rotation, height_m) - centre_m
    a, step = start[:-1], np.diff(start, axis=0)
    # max(|x|, |y|) along an edge is least at an end or where x = 0, y = 0, x = y or x = -y.
    with np.errstate(divide="ignore", invalid="ignore"):
        stops = [-(a @ n) / (step @ n) for n in ((1.0, 0.0), (0.0, 1.0), (1.0, -1.0), (1.0, 1.0))]
    shares = np.clip(np.nan_to_num(np.stack([np.zeros(len(a)), *stops])), 0.0, 1.0)
    return 2.0 * float(np.abs(a + shares[..., None] * step).max(axis=-1).min())


def _checked_pose(rotation: np.ndarray, height_m: float) -> np.ndarray:
    """The rotation as float64 after all checks of attitude and height."""
    rotation = np.asarray(rotation, dtype=np.float64)
    if rotation.shape != (3, 3) or not np.all(np.isfinite(rotation)):
        raise GeolocError("attitude is not finite; check the IMU")
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise GeolocError(f"attitude {rotation.round(3).tolist()} is no rotation matrix")
    if not (math.isfinite(height_m) and height_m > 0):
        raise GeolocError(
            f"height above ground is {height_m} m; it must be positive, check the altitude topic"
        )
    if (tilt := tilt_deg(rotation)) > MAX_TILT_DEG:
        raise GeolocError(
            f"camera is tilted {tilt:.0f}° from straight down, the limit is {MAX_TILT_DEG:.0f}°; "
            "check the mount rotation or wait for level flight"
        )
    return rotation


def _ground_points(plane: np.ndarray, rotation: np.ndarray, height_m: float) -> np.ndarray:
    """(n, 2) image-plane coordinates to (n, 2) east and north metres from the camera's nadir point."""
    rays = plane @ rotation[:, :2].T + rotation[:, 2]
    # A ray at or above the horizon counts as one that meets the ground very far away on its side.
    return rays[:, :2] * (height_m / np.maximum(-rays[:, 2:], 1e-6))


def _source_pixels(
    camera: CameraModel,
    rotation: np.ndarray,
    height_m: float,
    centre_m: np.ndarray,
    gsd_m: float,
    size_px: int,
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
    """How often to halve the picture so that its pixels come nearest to the view's, at its centre."""
    span = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) / [camera.matrix[0, 0], camera.matrix[1, 1]]
    a, b, c = _ground_points(camera.centre + span, rotation, height_m)
    area_m2 = abs((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0])
    return max(0, round(math.log2(gsd_m / math.sqrt(area_m2))))


def _span(coordinates: np.ndarray, length: int, block: int) -> tuple[int, int]:
    """Range of rows or columns that sampling reads, with two blocks of margin, at least two blocks long."""
    first = min(max(0, int(coordinates.min()) - 2 * block), max(0, length - 2 * block))
    last = max(min(length, int(coordinates.max()) + 2 * block + 1), min(length, first + 2 * block))
    return first, last
