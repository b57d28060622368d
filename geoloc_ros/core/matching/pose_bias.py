# SPDX-License-Identifier: Apache-2.0
"""What is constantly wrong with the vehicle's pose: heading, height and the camera's mount, learned from alignments."""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np

from geoloc_models.drl.alignment import Alignment
from geoloc_ros.core.geometry.rectify import view_centre_m
from geoloc_ros.core.geometry.rotations import rotation_from_vector
from geoloc_ros.core.matching.frame_view import camera_rotation
from geoloc_ros.core.matching.settings import PoseSettings
from geoloc_ros.core.recording.frame import Frame, with_heading

GATE2 = 18.47
"""Squared Mahalanobis distance above which a residual is an outlier: chi^2 of 4 degrees of freedom at 0.999."""
FRAMES_ALIKE = 3.0
"""Frames that follow each other see nearly the same ground and err alike: so many count as one."""
SOUND_MOUNT_DEG = 0.05
"""Error of a calibrated mount, roll or pitch (1 sigma)."""
MOUNT_ODDS = 1000.0
"""Odds from which a mount is taken to be off and is corrected."""
OUTLIERS = 5
"""Consecutive outliers that agree with each other show that the learned bias is wrong."""


@dataclass(frozen=True)
class PoseBias:
    """Slowly varying errors of what the vehicle reports about itself.

    heading_rad: to be added to the reported heading, clockwise seen from above. log_height_scale: the true height is
    exp(log_height_scale) times the reported one. boresight_rad: (x, y) of the small rotation in the optical frame that
    the mount lacks: R_enu_from_optical(true) = R(reported) exp([x, y, 0]). covariance: (4, 4) in this order.
    """

    heading_rad: float
    log_height_scale: float
    boresight_rad: tuple[float, float]
    covariance: np.ndarray

    def corrected(self, frame: Frame) -> Frame:
        """The frame with heading, height and mount corrected; a frame without an attitude has no mount to correct."""
        rotation = frame.rotation_enu_from_optical
        if rotation is not None:
            rotation = rotation @ rotation_from_vector(np.array([*self.boresight_rad, 0.0]))
        frame = replace(
            frame, rotation_enu_from_optical=rotation, height_m=frame.height_m * math.exp(self.log_height_scale)
        )
        return with_heading(frame, math.degrees(self.heading_rad))


class _RandomWalk:
    """Kalman filter of [heading_rad, log_height_scale, boresight x, boresight y]; starts at zero with `prior`, one
    standard deviation each. An entry whose prior is 0 stays at zero.
    """

    def __init__(self, prior: np.ndarray, drift: np.ndarray, bound: np.ndarray) -> None:
        self._prior, self._bound = prior, bound
        self._drift = np.where(prior > 0, drift, 0.0)
        self.state = np.zeros(4)
        self.covariance = np.diag(prior**2)

    def predict(self, elapsed_s: float) -> None:
        self.widen(self._drift**2 * elapsed_s)

    def forget(self) -> None:
        """Set the uncertainty back to that before anything was learned."""
        self.widen(self._prior**2)

    def widen(self, variance: np.ndarray) -> None:
        """Add variances, and shrink what then exceeds the prior to the prior."""
        self.covariance = self.covariance + np.diag(variance)
        sigma = np.sqrt(np.diag(self.covariance))
        shrink = np.minimum(1.0, self._prior / np.maximum(sigma, 1e-300))
        self.covariance *= np.outer(shrink, shrink)

    def innovation(self, seen: "_Residual", applied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a frame that was corrected by `applied`: what this walk did not expect, and its covariance."""
        unexpected = seen.residual - seen.by_bias @ (self.state - applied)
        return unexpected, seen.by_bias @ self.covariance @ seen.by_bias.T + seen.covariance

    def update(self, seen: "_Residual", applied: np.ndarray) -> None:
        unexpected, spread = self.innovation(seen, applied)
        gain = np.linalg.solve(spread, seen.by_bias @ self.covariance).T
        self.state = np.clip(self.state + gain @ unexpected, -self._bound, self._bound)
        # Joseph's form keeps the covariance symmetric and positive.
        keep = np.eye(4) - gain @ seen.by_bias
        self.covariance = keep @ self.covariance @ keep.T + gain @ seen.covariance @ gain.T


@dataclass(frozen=True)
class _Residual:
    """What an alignment still found wrong with a corrected frame: [heading_rad, log_scale, tilt_per_px], its covariance
    with the frame's attitude noise (4, 4), and its dependence on the bias (4, 4)."""

    residual: np.ndarray
    covariance: np.ndarray
    by_bias: np.ndarray


class PoseBiasFilter:
    """The bias as a random walk, under two hypotheses: the mount is as calibrated, or it is off.

    A view shows its own tilt to a degree only, so a mount that is right is not corrected by what single views say of
    it: the boresight stays at zero until the views together show, at MOUNT_ODDS, that the mount is off. bias: the
    current one, all zero with the settings' widths at the start. A width of 0 keeps its entry at zero.
    """

    def __init__(self, settings: PoseSettings) -> None:
        self._settings = settings
        s, degree = settings, math.radians(1.0)
        mount = min(SOUND_MOUNT_DEG, s.bias_boresight_deg), s.bias_boresight_deg
        drift = np.array([s.drift_heading_deg_s, s.drift_height_share_s, *[s.drift_boresight_deg_s] * 2])
        height = math.log1p(s.max_height_share)
        bound = np.array([s.max_heading_deg * degree, height, *[s.max_boresight_deg * degree] * 2])
        unit = np.array([degree, 1.0, degree, degree])
        self._sound, self._off = (
            _RandomWalk(np.array([s.bias_heading_deg, s.bias_height_share, own, own]) * unit, drift * unit, bound)
            for own in mount
        )
        self._log_odds_off = 0.0
        self._stamp_s = math.nan
        self._outliers: list[_Residual] = []

    @property
    def _believed(self) -> _RandomWalk:
        return self._off if self._log_odds_off > math.log(MOUNT_ODDS) else self._sound

    @property
    def bias(self) -> PoseBias:
        """What has been learned up to now."""
        heading, scale, x, y = self._believed.state.tolist()
        return PoseBias(heading, scale, (x, y), self._believed.covariance.copy())

    def copy(self) -> "PoseBiasFilter":
        """A filter that goes on from here on its own."""
        return copy.deepcopy(self)

    def corrected(self, frame: Frame) -> Frame:
        """The frame without the bias learned up to now."""
        return self.bias.corrected(frame)

    def predict(self, stamp_s: float) -> None:
        """Let the bias drift until stamp_s; its uncertainty never exceeds that before anything was learned."""
        elapsed_s = stamp_s - self._stamp_s
        self._stamp_s = stamp_s
        if elapsed_s > 0:
            for walk in (self._sound, self._off):
                walk.predict(elapsed_s)

    def distance2(self, frame: Frame, alignment: Alignment, gsd_m: float) -> float:
        """Squared Mahalanobis distance of a residual from what is expected, 4 degrees of freedom; arguments as of
        `update`."""
        return self._distance2(self._measured(frame, alignment, gsd_m))

    def update(self, frame: Frame, alignment: Alignment, gsd_m: float) -> None:
        """Take in what an alignment still found wrong with a corrected frame, whose view had gsd_m metres per pixel.

        An outlier is left out. OUTLIERS consecutive ones that agree in heading and height set the uncertainty back to
        that before anything was learned, and the last of them is taken in.
        """
        seen = self._measured(frame, alignment, gsd_m)
        if self._distance2(seen) > GATE2 and not self._relearns(seen):
            return
        self._outliers.clear()
        applied = self._believed.state.copy()
        walks = self._sound, self._off
        sound, off = (_log_likelihood(*walk.innovation(seen, applied)) for walk in walks)
        most = 2 * math.log(MOUNT_ODDS)
        self._log_odds_off = float(np.clip(self._log_odds_off + off - sound, -most, most))
        for walk in walks:
            walk.update(seen, applied)

    def pointing_covariance(self, frame: Frame, offset_m: np.ndarray, settings: PoseSettings) -> np.ndarray:
        """`pointing_covariance` of the current bias."""
        return pointing_covariance(self.bias, frame, offset_m, settings)

    def _measured(self, frame: Frame, alignment: Alignment, gsd_m: float) -> _Residual:
        by_rotation, by_bias = residual_by_pose(frame, gsd_m)
        noise = by_rotation[:, :2] * attitude_sigma_rad(frame, self._settings)
        residual = np.array([alignment.heading_rad, alignment.log_scale, *alignment.tilt_per_px])
        return _Residual(residual, FRAMES_ALIKE * alignment.covariance[2:, 2:] + noise @ noise.T, by_bias)

    def _distance2(self, seen: _Residual) -> float:
        """Under the hypothesis that expects it more."""
        innovations = (walk.innovation(seen, self._believed.state) for walk in (self._sound, self._off))
        return min(float(unexpected @ np.linalg.solve(spread, unexpected)) for unexpected, spread in innovations)

    def _relearns(self, seen: _Residual) -> bool:
        """Whether this outlier and those before it show that the bias has changed."""
        if self._outliers:
            before = self._outliers[-1]
            change = (seen.residual - before.residual)[:2]
            if change @ np.linalg.solve((seen.covariance + before.covariance)[:2, :2], change) > GATE2:
                self._outliers.clear()
        self._outliers.append(seen)
        if len(self._outliers) < OUTLIERS:
            return False
        for walk in (self._sound, self._off):
            walk.forget()
        return True


def _log_likelihood(unexpected: np.ndarray, spread: np.ndarray) -> float:
    """Of an innovation, up to a constant."""
    return float(-0.5 * (unexpected @ np.linalg.solve(spread, unexpected) + np.linalg.slogdet(spread)[1]))


def residual_by_pose(frame: Frame, gsd_m: float) -> tuple[np.ndarray, np.ndarray]:
    """How [heading_rad, log_scale, tilt_per_px] of an alignment depend on small errors of the frame's pose.

    Returns (4, 3) by a rotation w of the camera in ENU, rad, true R = exp(w) R, and (4, 4) by the bias that the frame
    still has. Without an attitude the boresight's columns are zero.

    A ray that meets the ground at p (metres from the nadir point, z = -h) becomes (p, -h) + w x (p, -h) and meets it at
        p' = p + h n + w_z J p + (n . p) p / h   with n = (-w_y, w_x), J p = (-p_y, p_x),
    to first order in w. With p = c + q, c the view's centre and q the ground point relative to it, the part linear in q
        w_z J q + ((n . c) q + (n . q) c) / h
    shows as a turn, a scale and a shear. Of c n^T / h the antisymmetric part is a turn by (c_y n_x - c_x n_y) / 2h
    counter-clockwise, and half of its trace a scale, so an alignment measures
        heading = -w_z - (c_y n_x - c_x n_y) / 2h,  log_scale = log height scale + 3 (n . c) / 2h,
    while the shear remains in its residuals. The quadratic part (n . q) q / h gives the tilt: for a pixel (x east, y
    south) of gsd_m, tilt_per_px = (n_x, -n_y) gsd_m / h.
    """
    rotation, h = camera_rotation(frame), frame.height_m
    cx, cy = view_centre_m(frame.camera, rotation, h) / h
    by_nadir = np.array([[-cy / 2, cx / 2], [1.5 * cx, 1.5 * cy], [gsd_m / h, 0.0], [0.0, -gsd_m / h]])
    by_rotation = np.column_stack([by_nadir[:, 1], -by_nadir[:, 0], [-1.0, 0.0, 0.0, 0.0]])
    return by_rotation, by_rotation @ _rotation_by_bias(frame) + np.outer([0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0])


def pointing_covariance(bias: PoseBias, frame: Frame, offset_m: np.ndarray, settings: PoseSettings) -> np.ndarray:
    """(2, 2) what the bias's uncertainty and the frame's attitude noise add to the vehicle's position, ENU m^2.

    frame: corrected. offset_m: the view's centre from the vehicle's nadir point, east and north.
    """
    by_rotation, by_bias = offset_by_pose(frame, offset_m)
    noise = by_rotation[:, :2] * attitude_sigma_rad(frame, settings)
    return by_bias @ bias.covariance @ by_bias.T + noise @ noise.T


def offset_by_pose(frame: Frame, offset_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How the view's centre, offset_m from the vehicle's nadir point, moves with small errors of the frame's pose.

    Returns (2, 3) by a rotation of the camera in ENU and (2, 4) by the bias, as `residual_by_pose` does; east and
    north, m. With its terms, a rotation w moves c by h n + (n . c) c / h + w_z J c, and a log height scale by c.
    """
    h = frame.height_m
    east, north = offset_m
    by_nadir = h * np.eye(2) + np.outer(offset_m, offset_m) / h
    by_rotation = np.column_stack([by_nadir[:, 1], -by_nadir[:, 0], [-north, east]])
    by_bias = by_rotation @ _rotation_by_bias(frame)
    by_bias[:, 1] += offset_m
    return by_rotation, by_bias


def attitude_sigma_rad(frame: Frame, settings: PoseSettings) -> float:
    """Error of roll and pitch that varies from frame to frame (1 sigma)."""
    level = frame.rotation_enu_from_optical is None
    return math.radians(settings.sigma_nadir_deg if level else settings.sigma_attitude_deg)


def _rotation_by_bias(frame: Frame) -> np.ndarray:
    """(3, 4): the rotation in ENU that corrects a frame with this bias."""
    by_bias = np.zeros((3, 4))
    by_bias[2, 0] = -1.0  # clockwise
    if frame.rotation_enu_from_optical is not None:
        by_bias[:, 2:] = frame.rotation_enu_from_optical[:, :2]
    return by_bias
