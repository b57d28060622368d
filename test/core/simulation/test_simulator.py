# SPDX-License-Identifier: Apache-2.0
"""The simulated camera against explicit pinhole arithmetic, its noise and blur, and the flights."""

import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Proj, Transformer
from rasterio.transform import from_origin

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.main import main
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.simulation.simulator import TYPICAL, CameraSimulator, Degradation
from geoloc_ros.core.simulation.trajectory import SensorNoise, Trajectory, rotation_from_angles

CAMERA = CameraModel(640, 480, np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]]))
ORIGIN = (500300.0, 5800100.0)  # upper left, UTM 33N
GSD_M = 0.25
SIZE_PX = 2400
MARKER_PX = (1310.0, 1125.0)  # centre of the painted cross, raster pixel edges (column, row)


def write_raster(path: Path, image: np.ndarray, crs: str | None = "EPSG:32633", gsd_m: float = GSD_M) -> Path:
    transform = from_origin(*ORIGIN, gsd_m, gsd_m)
    height, width = image.shape[:2]
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", crs=crs, transform=transform
    ) as target:
        target.write(image.transpose(2, 0, 1))
    return path


@pytest.fixture(scope="module")
def marked_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Green and blue checks of 20 m; the only red thing is a square marker of 3 m."""
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX]
    check = (rows // 80 + columns // 80) % 2 == 0
    image = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    image[..., 1] = np.where(check, 180, 60)
    image[..., 2] = np.where(check, 60, 180)
    column, row = (int(value) for value in MARKER_PX)
    image[row - 6 : row + 6, column - 6 : column + 6] = (255, 0, 0)
    return write_raster(tmp_path_factory.mktemp("map") / "marked.tif", image)


def at_utm(east: float, north: float) -> tuple[float, float]:
    lon, lat = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True).transform(east, north)
    return lat, lon


def pinhole(camera: CameraModel, rotation: np.ndarray, east_m: float, north_m: float, height_m: float) -> np.ndarray:
    """Pixel of a ground point east and north of the camera, written out; Brown's k1 only."""
    x, y, z = np.linalg.inv(rotation) @ np.array([east_m, north_m, -height_m])
    x, y = x / z, y / z
    k1 = camera.distortion[0] if camera.distortion else 0.0
    scale = 1 + k1 * (x * x + y * y)
    k = camera.matrix
    return np.array([k[0, 0] * x * scale + k[0, 2], k[1, 1] * y * scale + k[1, 2]])


def red_centroid(image: np.ndarray) -> np.ndarray:
    red = np.clip(image[..., 0].astype(np.float64) - 20, 0, None)
    assert red.sum() > 0
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(columns * red).sum(), (rows * red).sum()]) / red.sum()


@pytest.mark.parametrize("distortion", [(), (-0.12, 0.0, 0.0, 0.0, 0.0)], ids=["pinhole", "barrel"])
@pytest.mark.parametrize(
    ("height_m", "angles_deg"), [(80, (0, 0, 0)), (120, (7, -5, 130)), (150, (-9, 11, -40)), (330, (3, 4, 77))]
)
def test_marker_lands_where_pinhole_arithmetic_says(
    marked_map: Path, height_m: float, angles_deg: tuple[float, float, float], distortion: tuple[float, ...]
) -> None:
    camera = CameraModel(640, 480, CAMERA.matrix, distortion)
    # The camera stands 12.4 m west and 9.7 m south of the marker, in the grid of the map. Grid north is not
    # true north, so the offset is turned by the meridian convergence and freed of the grid's scale.
    marker = np.array([ORIGIN[0] + MARKER_PX[0] * GSD_M, ORIGIN[1] - MARKER_PX[1] * GSD_M])
    lat, lon = at_utm(marker[0] - 12.4, marker[1] - 9.7)
    factors = Proj("EPSG:32633").get_factors(lon, lat)
    convergence = math.radians(factors.meridian_convergence)
    east = (12.4 * math.cos(convergence) - 9.7 * -math.sin(convergence)) / factors.meridional_scale
    north = (9.7 * math.cos(convergence) + 12.4 * -math.sin(convergence)) / factors.meridional_scale
    flu_from_optical = np.array([[0.0, -1, 0], [-1, 0, 0], [0, 0, -1]])
    rotation = rotation_from_angles(*np.radians(angles_deg)) @ flu_from_optical

    simulator = CameraSimulator(marked_map, camera)
    image = simulator.render(lat, lon, height_m, rotation)

    expected = pinhole(camera, rotation, east, north, height_m)
    assert np.all((expected > 20) & (expected < [620, 460]))
    assert np.linalg.norm(red_centroid(image) - expected) < 0.5


def test_straight_down_the_top_of_the_picture_is_the_nose(marked_map: Path) -> None:
    simulator = CameraSimulator(marked_map, CAMERA)
    marker = np.array([ORIGIN[0] + MARKER_PX[0] * GSD_M, ORIGIN[1] - MARKER_PX[1] * GSD_M])
    lat, lon = at_utm(marker[0], marker[1] - 30.0)  # marker 30 m to the north
    flu_from_optical = np.array([[0.0, -1, 0], [-1, 0, 0], [0, 0, -1]])
    north_up = simulator.render(lat, lon, 100.0, rotation_from_angles(0, 0, math.pi / 2) @ flu_from_optical)
    east_up = simulator.render(lat, lon, 100.0, rotation_from_angles(0, 0, 0) @ flu_from_optical)
    assert red_centroid(north_up) == pytest.approx([319.5, 239.5 - 150], abs=1.0)
    assert red_centroid(east_up) == pytest.approx([319.5 - 150, 239.5], abs=1.0)


def test_fine_stripes_average_out_instead_of_aliasing(tmp_path: Path) -> None:
    image = np.zeros((3000, 3000, 3), np.uint8)
    image[:, ::2] = 200  # stripes of one raster pixel; the camera sees four of them in each of its pixels
    simulator = CameraSimulator(write_raster(tmp_path / "stripes.tif", image, gsd_m=0.1), CAMERA)
    lat, lon = at_utm(ORIGIN[0] + 150, ORIGIN[1] - 150)
    rotation = np.diag([1.0, -1.0, -1.0])
    image = simulator.render(lat, lon, 200.0, rotation)[100:380, 100:540]
    assert abs(float(image.mean()) - 100) < 3
    assert float(image.std()) < 12


def test_degradation_does_what_it_says(marked_map: Path) -> None:
    lat, lon = at_utm(ORIGIN[0] + 300, ORIGIN[1] - 300)
    rotation = np.diag([1.0, -1.0, -1.0])
    clean = CameraSimulator(marked_map, CAMERA).render(lat, lon, 100.0, rotation)

    noisy = CameraSimulator(marked_map, CAMERA, Degradation(noise=6.0), seed=4)
    first, second = (noisy.render(lat, lon, 100.0, rotation) for _ in range(2))
    inner = (clean > 40) & (clean < 215)
    assert np.std((first.astype(float) - clean)[inner]) == pytest.approx(6.0, rel=0.05)
    assert np.any(first != second)
    again = CameraSimulator(marked_map, CAMERA, Degradation(noise=6.0), seed=4).render(lat, lon, 100.0, rotation)
    assert np.array_equal(first, again)

    dark = CameraSimulator(marked_map, CAMERA, Degradation(exposure=0.5)).render(lat, lon, 100.0, rotation)
    assert np.abs(dark.astype(float) - clean / 2.0).max() <= 1.0
    rim = CameraSimulator(marked_map, CAMERA, Degradation(vignetting=0.4)).render(lat, lon, 100.0, rotation)
    assert float(rim[:8, :8].mean() / clean[:8, :8].mean()) == pytest.approx(0.6, abs=0.03)
    assert np.abs(rim[236:244, 316:324].astype(int) - clean[236:244, 316:324]).max() <= 1

    # 20 m/s towards the nose at 100 m for 1/20 s is 5 px along the image's columns, none along its rows.
    simulator = CameraSimulator(marked_map, CAMERA, Degradation(shutter_s=0.05))
    smeared = simulator.render(lat, lon, 100.0, rotation, velocity_enu_m_s=(0.0, 20.0, 0.0))
    assert np.abs(np.diff(smeared[..., 1].astype(int), axis=0)).max() <= 180 / 5 + 6
    assert np.abs(np.diff(smeared[..., 1].astype(int), axis=1)).max() > 60


def test_user_mistakes(marked_map: Path, tmp_path: Path) -> None:
    simulator = CameraSimulator(marked_map, CAMERA)
    lat, lon = at_utm(ORIGIN[0] + 300, ORIGIN[1] - 300)
    with pytest.raises(GeolocError, match="height is -5"):
        simulator.render(lat, lon, -5.0, np.diag([1.0, -1.0, -1.0]))
    with pytest.raises(GeolocError, match="horizon"):
        simulator.render(lat, lon, 100.0, np.eye(3))
    with pytest.raises(GeolocError, match="cannot be read"):
        CameraSimulator(tmp_path / "missing.tif", CAMERA)
    bare = write_raster(tmp_path / "bare.tif", np.zeros((64, 64, 3), np.uint8), crs=None)
    with pytest.raises(GeolocError, match="no coordinate reference system"):
        CameraSimulator(bare, CAMERA)
    with pytest.raises(GeolocError, match="fly lower"):
        Trajectory.over(simulator, "loop", 900.0, 12.0)
    with pytest.raises(GeolocError, match="spiral"):
        Trajectory.over(simulator, "spiral", 80.0, 12.0)


@pytest.mark.parametrize("pattern", ["lawnmower", "loop", "line"])
def test_flights_are_smooth_stay_over_the_map_and_repeat(marked_map: Path, pattern: str) -> None:
    simulator = CameraSimulator(marked_map, CAMERA)
    poses = list(Trajectory.over(simulator, pattern, 100.0, 12.0, seed=7).sample(5.0))
    again = list(Trajectory.over(simulator, pattern, 100.0, 12.0, seed=7).sample(5.0))
    assert [(p.lat_deg, p.lon_deg, p.height_m) for p in poses] == [(p.lat_deg, p.lon_deg, p.height_m) for p in again]

    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True)
    east, north = to_utm.transform([p.lon_deg for p in poses], [p.lat_deg for p in poses])
    track = np.stack([east, north, [p.height_m for p in poses]], axis=1)
    assert np.all(track[:, :2] > np.array([ORIGIN[0], ORIGIN[1] - SIZE_PX * GSD_M]) + 60)
    assert np.all(track[:, :2] < np.array([ORIGIN[0] + SIZE_PX * GSD_M, ORIGIN[1]]) - 60)

    moved = np.diff(track, axis=0) * 5.0
    speed = np.linalg.norm(moved, axis=1)
    assert speed.max() < 12.8
    assert np.median(speed) > 5
    claimed = np.array([p.velocity_enu_m_s for p in poses])
    assert np.abs((claimed[1:] + claimed[:-1]) / 2 - moved)[3:-3].max() < 1.0
    tilt = [math.degrees(math.acos(-p.rotation_enu_from_optical[2, 2])) for p in poses]
    assert max(tilt) < 20
    assert np.median(tilt) > 1
    # Attitude is continuous and its rate is the stated one.
    for before, after in itertools.pairwise(poses[10:60]):
        turn = after.rotation_enu_from_optical @ before.rotation_enu_from_optical.T
        vector = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2 * 5.0
        middle = (np.array(before.angular_velocity_enu_rad_s) + after.angular_velocity_enu_rad_s) / 2
        assert np.linalg.norm(vector - middle) < 0.25


def test_recorded_attitude_and_height_have_the_asked_error(marked_map: Path) -> None:
    simulator = CameraSimulator(marked_map, CAMERA)
    poses = list(Trajectory.over(simulator, "lawnmower", 80.0, 5.0, seed=1).sample(1.0))
    exact = SensorNoise(0.0, 0.0, 0.0)
    rotation, height_m = exact.record(poses[3])
    assert rotation == pytest.approx(poses[3].rotation_enu_from_optical)
    assert height_m == poses[3].height_m

    tilts, heights = [], []
    for seed in range(12):
        noise = SensorNoise(2.0, 0.0, 0.05, seed)
        for pose in poses:
            rotation, height_m = noise.record(pose)
            turn = rotation @ pose.rotation_enu_from_optical.T
            tilts.append(math.degrees(math.acos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
            heights.append(height_m / pose.height_m - 1)
    assert math.sqrt(np.mean(np.square(tilts))) == pytest.approx(2.0 * math.sqrt(2), rel=0.15)
    assert float(np.std(heights)) == pytest.approx(0.05, rel=0.15)


def test_command_writes_a_flight_that_opens(marked_map: Path, tmp_path: Path) -> None:
    command = ["sim", "flight", str(marked_map), "--out", str(tmp_path / "flight"), "--pattern", "line"]
    assert main([*command, "--height-m", "90", "--duration-s", "5", "--start-s", "4", "--seed", "3"]) == 0

    flight = Flight.open(tmp_path / "flight")
    assert len(flight) == 11
    frame = flight[6]
    assert frame.truth is not None
    assert frame.image is not None
    assert frame.rotation_enu_from_optical is not None
    assert frame.stamp_s == pytest.approx(7.0)
    clean = CameraSimulator(flight.map_path, frame.camera).render(
        frame.truth.lat_deg, frame.truth.lon_deg, frame.height_m, frame.rotation_enu_from_optical
    )
    correlation = np.corrcoef(clean[..., 1].ravel(), frame.image[..., 1].ravel())[0, 1]
    assert correlation > 0.9


def test_typical_camera_keeps_up(marked_map: Path) -> None:
    """20 Hz in under 30 % of a core is 15 ms; the bound here is loose, for a busy machine."""
    simulator = CameraSimulator(marked_map, CAMERA, TYPICAL)
    trajectory = Trajectory.over(simulator, "loop", 100.0, 12.0)
    poses = list(trajectory.sample(20.0, 20.0, 2.0))
    simulator.render_pose(poses[0])
    start_s = time.process_time()
    for pose in poses:
        simulator.render_pose(pose)
    assert (time.process_time() - start_s) / len(poses) < 0.045
