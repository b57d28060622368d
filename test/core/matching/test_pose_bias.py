# SPDX-License-Identifier: Apache-2.0
"""The pose bias: what an alignment shows of it, checked against rays of cameras that really turned, and its filter."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rectify import sampled_at
from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN
from geoloc_ros.core.matching.pose_bias import PoseBias, attitude_sigma_rad, pointing_covariance, residual_by_pose
from geoloc_ros.core.matching.settings import PoseSettings
from geoloc_ros.core.recording.frame import Frame

CAMERA = CameraModel(640, 480, np.array([[500.0, 0, 310], [0, 510.0, 250], [0, 0, 1]]))
HEIGHT_M, GSD_M, SIZE_PX = 120.0, 0.5, 160
SIGMA = np.array([0.02, 0.01, 4e-5, 4e-5])
SETTINGS = replace(PoseSettings(), sigma_attitude_deg=0.5)
STILL = replace(SETTINGS, drift_heading_deg_s=0.0, drift_height_share_s=0.0, drift_boresight_deg_s=0.0)


def attitude(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """(3, 3) ENU from the optical frame of a camera looking down, tilted with its vehicle; yaw counter-clockwise."""
    return Rotation.from_euler("ZYX", [yaw_deg, pitch_deg, roll_deg], degrees=True).as_matrix() @ FLU_FROM_OPTICAL_DOWN


def reported(rotation: np.ndarray | None, height_m: float = HEIGHT_M, heading_deg: float = 0.0) -> Frame:
    return Frame(None, 0.0, rotation, height_m, CAMERA, heading_deg=heading_deg)


def on_the_ground(pixels: np.ndarray, rotation: np.ndarray, height_m: float) -> np.ndarray:
    """(n, 2) east and north of the camera where the rays of (n, 2) pixels meet the ground."""
    rays = np.column_stack([(pixels - CAMERA.matrix[:2, 2]) / np.diag(CAMERA.matrix)[:2], np.ones(len(pixels))])
    rays = rays @ rotation.T
    return rays[:, :2] * (-height_m / rays[:, 2:])


def aligned(assumed: Frame, rotation: np.ndarray, height_m: float) -> tuple[np.ndarray, np.ndarray]:
    """What a perfect alignment finds in the view of a frame: [heading_rad, log_scale, tilt_per_px], and by how much the
    view's centre, east and north in metres, lies beside where the assumed pose places it.
    """
    assert assumed.rotation_enu_from_optical is not None
    image = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    view = sampled_at(image, CAMERA, assumed.rotation_enu_from_optical, assumed.height_m, GSD_M, SIZE_PX)
    ground = on_the_ground(np.stack([view.u, view.v], axis=-1).reshape(-1, 2).astype(float), rotation, height_m)
    shown = (ground - view.centre_m) / GSD_M * [1, -1]  # map pixels, y south
    row, column = np.mgrid[:SIZE_PX, :SIZE_PX].reshape(2, -1) + 0.5 - SIZE_PX / 2
    zero, one = np.zeros_like(row), np.ones_like(row)
    # x' = a x - b y, y' = b x + a y: a turn from x to y, clockwise in an image.
    by_x = np.column_stack([one, zero, column, -row, column * column, row * column])
    by_y = np.column_stack([zero, one, row, column, column * row, row * row])
    x, y, a, b, tilt_x, tilt_y = np.linalg.lstsq(np.vstack([by_x, by_y]), shown.T.ravel(), rcond=None)[0]
    scale = math.hypot(a, b)
    return np.array([math.atan2(b, a), math.log(scale), tilt_x / scale, tilt_y / scale]), np.array([x, -y]) * GSD_M


ATTITUDES = [(0.0, 0.0, 0.0), (70.0, 3.0, -4.0), (-130.0, -25.0, 10.0), (20.0, 5.0, 30.0)]


@pytest.mark.parametrize("angles_deg", ATTITUDES)
@pytest.mark.parametrize("axis", range(4), ids=["heading", "height", "boresight x", "boresight y"])
def test_an_alignment_shows_each_bias_as_derived(angles_deg: tuple[float, float, float], axis: int) -> None:
    assumed = reported(attitude(*angles_deg))
    step = 1e-3
    truth = PoseBias(*(step * (axis == 0), step * (axis == 1), (step * (axis == 2), step * (axis == 3))), np.eye(4))
    real = truth.corrected(assumed)
    assert real.rotation_enu_from_optical is not None
    found, _ = aligned(assumed, real.rotation_enu_from_optical, real.height_m)
    derived = residual_by_pose(assumed, GSD_M)[1][:, axis] * step
    unit = np.array([1.0, 1.0, GSD_M / HEIGHT_M, GSD_M / HEIGHT_M]) * step
    np.testing.assert_allclose(found / unit, derived / unit, atol=0.03)


@pytest.mark.parametrize("angles_deg", ATTITUDES)
def test_pointing_covariance_is_how_the_fix_moves(angles_deg: tuple[float, float, float]) -> None:
    """Against finite differences: the view's centre is known, the vehicle is at the centre minus its offset."""
    assumed = reported(attitude(*angles_deg))
    assert assumed.rotation_enu_from_optical is not None
    centre = np.array([[(CAMERA.width - 1) / 2, (CAMERA.height - 1) / 2]])
    offset = on_the_ground(centre, assumed.rotation_enu_from_optical, HEIGHT_M)[0]
    step = 1e-5
    moves = []
    for axis in range(4):
        heading, scale, x, y = (step * np.eye(4)[axis]).tolist()
        real = PoseBias(heading, scale, (x, y), np.eye(4)).corrected(assumed)
        assert real.rotation_enu_from_optical is not None
        moves.append((on_the_ground(centre, real.rotation_enu_from_optical, real.height_m)[0] - offset) / step)
    jacobian = np.array(moves).T
    root = np.random.default_rng(0).normal(size=(4, 4))
    covariance = root @ root.T
    exact = replace(SETTINGS, sigma_attitude_deg=0.0)
    bias = PoseBias(0.0, 0.0, (0.0, 0.0), covariance)
    want = jacobian @ covariance @ jacobian.T
    np.testing.assert_allclose(pointing_covariance(bias, assumed, offset, exact), want, rtol=2e-3, atol=1e-2)
    # An unknown rotation about the optical axis does not move its own ground point: the axes of the frame's own noise.
    bias = PoseBias(0.0, 0.0, (0.0, 0.0), np.zeros((4, 4)))
    noise = pointing_covariance(bias, assumed, offset, SETTINGS)
    reach = 1 + float(offset @ offset) / HEIGHT_M**2
    across, along = np.sqrt(np.linalg.eigvalsh(noise)) / (HEIGHT_M * math.radians(0.5))
    assert (across, along) == pytest.approx((1.0, reach))


@pytest.mark.parametrize("bias", [(0.2, 0.1, 0.03, -0.02), (-0.3, -0.15, -0.05, 0.04)])
def test_correcting_is_what_undoes_the_bias(bias: tuple[float, float, float, float]) -> None:
    heading, scale, x, y = bias
    truth = attitude(40.0, 4.0, -3.0)
    turn = Rotation.from_rotvec([0.0, 0.0, -heading])  # clockwise from above
    mounted = turn.inv().as_matrix() @ truth @ Rotation.from_rotvec([-x, -y, 0.0]).as_matrix()
    seen = replace(reported(mounted, HEIGHT_M / math.exp(scale)), velocity_enu_m_s=(3.0, 4.0))
    corrected = PoseBias(heading, scale, (x, y), np.eye(4)).corrected(seen)
    np.testing.assert_allclose(corrected.rotation_enu_from_optical, truth, atol=1e-12)
    assert corrected.height_m == pytest.approx(HEIGHT_M)
    np.testing.assert_allclose(corrected.velocity_enu_m_s, turn.apply([3.0, 4.0, 0.0])[:2])


def test_without_an_attitude_heading_and_height_are_corrected() -> None:
    corrected = PoseBias(math.radians(10), 0.1, (0.1, 0.1), np.eye(4)).corrected(reported(None, heading_deg=20.0))
    assert corrected.rotation_enu_from_optical is None
    assert corrected.heading_deg == pytest.approx(30.0)
    assert corrected.height_m == pytest.approx(HEIGHT_M * math.exp(0.1))
    assert not residual_by_pose(corrected, GSD_M)[1][:, 2:].any()
    assert attitude_sigma_rad(corrected, SETTINGS) == math.radians(SETTINGS.sigma_nadir_deg)
