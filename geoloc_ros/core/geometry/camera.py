# SPDX-License-Identifier: Apache-2.0
"""The camera: its model, its attitude, and the view straight down that the network compares with the map.

Frames as in REP-103: the optical frame is x right, y down, z forward; the body is FLU (x forward, y left,
z up); the world is local ENU. A rotation `b_from_a` turns vectors of a into b. Pixel (u, v) of a camera has
its centre at whole numbers, as in sensor_msgs/CameraInfo and OpenCV. The ground is taken as a level plane
`height_m` below the camera.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from geoloc_models.errors import GeolocError

DISTORTION_LENGTHS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (8,), "equidistant": (4,)}
"""Models of sensor_msgs/distortion_models with the numbers of coefficients that each may have."""


@dataclass(frozen=True, eq=False)
class CameraModel:
    """Intrinsics as in sensor_msgs/CameraInfo: size in pixels, K, distortion coefficients and their model.

    Equal by value, so that what depends on the lens alone is computed once even if camera_info is received again
    with every image.
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
            raise GeolocError(f"camera matrix must be 3x3 and finite, not {matrix.tolist()}; calibrate the camera")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise GeolocError(
                f"focal lengths are {matrix[0, 0]:g} and {matrix[1, 1]:g} px; they must be positive: "
                "an uncalibrated driver sends zeros, calibrate the camera"
            )
        lengths = DISTORTION_LENGTHS.get(self.model)
        if lengths is None:
            raise GeolocError(f"distortion model '{self.model}' is not supported; use {', '.join(DISTORTION_LENGTHS)}")
        if not all(math.isfinite(value) for value in distortion):
            raise GeolocError(f"distortion coefficients must be finite, not {distortion}; calibrate the camera")
        # Drivers fill up the list with zeros for the terms of larger models, which change nothing.
        while len(distortion) > lengths[-1] and distortion[-1] == 0.0:
            distortion = distortion[:-1]
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
    def from_yaml(cls, path: str | Path) -> "CameraModel":
        """Read `camera.yaml` of a flight folder: width, height, fx, fy, cx, cy, distortion_model, d."""
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            width, height = int(values["width"]), int(values["height"])
            fx, fy, cx, cy = (float(values[key]) for key in ("fx", "fy", "cx", "cy"))
            distortion = tuple(float(value) for value in values.get("d") or ())
        except OSError as error:
            raise GeolocError(f"camera file {path} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise GeolocError(f"camera file {path} is not YAML; it needs width, height, fx, fy, cx, cy") from None
        except KeyError as error:
            raise GeolocError(f"camera file {path} lacks {error}; it needs width, height, fx, fy, cx, cy") from None
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
        goal = np.stack([x, y])
        point, missed = self._solved(goal, goal)
        if missed.any():
            # Newton's method leaps away where the polynomial is flat: start it close by.
            near = self._radially_undistorted(goal[:, missed])
            found, lost = self._solved(goal[:, missed], near)
            point[:, missed] = np.where(lost, near, found)
        return point.T

    def _solved(self, goal: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(2, n) ideal points of (2, n) distorted ones, and (n,) where there is no such point within reach."""
        point, delta = start.copy(), 1e-6
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
        return point, np.abs(goal - np.stack(self._distort(*point))).max(axis=0) > 1e-6

    def _radially_undistorted(self, goal: np.ndarray) -> np.ndarray:
        """(2, n) points in the direction of (2, n) distorted ones, at the edge of reach for those beyond."""
        radius = np.hypot(*goal)
        ideal, distorted = _radial_curve(self)
        return goal * (np.interp(radius, distorted, ideal) / np.maximum(radius, 1e-12))

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
        return (x * radial + p1 * xy2 + p2 * (r2 + 2 * x * x), y * radial + p2 * xy2 + p1 * (r2 + 2 * y * y))

    @property
    def bends(self) -> bool:
        """Whether straight lines come out bent."""
        return any(self.distortion) or self.model == "equidistant"

    @property
    def reach(self) -> float:
        """Largest image-plane radius up to which the lens model grows, at most that of 87 degrees off axis.

        Beyond it a distortion polynomial turns round and maps far points back into the image.
        """
        return _reach(self)

    @property
    def border(self) -> np.ndarray:
        """(n, 2) ideal image-plane coordinates of the image's outline, closed, from the top left."""
        return _border(self)

    @property
    def centre(self) -> np.ndarray:
        """(2,) ideal image-plane coordinates of the image's centre."""
        return _centre(self)


@lru_cache(maxsize=16)
def _radial_curve(camera: CameraModel) -> tuple[np.ndarray, np.ndarray]:
    """Image-plane radii as far as the lens model grows, and the distorted ones; without the tangential terms."""
    radius = np.tan(np.linspace(0.0, math.radians(87.0), 1000))
    radial = camera.distortion
    if camera.model != "equidistant" and radial:
        radial = (*radial[:2], 0.0, 0.0, *radial[4:])
    along_x, _ = replace(camera, distortion=radial)._distort(radius, np.zeros_like(radius))
    shrinking = np.flatnonzero(np.diff(along_x) <= 0)
    end = int(shrinking[0]) + 1 if shrinking.size else len(radius)
    return radius[:end], along_x[:end]


@lru_cache(maxsize=16)
def _reach(camera: CameraModel) -> float:
    return float(_radial_curve(camera)[0][-1])


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
