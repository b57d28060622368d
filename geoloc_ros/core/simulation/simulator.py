# SPDX-License-Identifier: Apache-2.0
"""A camera over a georeferenced raster: images with exact truth, without a 3D engine.

The ground is the raster's plane, so one homography takes camera pixels to raster pixels and one OpenCV warp
makes the image. Frames are those of `camera.py`; heights are above that plane. `trajectory.py` has flights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import rasterio
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu

BLOCK_PX = 6144
"""Largest side of the part of the raster held in memory for one pyramid level (113 MB of RGB)."""


@dataclass(frozen=True)
class Degradation:
    """What lens, sensor and shutter do to the image. The values of `Degradation()` change nothing."""

    exposure: float = 1.0  # gain of all channels
    gamma: float = 1.0  # of the tone curve; above 1 lifts the shadows
    vignetting: float = 0.0  # share of light lost in the corners
    blur_px: float = 0.0  # standard deviation of the lens blur
    noise: float = 0.0  # standard deviation of sensor noise, 8-bit levels
    shutter_s: float = 0.0  # open time: length of the motion blur along the ground's apparent motion

    def __post_init__(self) -> None:
        if not (self.exposure > 0 and self.gamma > 0):
            raise GeolocError(f"exposure {self.exposure} and gamma {self.gamma} must be positive")
        if not 0.0 <= self.vignetting < 1.0:
            raise GeolocError(f"vignetting is {self.vignetting}; give the share of light lost, 0 to below 1")
        if not all(0 <= amount < math.inf for amount in (self.blur_px, self.noise, self.shutter_s)):
            raise GeolocError(
                f"blur_px {self.blur_px}, noise {self.noise} and shutter_s {self.shutter_s} must be 0 or more"
            )


DEFAULT_CAMERA = CameraModel(640, 480, np.array([[490.0, 0.0, 319.5], [0.0, 490.0, 239.5], [0.0, 0.0, 1.0]]))
"""VGA with a field of view of 66 by 52 degrees."""

TYPICAL = Degradation(exposure=1.0, gamma=1.0, vignetting=0.15, blur_px=0.6, noise=3.0, shutter_s=0.004)
"""A small drone's camera in daylight."""


@dataclass(frozen=True)
class Pose:
    """Where the camera is and how it moves, ENU."""

    stamp_s: float
    lat_deg: float
    lon_deg: float
    height_m: float  # above ground
    rotation_enu_from_optical: np.ndarray  # (3, 3)
    velocity_enu_m_s: tuple[float, float, float]
    angular_velocity_enu_rad_s: tuple[float, float, float]


@dataclass
class _Block:
    """Part of the raster at one pyramid level: block pixel edges = (raster pixel edges - origin) * scale."""

    image: np.ndarray  # (h, w, 3) uint8 RGB
    origin: np.ndarray  # (2,) raster pixels, x and y
    scale: np.ndarray  # (2,) block pixels per raster pixel
    fill: list[float]  # mean colour, for ground beyond the raster


class CameraSimulator:
    """Images of a camera over any raster that GDAL reads; the raster is the ground plane."""

    def __init__(
        self, raster: str | Path, camera: CameraModel, degradation: Degradation | None = None, seed: int = 0
    ) -> None:
        """Open the raster; GeolocError if it cannot be read or has no CRS."""
        try:
            self._dataset = rasterio.open(raster)
        except RasterioError as error:
            raise GeolocError(f"map {raster} cannot be read: {error}") from None
        if self._dataset.crs is None:
            self._dataset.close()
            raise GeolocError(f"map {raster} has no coordinate reference system; assign one")
        self.camera = camera
        self.degradation = degradation or Degradation()
        self._to_crs = Transformer.from_crs("EPSG:4326", self._dataset.crs, always_xy=True)
        self._pixel_from_crs = ~self._dataset.transform
        self._blocks: dict[int, _Block] = {}
        self._rng = np.random.default_rng(seed)
        self._rays = self._distorted_rays()
        self._tone = _tone_table(self.degradation)
        self._gain = _vignette(camera, self.degradation.vignetting)
        self._noise = self._noise_field()

    def close(self) -> None:
        """Release the raster."""
        self._dataset.close()
        self._blocks.clear()

    def render(
        self,
        lat_deg: float,
        lon_deg: float,
        height_m: float,
        rotation_enu_from_optical: np.ndarray,
        velocity_enu_m_s: Sequence[float] = (0.0, 0.0, 0.0),
        angular_velocity_enu_rad_s: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> np.ndarray:
        """The image, (camera.height, camera.width, 3) uint8 RGB, seen from a pose.

        height_m: above ground, positive. rotation_enu_from_optical: (3, 3). Velocities only matter for motion
        blur. Ground beyond the raster has its mean colour. GeolocError if any ray of the image does not
        meet the ground (tilt and field of view together reach the horizon).
        """
        rotation = np.asarray(rotation_enu_from_optical, dtype=np.float64)
        if not (math.isfinite(height_m) and height_m > 0 and np.all(np.isfinite(rotation))):
            raise GeolocError(f"height is {height_m} m; height must be positive and the attitude finite")
        # Ideal image plane to metres east and north of the nadir point, and on to raster pixels.
        ground_from_plane = np.diag([height_m, height_m, -1.0]) @ rotation
        raster_from_plane = self._raster_from_enu(lat_deg, lon_deg, height_m) @ ground_from_plane
        outline = cv2.perspectiveTransform(self.camera.border[None], raster_from_plane)[0]
        downward = -(self.camera.border @ rotation[2, :2] + rotation[2, 2])
        if downward.min() < 0.05:
            raise GeolocError("the image reaches the horizon; tilt the camera less or narrow its view")

        block = self._block(outline)
        block_from_raster = np.diag([*block.scale, 1.0])
        block_from_raster[:2, 2] = -block.origin * block.scale - 0.5  # OpenCV counts from pixel centres
        image = self._warp(block, block_from_raster @ raster_from_plane)
        if self.degradation.shutter_s > 0:
            image = self._smear(image, rotation, height_m, velocity_enu_m_s, angular_velocity_enu_rad_s)
        return self._degrade(image)

    def render_pose(self, pose: Pose) -> np.ndarray:
        """The image seen from a pose of a trajectory, motion blur included."""
        return self.render(
            pose.lat_deg,
            pose.lon_deg,
            pose.height_m,
            pose.rotation_enu_from_optical,
            pose.velocity_enu_m_s,
            pose.angular_velocity_enu_rad_s,
        )

    def covers(self, lat_deg: float, lon_deg: float) -> bool:
        """Whether a place is on the raster."""
        column, row = self._pixel_from_crs @ self._to_crs.transform(lon_deg, lat_deg)
        return bool(0 <= column <= self._dataset.width and 0 <= row <= self._dataset.height)

    def free_area(self) -> tuple[LocalEnu, tuple[float, float, float, float]]:
        """The largest upright rectangle of the raster without holes.

        Returns its centre's local frame and its (west, south, east, north) bounds in that frame, metres.
        """
        dataset = self._dataset
        step = max(1, math.ceil(max(dataset.width, dataset.height) / 192))
        shape = (max(1, dataset.height // step), max(1, dataset.width // step))
        valid = dataset.dataset_mask(out_shape=shape) > 0
        top, left, bottom, right = _largest_rectangle(valid)
        size = np.array([dataset.width / shape[1], dataset.height / shape[0]])
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) * size
        x, y = dataset.transform @ (corners[:, 0], corners[:, 1])
        lon_deg, lat_deg = self._to_crs.transform(x, y, direction="INVERSE")
        frame = LocalEnu(float(np.mean(lat_deg)), float(np.mean(lon_deg)))
        east_m, north_m = frame.to_enu(lat_deg, lon_deg)
        # Of a slightly turned rectangle (UTM against true north) keep the upright inside.
        _, west, east, _ = np.sort(east_m).tolist()
        _, south, north, _ = np.sort(north_m).tolist()
        return frame, (west, south, east, north)

    def _raster_from_enu(self, lat_deg: float, lon_deg: float, reach_m: float) -> np.ndarray:
        """(3, 3) affine from metres east and north of a place to raster pixel-edge coordinates."""
        offsets = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) * reach_m
        lat, lon = LocalEnu(lat_deg, lon_deg).to_geodetic(offsets[:, 0], offsets[:, 1])
        x, y = self._to_crs.transform(lon, lat)
        column, row = self._pixel_from_crs @ (np.asarray(x), np.asarray(y))
        points = np.stack([column, row])
        affine = np.eye(3)
        affine[:2, 0] = (points[:, 1] - points[:, 2]) / (2 * reach_m)
        affine[:2, 1] = (points[:, 3] - points[:, 4]) / (2 * reach_m)
        affine[:2, 2] = points[:, 0]
        if not np.all(np.isfinite(affine)):
            raise GeolocError(f"latitude {lat_deg}, longitude {lon_deg} is outside the map's CRS; fly over the map")
        return affine

    def _block(self, outline: np.ndarray) -> _Block:
        """Pyramid level and part of the raster that hold the image's outline (raster pixels, (n, 2))."""
        area = float(cv2.contourArea(outline.astype(np.float32)))
        raster_per_picture_px = math.sqrt(area / (self.camera.width * self.camera.height))
        # Up to 1.5 raster pixels an image pixel a bilinear sample still misses nothing that shows.
        level = max(0, round(math.log2(max(raster_per_picture_px / 1.1, 1e-9))))
        low = np.floor(outline.min(axis=0)).astype(int)
        high = np.ceil(outline.max(axis=0)).astype(int)
        limit = np.array([self._dataset.width, self._dataset.height])
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
        block = self._blocks.get(level)
        if block is not None:
            size = np.array(block.image.shape[1::-1]) / block.scale
            if np.all(low >= np.floor(block.origin)) and np.all(high <= np.ceil(block.origin + size)):
                return block
        self._blocks[level] = block = self._read_block(level, (low + high) // 2, high - low, limit)
        return block

    def _read_block(self, level: int, centre: np.ndarray, needed: np.ndarray, limit: np.ndarray) -> _Block:
        factor = 2**level
        side = np.minimum(np.maximum(BLOCK_PX * factor, needed + 2 * factor), limit)
        origin = np.clip(centre - side // 2, 0, limit - side) // factor * factor
        side = np.minimum(side, limit - origin)
        shape = np.maximum(1, np.round(side / factor)).astype(int)
        window = Window(int(origin[0]), int(origin[1]), int(side[0]), int(side[1]))
        bands = [1, 2, 3] if self._dataset.count >= 3 else [1, 1, 1]
        try:
            data = self._dataset.read(
                bands, window=window, out_shape=(3, int(shape[1]), int(shape[0])), resampling=Resampling.average
            )
        except RasterioError as error:
            raise GeolocError(f"map {self._dataset.name} cannot be read: {error}") from None
        if data.dtype != np.uint8:
            raise GeolocError(f"map {self._dataset.name} has {data.dtype} bands; convert it to 8-bit RGB")
        image = np.ascontiguousarray(data.transpose(1, 2, 0))
        return _Block(image, origin, shape / side, list(cv2.mean(image)[:3]))

    def _distorted_rays(self) -> np.ndarray | None:
        """(h, w, 2) float32 image-plane coordinates of each pixel of a lens with distortion, else None."""
        camera = self.camera
        if not any(camera.distortion) and camera.model != "equidistant":
            return None
        u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        plane = camera.undistort(np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64))
        return plane.reshape(camera.height, camera.width, 2).astype(np.float32)

    def _warp(self, block: _Block, block_from_plane: np.ndarray) -> np.ndarray:
        camera = self.camera
        if self._rays is not None:
            x, y = cv2.split(cv2.perspectiveTransform(self._rays, block_from_plane))
            return cv2.remap(
                block.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=block.fill
            )
        return cv2.warpPerspective(
            block.image,
            block_from_plane @ np.linalg.inv(camera.matrix),
            (camera.width, camera.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=block.fill,
        )

    def _smear(
        self,
        image: np.ndarray,
        rotation: np.ndarray,
        height_m: float,
        velocity_m_s: Sequence[float],
        angular_rad_s: Sequence[float],
    ) -> np.ndarray:
        """Motion blur along the apparent motion of the ground at the image's centre."""
        depth_m = height_m / max(0.05, -rotation[2, 2])
        velocity = rotation.T @ np.asarray(velocity_m_s, dtype=np.float64) / depth_m
        turn = rotation.T @ np.asarray(angular_rad_s, dtype=np.float64)
        flow = np.array([-velocity[0] - turn[1], -velocity[1] + turn[0]])  # of the optical axis' ground point
        smear_px = flow * [self.camera.matrix[0, 0], self.camera.matrix[1, 1]] * self.degradation.shutter_s
        length = float(np.linalg.norm(smear_px))
        if length < 0.5:
            return image
        size = 2 * math.ceil(length / 2) + 1
        steps = np.linspace(-0.5, 0.5, 8 * size)
        kernel = np.zeros((size + 2, size + 2), np.float32)
        at = (size + 1) / 2 + steps[:, None] * smear_px
        whole = np.floor(at).astype(int)
        part = at - whole
        for dx in (0, 1):
            for dy in (0, 1):
                weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
                np.add.at(kernel, (whole[:, 1] + dy, whole[:, 0] + dx), weight)
        return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)

    def _noise_field(self) -> np.ndarray | None:
        """Noise larger than an image; each frame takes another part of it, which costs no random numbers."""
        if self.degradation.noise == 0:
            return None
        shape = (self.camera.height + 128, self.camera.width + 128, 3)
        noise = self._rng.standard_normal(shape, dtype=np.float32) * self.degradation.noise
        return np.round(noise).astype(np.int16)

    def _degrade(self, image: np.ndarray) -> np.ndarray:
        if self.degradation.blur_px > 0:
            image = cv2.GaussianBlur(image, (0, 0), self.degradation.blur_px)
        if self._tone is not None:
            image = cv2.LUT(image, self._tone)
        if self._gain is not None:
            image = cv2.multiply(image, self._gain, dtype=cv2.CV_8U)
        if self._noise is not None:
            y, x = (int(value) for value in self._rng.integers(0, 128, 2))
            image = cv2.add(image, self._noise[y : y + image.shape[0], x : x + image.shape[1]], dtype=cv2.CV_8U)
        return image


def _tone_table(degradation: Degradation) -> np.ndarray | None:
    if degradation.exposure == 1.0 and degradation.gamma == 1.0:
        return None
    levels = np.arange(256) / 255.0 * degradation.exposure
    return np.clip(255 * levels ** (1 / degradation.gamma), 0, 255).round().astype(np.uint8)


def _vignette(camera: CameraModel, loss: float) -> np.ndarray | None:
    """(h, w, 3) float32 gain: 1 in the centre, 1 - loss in the corners, quadratic between."""
    if loss == 0:
        return None
    y = (np.arange(camera.height) - (camera.height - 1) / 2)[:, None]
    x = (np.arange(camera.width) - (camera.width - 1) / 2)[None, :]
    r2 = (x * x + y * y) / ((camera.width**2 + camera.height**2) / 4)
    return np.repeat((1.0 - loss * r2).astype(np.float32)[..., None], 3, axis=2)


def _largest_rectangle(valid: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the largest all-true rectangle of a small (h, w) mask, ends exclusive."""
    depth = np.zeros(valid.shape[1], dtype=int)  # true cells above and including the row, per column
    best, answer = 0, (0, 0, valid.shape[0], valid.shape[1])
    for row in range(valid.shape[0]):
        depth = np.where(valid[row], depth + 1, 0)
        for left in range(valid.shape[1]):
            lowest = np.minimum.accumulate(depth[left:])
            areas = lowest * np.arange(1, len(lowest) + 1)
            widest = int(areas.argmax())
            if areas[widest] > best:
                best = int(areas[widest])
                answer = (row + 1 - int(lowest[widest]), left, row + 1, left + widest + 1)
    return answer
