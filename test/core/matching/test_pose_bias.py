# SPDX-License-Identifier: Apache-2.0
"""The pose bias: what an alignment shows of it, checked against rays of cameras that really turned, and its filter."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geoloc_models.drl.alignment import Alignment
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rectify import sampled_at
from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN
from geoloc_ros.core.matching.pose_bias import (
    FRAMES_ALIKE,
    SOUND_MOUNT_DEG,
    PoseBias,
    PoseBiasFilter,
    attitude_sigma_rad,
    pointing_covariance,
    residual_by_pose,
)
from geoloc_ros.core.matching.settings import PoseSettings
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.motion import Displacement

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
    seen = replace(
        reported(mounted, HEIGHT_M / math.exp(scale)), motion=(Displacement(0.0, 1.0, np.array([3.0, 4.0]), np.eye(2)),)
    )
    corrected = PoseBias(heading, scale, (x, y), np.eye(4)).corrected(seen)
    assert corrected.rotation_enu_from_optical is not None
    np.testing.assert_allclose(corrected.rotation_enu_from_optical, truth, atol=1e-12)
    assert corrected.height_m == pytest.approx(HEIGHT_M)
    np.testing.assert_allclose(corrected.motion[0].enu_m, turn.apply([3.0, 4.0, 0.0])[:2])


def test_without_an_attitude_heading_and_height_are_corrected() -> None:
    corrected = PoseBias(math.radians(10), 0.1, (0.1, 0.1), np.eye(4)).corrected(reported(None, heading_deg=20.0))
    assert corrected.rotation_enu_from_optical is None
    assert corrected.heading_deg == pytest.approx(30.0)
    assert corrected.height_m == pytest.approx(HEIGHT_M * math.exp(0.1))
    assert not residual_by_pose(corrected, GSD_M)[1][:, 2:].any()
    assert attitude_sigma_rad(corrected, SETTINGS) == math.radians(SETTINGS.sigma_nadir_deg)


class Flight:
    """A flight whose reports are wrong by a bias, drawn from the prior or given, and its noisy alignments."""

    def __init__(self, seed: int, settings: PoseSettings = STILL, bias: np.ndarray | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.settings = settings
        self.filter = PoseBiasFilter(settings)
        # Within the bounds, which lie at 2.7 sigma of the height.
        drawn = np.clip(self.rng.normal(size=4), -2.5, 2.5) * np.sqrt(np.diag(self.filter.bias.covariance))
        self.bias = drawn if bias is None else bias
        self.stamp_s = 0.0

    def step(self, outlier: np.ndarray | None = None) -> float:
        """One frame further; the squared distance of its residual."""
        self.stamp_s += 1.0
        truth = attitude(self.rng.uniform(-180, 180), self.rng.normal(0, 4), self.rng.normal(0, 4))
        heading, scale, x, y = self.bias
        shake = Rotation.from_rotvec([*self.rng.normal(size=2) * attitude_sigma_rad(reported(truth), SETTINGS), 0.0])
        mounted = truth @ Rotation.from_rotvec([-x, -y, 0.0]).as_matrix()
        mounted = (Rotation.from_rotvec([0.0, 0.0, heading]) * shake).as_matrix() @ mounted
        self.filter.predict(self.stamp_s)
        frame = self.filter.corrected(reported(mounted, HEIGHT_M / math.exp(scale)))
        assert frame.rotation_enu_from_optical is not None
        turn = Rotation.from_matrix(truth @ frame.rotation_enu_from_optical.T).as_rotvec()
        residual = residual_by_pose(frame, GSD_M)[0] @ turn + self.rng.normal(size=4) * SIGMA
        residual[1] += math.log(HEIGHT_M / frame.height_m)
        if outlier is not None:
            residual = outlier
        tilt = (float(residual[2]), float(residual[3]))
        # The filter takes neighbouring frames to err alike; here each errs on its own, by as much as it allows for.
        covariance = np.diag([1.0, 1.0, *SIGMA**2 / FRAMES_ALIKE])
        alignment = Alignment((0.0, 0.0), float(residual[0]), float(residual[1]), tilt, covariance, 0.9, 50.0)
        distance2 = self.filter.distance2(frame, alignment, GSD_M)
        self.filter.update(frame, alignment, GSD_M)
        return distance2

    @property
    def error(self) -> np.ndarray:
        learned = self.filter.bias
        return np.array([learned.heading_rad, learned.log_height_scale, *learned.boresight_rad]) - self.bias


def test_the_filter_is_consistent_from_the_first_frame_to_the_last() -> None:
    """NEES of 100 flights, 4 degrees of freedom: 400 +- 3 * sqrt(800) in sum; the filter's gate cuts nothing off."""
    nees: dict[int, float] = {1: 0.0, 10: 0.0, 40: 0.0}
    for seed in range(100):
        flight = Flight(seed)
        for frame in range(1, 41):
            flight.step()
            if frame in nees:
                nees[frame] += float(flight.error @ np.linalg.solve(flight.filter.bias.covariance, flight.error))
    for frame, total in nees.items():
        assert 315 < total < 485, (frame, total)


def test_a_heading_of_10_degrees_and_a_height_of_20_percent_are_found() -> None:
    settings = replace(SETTINGS, bias_boresight_deg=1.5)
    flight = Flight(1, settings, np.array([math.radians(-10), math.log(1.2), math.radians(1.5), math.radians(-1)]))
    for _ in range(30):
        flight.step()
    assert np.abs(flight.error[:2]).max() < 0.015
    assert np.degrees(np.abs(flight.error[2:])).max() < 0.6
    sigma = np.sqrt(np.diag(flight.filter.bias.covariance))
    assert (sigma < [0.01, 0.01, 0.01, 0.01]).all()


def test_a_mount_that_is_right_is_not_corrected_by_what_single_views_say() -> None:
    """Over 400 frames whose tilt is seen to half a degree or worse."""
    for seed in range(5):
        flight = Flight(seed, SETTINGS, np.array([0.1, 0.05, 0.0, 0.0]))
        for _ in range(400):
            flight.step()
            assert np.degrees(np.abs(flight.error[2:])).max() < 3 * SOUND_MOUNT_DEG


@pytest.mark.parametrize("off_deg", [(2.0, 0.0), (-3.0, 4.0), (6.0, -6.0)])
def test_a_mount_that_is_off_is_corrected_once_the_views_show_it(off_deg: tuple[float, float]) -> None:
    flight = Flight(7, SETTINGS, np.array([0.0, 0.0, *np.radians(off_deg)]))
    flight.step()
    assert np.degrees(np.abs(flight.filter.bias.boresight_rad)).max() < max(map(abs, off_deg))
    for _ in range(40):
        flight.step()
    assert np.degrees(np.abs(flight.error[2:])).max() < 0.6
    nees = float(flight.error @ np.linalg.solve(flight.filter.bias.covariance, flight.error))
    assert nees < 15


def test_an_outlier_changes_nothing_and_repeated_ones_that_agree_are_believed() -> None:
    flight = Flight(2)
    for _ in range(20):
        assert flight.step() < 40
    before = flight.filter.bias
    for sign in (1, -1, 1, -1, 1, -1, 1, -1):  # they contradict each other
        assert flight.step(outlier=np.array([0.4 * sign, 0.0, 0.0, 0.0])) > 100
    after = flight.filter.bias
    assert (after.heading_rad, after.log_height_scale, after.boresight_rad) == (
        before.heading_rad,
        before.log_height_scale,
        before.boresight_rad,
    )
    flight.step()
    flight.bias = flight.bias + np.array([0.3, 0.0, 0.0, 0.0])  # the compass jumps
    for _ in range(4):
        flight.step()
    assert abs(flight.error[0]) > 0.25
    for _ in range(20):
        flight.step()
    assert abs(flight.error[0]) < 0.02


def test_a_drift_is_followed() -> None:
    settings = replace(SETTINGS, drift_heading_deg_s=0.5)
    flight = Flight(3, settings, np.zeros(4))
    nees = []
    for _ in range(200):
        flight.bias = flight.bias + np.array([math.radians(0.5) * flight.rng.normal(), 0.0, 0.0, 0.0])
        flight.step()
        nees.append(flight.error[0] ** 2 / flight.filter.bias.covariance[0, 0])
    assert 0.5 < np.mean(nees) < 1.6
    assert np.abs(flight.bias[0]) > 3 * abs(flight.error[0])


def test_the_bias_stays_within_its_bounds_and_its_uncertainty_within_the_prior() -> None:
    settings = replace(SETTINGS, max_heading_deg=5.0, max_height_share=0.1, max_boresight_deg=1.0)
    flight = Flight(4, settings, np.array([0.3, 0.3, 0.1, 0.1]))
    for _ in range(30):
        flight.step()
    learned = flight.filter.bias
    assert learned.heading_rad == pytest.approx(math.radians(5.0))
    assert learned.log_height_scale == pytest.approx(math.log(1.1))
    assert np.abs(learned.boresight_rad).max() <= math.radians(1.0)
    flight.filter.predict(1e9)
    s = settings
    prior = np.radians([s.bias_heading_deg, math.degrees(s.bias_height_share), *[s.bias_boresight_deg] * 2])
    assert (np.sqrt(np.diag(flight.filter.bias.covariance)) <= prior * (1 + 1e-9)).all()
    flight.filter.predict(0.0)  # a clock that was set back widens nothing
    assert np.linalg.eigvalsh(flight.filter.bias.covariance)[0] > 0


def test_a_width_of_zero_switches_the_learning_off() -> None:
    off = replace(SETTINGS, bias_heading_deg=0.0, bias_height_share=0.0, bias_boresight_deg=0.0)
    flight = Flight(5, off, np.array([0.05, 0.05, 0.0, 0.0]))
    for _ in range(20):
        flight.step()
    learned = flight.filter.bias
    assert (learned.heading_rad, learned.log_height_scale, learned.boresight_rad) == (0.0, 0.0, (0.0, 0.0))
    assert not learned.covariance.any()


def test_a_copy_goes_on_alone() -> None:
    flight = Flight(6)
    flight.step()
    twin, before = flight.filter.copy(), flight.filter.bias
    flight.step()
    assert twin.bias.heading_rad == before.heading_rad != flight.filter.bias.heading_rad


def test_uncertain_mount_and_height_widen_the_fix_until_they_are_learned() -> None:
    flight = Flight(7)
    oblique = reported(attitude(0.0, 30.0, 0.0))
    offset = np.array([HEIGHT_M * math.tan(math.radians(30.0)), 0.0])
    first = flight.filter.pointing_covariance(oblique, offset, SETTINGS)
    for _ in range(40):
        flight.step()
    last = flight.filter.pointing_covariance(oblique, offset, SETTINGS)
    assert math.sqrt(np.linalg.eigvalsh(first)[-1]) > 3 * math.sqrt(np.linalg.eigvalsh(last)[-1])
    assert math.sqrt(np.linalg.eigvalsh(last)[0]) > HEIGHT_M * math.radians(0.5)
