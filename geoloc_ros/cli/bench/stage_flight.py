# SPDX-License-Identifier: Apache-2.0
"""A flight over a generated map, timed by stage from the camera's bytes to the fix."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
import rasterio.shutil
import torch
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window
from rich.console import Console
from rich.progress import track

from geoloc_models.drl.heatmap import heatmap_from_logits
from geoloc_models.engines.choice import processor_of
from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.engines.placer import placing
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.maps.cached_crop import CachedCrop, moved
from geoloc_ros.core.maps.raster import MapAhead, RasterMap
from geoloc_ros.core.matching.frame_view import rectified_view, search_px
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.match_frame import match_view, pose_spread
from geoloc_ros.core.matching.pose_bias import PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.stage_times import StageTimes
from geoloc_ros.core.matching.tracker import Tracker
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.images import decode_compressed, decode_image, encode_image
from geoloc_ros.core.simulation.simulator import TYPICAL, CameraSimulator

MAP_PX = 10_000
MAP_GSD_M = 0.3
PLACE = (48.2, 15.6)  # lat_deg, lon_deg of the map's centre, UTM zone 33
HEIGHT_M = 120.0
COLD = 8
"""Frames before those that are measured."""
STEP_M = 1.5  # 15 m/s at 10 Hz
SEARCH_M = 50.0  # half-width of the search
CAMERA = CameraModel(
    1280, 960, np.array([[980.0, 0.0, 639.5], [0.0, 980.0, 479.5], [0.0, 0.0, 1.0]]), (-0.12, 0.03, 1e-3, -5e-4, 0.0)
)
ALIGNMENT = "alignment"
"""Part of the stage "network", timed again by itself; 0 for weights without a head for it."""
BESIDE_NETWORK = ("decode JPEG", "rectify", "crop", "heatmap", "fix")


@dataclass
class Samples:
    """Milliseconds of every frame by stage; view and map of the last one, (h, w, 3) uint8 RGB.

    The stage "network" ends with the alignment, whose own time stands beside it.
    """

    stages: dict[str, list[float]]
    query: np.ndarray
    search_map: np.ndarray

    @property
    def beside_network(self) -> np.ndarray:
        """Pre- and post-processing of each frame together."""
        return np.sum([self.stages[stage] for stage in BESIDE_NETWORK], axis=0)

    @property
    def total(self) -> np.ndarray:
        """Each frame from its JPEG to its fix."""
        return np.asarray(self.beside_network + self.stages["network"])

    @property
    def alignment_share(self) -> float:
        """Median of what the alignment adds to a frame's time, as a share of the time without it."""
        own = np.asarray(self.stages[ALIGNMENT])
        return float(np.median(own / (self.total - own)))


def devices_of(device: str) -> list[str]:
    """The devices that --device names: "auto" is the CPU and, if there is one, the GPU."""
    if device != "auto":
        return [device]
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def conditions(devices: Sequence[str], cores: int) -> dict[str, Any]:
    """What figures of this flight depend on, for JSON."""
    return {
        "cores": cores,
        "weights": "",
        "processors": {device: processor_of(device) for device in devices},
        "map_px": MAP_PX,
        "frame_px": [CAMERA.width, CAMERA.height],
        "search_m": 2 * SEARCH_M,
    }


def measure_stages(map_path: Path, network: NetworkEngine, count: int) -> Samples:
    """Fly `count` frames over the map and time every stage as a track sees it, with what it has learned of the pose.

    COLD more, with cold caches and before the pose is known, are flown before.
    """
    engine = placing(network)
    stages: dict[str, list[float]] = defaultdict(list)
    settings = LocalizerSettings()
    with RasterMap(map_path) as source:
        crops = MapAhead(source)
        cached = CachedCrop(crops, engine.spec.map_multiple_px, settings.map.max_search_px)
        tracker = Tracker(*PLACE, SEARCH_M / 3, settings.track.sigma_speed_m_s, None)
        bias = PoseBiasFilter(settings.pose)
        for index, (place, jpeg, rotation) in enumerate(_flight(map_path, count + COLD)):
            lap = _Lap(stages if index >= COLD else defaultdict(list))
            image = decode_compressed(jpeg)
            lap("decode JPEG")
            raw, step = encode_image(image, "bgr8")
            lap.restart()
            decode_image("bgr8", CAMERA.height, CAMERA.width, step, raw)
            lap("decode raw")
            frame = Frame(image, 0.1 * index, rotation, HEIGHT_M, CAMERA)
            try:
                times = StageTimes()
                bias.predict(frame.stamp_s)
                view = rectified_view(bias.corrected(frame), engine, SEARCH_M, settings, like_m=cached.gsd_m)
                times.lap("rectify")
                viewed = moved(place, np.array(view.centre_offset_enu_m))
                crop = cached.crop(viewed, search_px(SEARCH_M, view, engine), view.gsd_m)
                times.lap("crop")
                match = match_view(frame, view, crop, engine, settings, times, bias)
            except Refused as refused:
                raise GeolocError(f"the image of the bench was refused: {refused}") from None
            # The last step of the engine; timed again by itself and subtracted from the time of the network.
            lap.restart()
            logits = np.log(np.maximum(match.heatmap.probability, 1e-30))
            lap.restart()
            heatmap_from_logits(logits, match.heatmap.stride_px)
            heatmap_ms = lap("heatmap")
            aligner = network.answers(view.pixels[None], crop.image[None]).aligner
            if aligner is None:
                lap.stages[ALIGNMENT].append(0.0)
            else:
                spread = pose_spread(bias, bias.corrected(frame), view.gsd_m, settings)
                lap.restart()
                aligner.align(0, match.heatmap.peak_xy_px, spread)
                lap(ALIGNMENT)
            bias = match.bias or bias
            lap.restart()
            tracker.predict(frame.stamp_s, settings.track.sigma_acceleration_m_s2)
            tracker.distance2(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
            tracker.update(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
            took = times.ms
            lap("fix", extra_ms=took["post"])
            lap.stages["rectify"].append(took["rectify"])
            lap.stages["crop"].append(took["crop"])
            lap.stages["network"].append(took["network"] - heatmap_ms)
    return Samples(dict(stages), view.image, crop.image)


class _Lap:
    """Appends the time since the last call to a stage."""

    def __init__(self, stages: dict[str, list[float]]) -> None:
        self.stages = stages
        self.restart()

    def restart(self) -> None:
        """Start the next stage now."""
        self._start = time.perf_counter()

    def __call__(self, stage: str, extra_ms: float = 0.0) -> float:
        took_ms = (time.perf_counter() - self._start) * 1e3 + extra_ms
        self.stages[stage].append(took_ms)
        self.restart()
        return took_ms


def _flight(map_path: Path, count: int) -> Iterator[tuple[tuple[float, float], bytes, np.ndarray]]:
    """Position, JPEG and attitude of images along a straight line to the north-east."""
    simulator = CameraSimulator(map_path, CAMERA, TYPICAL)
    rotation = nadir_rotation(40.0)
    try:
        for index in track(range(count), "images", transient=True):
            place = LocalEnu(*PLACE).to_geodetic(0.7 * STEP_M * index, 0.7 * STEP_M * index)
            image = simulator.render(*place, HEIGHT_M, rotation)
            _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            yield place, data.tobytes(), rotation
    finally:
        simulator.close()


def map_in(folder: Path) -> Path:
    """The COG, written unless a complete one is there."""
    path = folder / f"map_{MAP_PX}.tif"
    try:
        with rasterio.open(path) as found:
            if (found.width, found.height) == (MAP_PX, MAP_PX):
                return path
    except RasterioError:
        pass
    plain = path.with_suffix(".plain.tif")
    tile = _texture(MAP_PX // 4)
    strip = np.tile(np.moveaxis(tile, -1, 0), (1, 1, 4))
    east_m, north_m = 544_600.0, 5_338_700.0  # of PLACE, roughly, in UTM zone 33
    half_m = MAP_PX * MAP_GSD_M / 2
    transform = Affine(MAP_GSD_M, 0.0, east_m - half_m, 0.0, -MAP_GSD_M, north_m + half_m)
    size = {"width": MAP_PX, "height": MAP_PX, "count": 3, "dtype": "uint8"}
    with rasterio.open(plain, "w", driver="GTiff", crs="EPSG:32633", transform=transform, **size) as target:
        for row in track(range(0, MAP_PX, tile.shape[0]), "map", transient=True):
            target.write(strip, window=Window(0, row, MAP_PX, tile.shape[0]))
    part = path.with_suffix(".part.tif")
    with Console().status("map: compressing"):
        rasterio.shutil.copy(plain, part, driver="COG", COMPRESS="JPEG", QUALITY="85", BLOCKSIZE="512")
    plain.unlink()
    return part.replace(path)


def _texture(side_px: int) -> np.ndarray:
    """(side_px, side_px, 3) uint8 noise at all scales, which costs JPEG as much as a photograph."""
    rng = np.random.default_rng(0)
    total = np.zeros((side_px, side_px, 3), np.float32)
    for cell_px, weight in ((512, 40.0), (128, 35.0), (32, 30.0), (8, 20.0), (2, 8.0)):
        coarse = rng.uniform(-1, 1, (side_px // cell_px + 2,) * 2 + (3,)).astype(np.float32)
        total += weight * cv2.resize(coarse, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + total, 0, 255).astype(np.uint8)
