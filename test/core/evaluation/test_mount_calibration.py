# SPDX-License-Identifier: Apache-2.0
"""The error of a mount from made flights: found with its standard errors, refused where the evidence is too small."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geoloc_models.drl.alignment import Alignment
from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.mount_calibration import MountCalibration, MountMeasurement, calibrate_mount
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rectify import view_centre_m
from geoloc_ros.core.geometry.rotations import DOWN_XYZW, rotation_from_quaternion
from geoloc_ros.core.matching.pose_bias import PoseBias, residual_by_pose
from geoloc_ros.core.recording.frame import Frame

CAMERA = CameraModel(640, 480, np.array([[500.0, 0, 310], [0, 510.0, 250], [0, 0, 1]]))
HEIGHT_M, GSD_M = 120.0, 0.5
SIGMA = np.array([0.3, 0.3, 0.01, 0.01, 4e-5, 4e-5])
OBLIQUE_XYZW = tuple((Rotation.from_euler("y", -30, degrees=True) * Rotation.from_quat(DOWN_XYZW)).as_quat())
ERROR_DEG = (1.5, -2.0, 4.0)


def flight(
    seed: int = 0,
    frames: int = 80,
    error_deg: tuple[float, float, float] = ERROR_DEG,
    mount_xyzw: tuple[float, ...] = DOWN_XYZW,
    yaws_deg: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0),
    truth: bool = True,
    false_share: float = 0.0,
    noise: float = 1.0,
    scale: float = 1.1,
    shift_m: tuple[float, float] = (0.6, -0.4),
) -> list[MountMeasurement]:
    """Measurements of a vehicle whose mount is turned by error_deg (roll, pitch, yaw about the body's axes)."""
    rng = np.random.default_rng(seed)
    assumed = rotation_from_quaternion(*mount_xyzw)
    mount = Rotation.from_euler("xyz", error_deg, degrees=True).as_matrix() @ assumed
    measured = []
    for index in range(frames):
        yaw_deg = yaws_deg[index * len(yaws_deg) // frames] + rng.normal(0, 2)
        body = Rotation.from_euler("ZYX", [yaw_deg, *rng.normal(0, 2.5, 2)], degrees=True)
        shake = Rotation.from_rotvec(rng.normal(0, math.radians(0.5), 3) * [1, 1, 0])
        real = body.as_matrix() @ mount
        bias = PoseBias(math.radians(-2.0), 0.05, (0.01, 0.0), np.eye(4))
        reported = Frame(None, index, (shake * body).as_matrix() @ assumed, HEIGHT_M / scale, CAMERA)
        frame = bias.corrected(reported)
        assert frame.rotation_enu_from_optical is not None
        turn = Rotation.from_matrix(real @ frame.rotation_enu_from_optical.T).as_rotvec()
        residual = residual_by_pose(frame, GSD_M)[0] @ turn
        residual[1] += math.log(HEIGHT_M / frame.height_m)
        ray = real @ [*CAMERA.centre, 1.0]
        offset = ray[:2] * (-HEIGHT_M / ray[2]) + shift_m
        offset_error = offset - view_centre_m(CAMERA, frame.rotation_enu_from_optical, frame.height_m)
        error = rng.normal(size=6) * SIGMA * noise
        if rng.uniform() < false_share:
            error[:3] += [60.0, -40.0, 0.4]
        found = residual + error[2:]
        covariance = np.diag(SIGMA / [GSD_M, GSD_M, 1, 1, 1, 1]) ** 2
        tilt = (float(found[2]), float(found[3]))
        alignment = Alignment((0.0, 0.0), float(found[0]), float(found[1]), tilt, covariance, 0.9, 50.0)
        place = offset_error + error[:2] if truth else None
        measured.append(MountMeasurement(frame, bias, alignment, GSD_M, place))
    return measured


def apart_deg(found: MountCalibration, mount_xyzw: tuple[float, ...], error_deg: tuple[float, float, float]) -> float:
    """Angle between the mount that was found and the real one."""
    mount = Rotation.from_euler("xyz", error_deg, degrees=True) * Rotation.from_quat(mount_xyzw)
    return math.degrees((mount.inv() * Rotation.from_quat(found.xyzw)).magnitude())


@pytest.mark.parametrize("mount_xyzw", [DOWN_XYZW, OBLIQUE_XYZW], ids=["down", "oblique"])
def test_a_turned_mount_is_found(mount_xyzw: tuple[float, ...]) -> None:
    found = calibrate_mount(flight(mount_xyzw=mount_xyzw), mount_xyzw=mount_xyzw)
    np.testing.assert_allclose(found.angles_deg, ERROR_DEG, atol=0.35)
    assert apart_deg(found, mount_xyzw, ERROR_DEG) < 0.4
    assert max(found.sigma_deg) < 0.3
    assert found.height_scale == pytest.approx(1.1, abs=0.02)
    assert found.map_shift_m == pytest.approx((0.6, -0.4), abs=0.5)
    assert (found.frames, found.outliers) == (80, 0)


def test_standard_errors_are_those_of_repeated_flights() -> None:
    runs = [calibrate_mount(flight(seed)) for seed in range(40)]
    errors = np.array([run.angles_deg for run in runs]) - ERROR_DEG
    ratio = (errors / [run.sigma_deg for run in runs]).std(axis=0)
    assert ((ratio > 0.5) & (ratio < 1.4)).all(), ratio


def test_false_fixes_do_not_turn_the_mount() -> None:
    found = calibrate_mount(flight(false_share=0.1))
    assert apart_deg(found, DOWN_XYZW, ERROR_DEG) < 0.5
    assert 2 <= found.outliers <= 16


def test_a_perfect_mount_stays() -> None:
    found = calibrate_mount(flight(error_deg=(0.0, 0.0, 0.0), scale=1.0, shift_m=(0.0, 0.0)))
    assert np.abs(found.angles_deg).max() < 3.5 * max(found.sigma_deg)


def test_without_true_positions_many_frames_are_needed() -> None:
    with pytest.raises(GeolocError, match=r"leave the mount open.*only perspective shows roll and pitch: record GNSS"):
        calibrate_mount(flight(frames=20, truth=False, noise=3.0))
    found = calibrate_mount(flight(frames=400, truth=False))
    assert found.map_shift_m is None
    assert apart_deg(found, DOWN_XYZW, ERROR_DEG) < 0.6


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"frames": 12}, "only 12 frames could be aligned with the map; a mount needs 20"),
        ({"yaws_deg": (40.0,)}, "nearly one heading.*record a flight with turns"),
        ({"false_share": 0.45}, "frames contradict each other"),
        ({"frames": 24, "noise": 5.0}, "leave the mount open"),
    ],
)
def test_small_evidence_is_refused(made: dict[str, object], message: str) -> None:
    with pytest.raises(GeolocError, match=message):
        calibrate_mount(flight(**made))  # type: ignore[arg-type]
