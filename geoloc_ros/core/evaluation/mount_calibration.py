# SPDX-License-Identifier: Apache-2.0
"""The error of the camera's mount, from all frames of a recording at once.

Every aligned frame measures heading, height and tilt that its pose lacks (`pose_bias.residual_by_pose`); where the true
position is known it also measures the direction to the ground point at the image's centre, which is what determines
roll and pitch. One robust least-squares fit (Huber 1964) gives the constant errors that explain all frames best.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from geoloc_models.drl.alignment import Alignment
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import view_centre_m
from geoloc_ros.core.geometry.rotations import DOWN_XYZW, quaternion_from_rotation, rotation_from_quaternion
from geoloc_ros.core.geometry.rotations import rotation_from_vector as turn
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.matching.pose_bias import PoseBias, attitude_sigma_rad, offset_by_pose, residual_by_pose
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.frame import Frame

MIN_FRAMES = 20
MIN_HEADINGS_DEG = 30.0
"""Circular standard deviation of the headings below which a shift of the map looks like a tilt of the mount."""
MAX_SIGMA_DEG = 0.5
"""Standard error of roll, pitch or yaw above which nothing is reported."""
MAX_OUTLIERS = 0.3
"""Share of frames that may contradict the others."""
MAX_SPREAD = 5.0
"""Scatter of the frames that is accepted, as a multiple of the expected noise."""
PRIOR_M = 30.0
"""Radius (3 sigma) of a prior position."""
BLOCKS = 10
"""Consecutive frames see much the same ground: standard errors come from how so many blocks of them scatter."""


@dataclass(frozen=True)
class MountMeasurement:
    """What one frame shows.

    frame: as it was aligned, that is corrected by `bias`, without its image. gsd_m: of the aligned view.
    offset_error_m: (2,) east and north by which the place of the view's centre on the map, seen from the true position,
    lies beside where the frame's pose places it; None without a true position.
    """

    frame: Frame
    bias: PoseBias
    alignment: Alignment
    gsd_m: float
    offset_error_m: np.ndarray | None


@dataclass(frozen=True)
class MountCalibration:
    """The error of a mount.

    angles_deg: roll, pitch, yaw by which the camera is turned against the mount that was assumed, about the body's axes
    x forward, y left, z up; sigma_deg: their standard errors. xyzw: the corrected mount, optical frame to FLU body.
    height_scale: true height over reported height, height_sigma its standard error. map_shift_m: east and north by
    which the map lies beside the true positions, None without any. frames: that were used, and how many of them
    contradict the result.
    """

    angles_deg: tuple[float, float, float]
    sigma_deg: tuple[float, float, float]
    xyzw: tuple[float, float, float, float]
    height_scale: float
    height_sigma: float
    map_shift_m: tuple[float, float] | None
    frames: int
    outliers: int


def measure_mount(
    frames: Iterable[Frame],
    localizer: Localizer,
    prior: tuple[float, float] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[MountMeasurement]:
    """What the frames of a recording show, tracked with this localizer.

    It gets its priors from the true positions, or the first from `prior` (lat_deg, lon_deg). advance: called after each
    frame.
    """
    found = []
    # An estimate's bias has taken in its frame; the view was made with that of the frame before.
    nothing = before = PoseBias(0.0, 0.0, (0.0, 0.0), np.zeros((4, 4)))
    for frame in frames:
        place = prior if frame.truth is None else (frame.truth.lat_deg, frame.truth.lon_deg)
        if localizer.needs_prior and place is not None:
            localizer.set_prior(*place, PRIOR_M)
            prior = None
        estimate = localizer.process(frame)
        measured = _measured(frame, estimate, before)
        if measured is not None:
            found.append(measured)
        before = estimate.bias or nothing
        advance()
    return found


def _measured(frame: Frame, estimate: Estimate, bias: PoseBias) -> MountMeasurement | None:
    """What the answer to a frame shows of the mount; None where nothing was aligned or the frame has no attitude."""
    alignment, crop, view = estimate.alignment, estimate.crop, estimate.view
    if not estimate.valid or alignment is None or crop is None or view is None:
        return None
    corrected = bias.corrected(replace(frame, image=None, encoded=None))
    if corrected.rotation_enu_from_optical is None:
        return None
    error = None
    if frame.truth is not None:
        enu = LocalEnu(frame.truth.lat_deg, frame.truth.lon_deg)
        place = np.array(enu.to_enu(*crop.pixel_to_geodetic(*alignment.centre_xy_px)))
        error = place - view_centre_m(corrected.camera, corrected.rotation_enu_from_optical, corrected.height_m)
    return MountMeasurement(corrected, bias, alignment, view.gsd_m, error)


def calibrate_mount(
    measurements: Sequence[MountMeasurement],
    settings: LocalizerSettings | None = None,
    mount_xyzw: Sequence[float] = DOWN_XYZW,
) -> MountCalibration:
    """The error of the assumed mount that explains the measurements.

    GeolocError, with what to do, if they are too few, contradict each other or leave an angle open.
    """
    settings = settings or LocalizerSettings()
    known = [one for one in measurements if one.offset_error_m is not None]
    with_truth = len(known) >= MIN_FRAMES
    used = known if with_truth else list(measurements)
    if len(used) < MIN_FRAMES:
        raise GeolocError(
            f"only {len(used)} frames could be aligned with the map; a mount needs {MIN_FRAMES} or more: check map, "
            "height and attitude with `geoloc evaluate`, or record a longer flight"
        )
    spread_deg = _headings_deg(used)
    if with_truth and spread_deg < MIN_HEADINGS_DEG:
        raise GeolocError(
            f"all frames have nearly one heading (within {spread_deg:.0f}°): a shift of the map would look like a tilt "
            "of the mount; record a flight with turns"
        )
    fit = _fit([_equations(one, settings, with_truth) for one in used], settings.map.sigma_m)
    if fit.outliers > MAX_OUTLIERS * len(used) or fit.spread > MAX_SPREAD:
        raise GeolocError(
            f"the frames contradict each other: they scatter {fit.spread:.1f} times as widely as expected, and "
            f"{fit.outliers} of {len(used)} are still further off. The mount moves (a gimbal?), or the clocks of "
            "images and attitude differ"
        )
    mount = rotation_from_quaternion(*mount_xyzw)
    heading, scale, x, y = fit.state[:4].tolist()
    corrected = turn(np.array([0.0, 0.0, -heading])) @ mount @ turn(np.array([x, y, 0.0]))
    # Small rotations about the body's axes: the boresight's two, seen from the body, and the heading, clockwise.
    by_state = np.column_stack([[0.0, 0.0, -1.0], np.zeros(3), mount[:, 0], mount[:, 1]])
    sigma_deg = np.degrees(np.sqrt(np.diag(by_state @ fit.covariance[:4, :4] @ by_state.T)))
    if sigma_deg.max() > MAX_SIGMA_DEG:
        texts = ", ".join(f"{name} ±{one:.2f}°" for name, one in zip(("roll", "pitch", "yaw"), sigma_deg, strict=True))
        missing = "" if with_truth else "; without true positions only perspective shows roll and pitch: record GNSS"
        raise GeolocError(
            f"{len(used)} frames leave the mount open ({texts}, at most ±{MAX_SIGMA_DEG}° is reported){missing}, "
            "or record a longer flight"
        )
    return MountCalibration(
        angles_deg=_angles_deg(corrected @ mount.T),
        sigma_deg=(float(sigma_deg[0]), float(sigma_deg[1]), float(sigma_deg[2])),
        xyzw=quaternion_from_rotation(corrected),
        height_scale=math.exp(scale),
        height_sigma=math.exp(scale) * math.sqrt(fit.covariance[1, 1]),
        map_shift_m=(float(fit.state[4]), float(fit.state[5])) if with_truth else None,
        frames=len(used),
        outliers=fit.outliers,
    )


def _equations(
    one: MountMeasurement, settings: LocalizerSettings, with_truth: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A frame's measurement y = H x + noise of x = [bias, map's shift east and north]: y (n,), H (n, 6), noise (n, n).

    n is 6 with a true position: the offset, m, then [heading, log scale, tilt]; else the last 4.
    """
    assert one.frame.rotation_enu_from_optical is not None
    by_rotation, by_bias = residual_by_pose(one.frame, one.gsd_m)
    centre_m = view_centre_m(one.frame.camera, one.frame.rotation_enu_from_optical, one.frame.height_m)
    offset_by_rotation, offset_by_bias = offset_by_pose(one.frame, centre_m)
    mapping = np.zeros((6, 6))
    mapping[:2, :4], mapping[2:, :4], mapping[:2, 4:] = offset_by_bias, by_bias, np.eye(2)
    unit = np.array([one.gsd_m, -one.gsd_m, 1.0, 1.0, 1.0, 1.0])  # of the map's pixels, y south
    shake = np.vstack([offset_by_rotation, by_rotation])[:, :2] * attitude_sigma_rad(one.frame, settings.pose)
    noise = one.alignment.covariance * np.outer(unit, unit) + shake @ shake.T
    error = np.zeros(2) if one.offset_error_m is None else one.offset_error_m
    a = one.alignment
    measured = np.array([*error, a.heading_rad, a.log_scale, *a.tilt_per_px])
    measured += mapping[:, :4] @ [one.bias.heading_rad, one.bias.log_height_scale, *one.bias.boresight_rad]
    first = 0 if with_truth else 2
    return measured[first:], mapping[first:], noise[first:, first:]


@dataclass(frozen=True)
class _Fit:
    state: np.ndarray  # (6,)
    covariance: np.ndarray  # (6, 6)
    outliers: int
    spread: float  # of the frames, as a multiple of the noise that was expected


def _fit(equations: list[tuple[np.ndarray, np.ndarray, np.ndarray]], map_sigma_m: float) -> _Fit:
    """Huber's estimate by reweighting; the noise is scaled by what the residuals show."""
    # Whiten, so that every squared residual is a chi^2 of n degrees of freedom.
    roots = [np.linalg.cholesky(np.linalg.inv(noise)).T for _, _, noise in equations]
    y = np.array([root @ measured for root, (measured, _, _) in zip(roots, equations, strict=True)])
    h = np.array([root @ mapping for root, (_, mapping, _) in zip(roots, equations, strict=True)])
    typical, usual, most = _CHI2[y.shape[1]]
    # Only the map's shift has a prior; 10 rad keep the solution finite where nothing shows an angle.
    prior = np.diag([0.01] * 4 + [1 / max(map_sigma_m, 1e-3) ** 2] * 2)
    weights, factor = np.ones(len(y)), 1.0
    for _ in range(30):
        normal = np.einsum("k,kni,knj->ij", weights / factor, h, h) + prior
        state = np.linalg.solve(normal, np.einsum("k,kni,kn->i", weights / factor, h, y))
        residual = y - h @ state
        distance2 = (residual**2).sum(1)
        factor = max(1.0, float(np.median(distance2)) / typical)
        weights = np.minimum(1.0, np.sqrt(usual * factor / np.maximum(distance2, 1e-12)))
    scores = np.einsum("k,kni,kn->ki", weights / factor, h, residual)
    blocks = np.array([block.sum(0) for block in np.array_split(scores, min(BLOCKS, len(y)))])
    inverse = np.linalg.inv(normal)
    scatter = inverse @ (blocks.T @ blocks) @ inverse * len(blocks) / (len(blocks) - 1)
    # The larger of the two, entry by entry, with the correlations of the model.
    grow = np.sqrt(np.maximum(1.0, np.diag(scatter) / np.diag(inverse)))
    outliers = int(np.count_nonzero(distance2 > most * factor))
    return _Fit(state, inverse * np.outer(grow, grow), outliers, math.sqrt(factor))


_CHI2 = {4: (3.36, 9.49, 18.47), 6: (5.35, 12.59, 22.46)}
"""Quantiles 0.5, 0.95 and 0.999 of chi^2 by degrees of freedom."""


def _headings_deg(measurements: Sequence[MountMeasurement]) -> float:
    """Circular standard deviation of the directions to which the images' right sides point."""
    rotations = np.array([one.frame.rotation_enu_from_optical for one in measurements])
    right = rotations[:, 0, 0] + 1j * rotations[:, 1, 0]
    length = float(np.abs(np.mean(right / np.maximum(np.abs(right), 1e-9))))
    return math.degrees(math.sqrt(-2.0 * math.log(max(min(length, 1.0), 1e-9))))


def _angles_deg(rotation: np.ndarray) -> tuple[float, float, float]:
    """Roll, pitch, yaw of R = R_z(yaw) R_y(pitch) R_x(roll)."""
    roll = math.atan2(rotation[2, 1], rotation[2, 2])
    pitch = math.asin(float(np.clip(-rotation[2, 0], -1.0, 1.0)))
    yaw = math.atan2(rotation[1, 0], rotation[0, 0])
    return math.degrees(roll), math.degrees(pitch), math.degrees(yaw)
