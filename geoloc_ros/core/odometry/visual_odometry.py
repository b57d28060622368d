# SPDX-License-Identifier: Apache-2.0
"""Visual odometry on the ground plane: how the vehicle moved between views of the same ground.

Corners of a key view are tracked into each new view by pyramidal Lucas-Kanade (Bouguet 2001), from the shift at which
the two views correlate best in phase, and put on the ground in metres. The key view stays until too little of its
ground is left, so that tracking errors of a slow or hovering vehicle do not add up frame by frame.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import RectifiedView, footprint_m, rectify
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.frame import Frame

VIEW_PX = 256
"""Side of the view that odometry makes for itself."""
CORNERS = 200
"""Corners that are followed at most; SPACING_PX apart at least."""
SPACING_PX = 7
MIN_CORNERS = 12
"""Corners that must move as one; fewer agree by chance in images of different ground."""
MIN_AGREEING, MIN_FOUND = 0.3, 0.1
"""Shares of the corners found again, and of all in the common ground, that must move as one."""
MIN_CONTRAST = 1.0
"""Root mean square of the gradient, grey levels per pixel, below which a view has nothing to follow."""
MIN_SHARPNESS = 0.4
"""Gradient relative to that of the key view below which a view is blurred."""
NEW_KEY_SHIFT = 0.15
"""Shift from the key view, share of its side, beyond which the new view replaces it."""
MAX_ELAPSED_S = 10.0
"""Images further apart are not compared."""
INLIER_PX = 3.0
"""Distance of a corner from the common motion up to which it agrees; roofs and relief move differently by parallax."""
RETURN_PX = 0.7
"""Distance from its start up to which a corner that was tracked there and back was tracked well."""
CORNERS_ALIKE = 4.0
"""Neighbouring corners err alike: so many count as one."""
RELIEF = 0.015
"""Error of a displacement by relief and height, share of it (1 sigma)."""
SIGMA_TURN_RAD, SIGMA_LOG_SCALE = math.radians(1.0), 0.02
"""Change of the errors of reported heading and height between two views (1 sigma)."""
FREE_TURN_RAD = math.pi
"""That of a heading that nothing reports."""
MAX_GSD_RATIO = 1.05
"""Views whose pixels differ more are brought to one ground sample distance first."""

_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.01)


@dataclass(frozen=True)
class Increment:
    """How the vehicle moved from since_s to stamp_s, s.

    displacement_enu_m: (2,) east, north. turn_rad: what the reported heading missed of the vehicle's turn, clockwise
    seen from above; log_scale: what the reported height missed of its change. covariance: (4, 4) of the three in this
    order, from the residuals; noise of the attitude is not in it (`attitude_covariance`). corners: how many agree.
    reason: why no motion was seen, and then all of them are NaN; empty otherwise.
    """

    since_s: float
    stamp_s: float
    displacement_enu_m: np.ndarray
    turn_rad: float
    log_scale: float
    covariance: np.ndarray
    corners: int
    reason: str = ""

    @property
    def velocity_enu_m_s(self) -> np.ndarray:
        """(2,) mean velocity, m/s."""
        return self.displacement_enu_m / (self.stamp_s - self.since_s)


class NoMotion(Exception):
    """Why two views show no motion."""


class VisualOdometry:
    """Follows the ground through the successive views of one vehicle."""

    def __init__(self) -> None:
        self._key: _Key | None = None
        self._spare: _Key | None = None  # the last view that did not follow from the key view
        self._newest: np.ndarray | None = None
        self._velocity_m_s = np.full(2, math.nan)

    def process(self, view: RectifiedView, stamp_s: float, heading_is_reported: bool = True) -> Increment:
        """The motion since the last view that showed one, or the reason why this one shows none.

        heading_is_reported: False if `view` is north up by an assumed heading, so that a turn shows in it in full.
        """
        new = _View.of(view, stamp_s)
        sigma_turn_rad = SIGMA_TURN_RAD if heading_is_reported else FREE_TURN_RAD
        before_s = self._key.last_s if self._key else math.nan
        if self._newest is not None and np.array_equal(self._newest, new.grey):
            return _none(before_s, stamp_s, "the image is that of the frame before")
        self._newest = new.grey
        if new.contrast < MIN_CONTRAST:
            return _none(
                before_s,
                stamp_s,
                f"too little texture: the contrast is {new.contrast:.1f} grey levels a "
                f"pixel, the limit is {MIN_CONTRAST:g}",
            )
        reason = "the first image"
        for key in (self._key, self._spare):
            if key is None:
                continue
            try:
                motion = key.motion_to(new, self._velocity_m_s, sigma_turn_rad)
            except NoMotion as refused:
                reason = reason if key is self._spare else str(refused)
                continue
            increment = key.advance(motion, stamp_s)
            self._velocity_m_s = increment.velocity_enu_m_s
            moved_m = math.hypot(*motion.state[:2])
            self._key = _Key(new) if moved_m > NEW_KEY_SHIFT * key.view.side_m else key
            self._spare = None
            return increment
        # One bad image must not end the chain: the key view is kept until another takes over.
        if self._key is None:
            self._key = _Key(new)
        else:
            self._spare = _Key(new)
        return _none(before_s, stamp_s, reason)


def odometry_view(frame: Frame) -> RectifiedView:
    """A view for `VisualOdometry` of all that the camera sees in a square; GeolocError as `rectify` raises it."""
    rotation = frame.rotation_enu_from_optical
    rotation = nadir_rotation(frame.heading_deg) if rotation is None else rotation
    if frame.image is None:
        raise GeolocError(frame.problem or "the frame has no image")
    gsd_m = footprint_m(frame.camera, rotation, frame.height_m) / VIEW_PX
    return rectify(frame.image, frame.camera, rotation, frame.height_m, gsd_m, VIEW_PX)


@dataclass(frozen=True)
class _View:
    stamp_s: float
    grey: np.ndarray  # (n, n) uint8
    gsd_m: float
    centre_m: np.ndarray  # (2,) of the view from the vehicle's nadir point, east and north
    contrast: float

    @classmethod
    def of(cls, view: RectifiedView, stamp_s: float) -> "_View":
        grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
        smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)  # noise of the sensor is no texture
        gradient = np.hypot(
            cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=0.125)
        )
        contrast = math.sqrt(float(np.mean(gradient**2)))
        return cls(stamp_s, grey, view.gsd_m, np.array(view.centre_offset_enu_m), contrast)

    @property
    def side_m(self) -> float:
        return self.gsd_m * self.grey.shape[0]

    def ground_m(self, pixels: np.ndarray) -> np.ndarray:
        """(n, 2) columns and rows to east and north of the vehicle's nadir point."""
        from_centre = pixels - (np.array(self.grey.shape[::-1]) - 1) / 2
        return self.centre_m + from_centre * [self.gsd_m, -self.gsd_m]

    def like(self, other: "_View") -> "_View":
        """This view in pixels of the other's size."""
        ratio = other.gsd_m / self.gsd_m
        if other.grey.shape == self.grey.shape and 1 / MAX_GSD_RATIO <= ratio <= MAX_GSD_RATIO:
            return self
        ours, theirs = (self.grey.shape[0] - 1) / 2, (other.grey.shape[0] - 1) / 2
        to_ours = np.array([[ratio, 0.0, ours - ratio * theirs], [0.0, ratio, ours - ratio * theirs]])
        grey = cv2.warpAffine(self.grey, to_ours, other.grey.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        return replace(self, grey=grey, gsd_m=other.gsd_m)


@dataclass(frozen=True)
class _Motion:
    """[east, north, turn, log scale] from the key view, its covariance, and how many corners agree."""

    state: np.ndarray
    covariance: np.ndarray
    corners: int


class _Key:
    """A view whose corners later views follow."""

    def __init__(self, view: _View) -> None:
        self.view, self.last_s = view, view.stamp_s
        self._last = _Motion(np.zeros(4), np.zeros((4, 4)), 0)
        corners = cv2.goodFeaturesToTrack(view.grey, CORNERS, 0.01, SPACING_PX, blockSize=5)
        self._corners = np.empty((0, 2), np.float32) if corners is None else corners[:, 0]

    def advance(self, motion: _Motion, stamp_s: float) -> Increment:
        """The motion since the last one from this view. Errors of the view itself cancel: at rest nothing drifts."""
        change, covariance = motion.state - self._last.state, motion.covariance + self._last.covariance
        covariance[:2, :2] += RELIEF**2 * (change[:2] @ change[:2]) * np.eye(2)
        since_s, self.last_s, self._last = self.last_s, stamp_s, motion
        return Increment(since_s, stamp_s, change[:2], float(change[2]), float(change[3]), covariance, motion.corners)

    def motion_to(self, new: _View, velocity_m_s: np.ndarray, sigma_turn_rad: float) -> _Motion:
        """The motion from this view to another; NoMotion with the reason where they show none.

        velocity_m_s: (2,) the last one known, NaN for none.
        """
        elapsed_s = new.stamp_s - self.view.stamp_s
        if elapsed_s > MAX_ELAPSED_S:
            raise NoMotion(f"images too far apart: {elapsed_s:.1f} s, the limit is {MAX_ELAPSED_S:g} s")
        if new.contrast < MIN_SHARPNESS * self.view.contrast:
            raise NoMotion(f"blurred: the image has {new.contrast / self.view.contrast:.0%} of the contrast before")
        if len(self._corners) < MIN_CORNERS:
            raise NoMotion(f"too little texture: {len(self._corners)} corners, the limit is {MIN_CORNERS}")
        new = new.like(self.view)
        try:
            return self._followed(new, _coarse_shift_px(self.view.grey, new.grey), sigma_turn_rad)
        except NoMotion:
            if not np.isfinite(velocity_m_s).all():
                raise
        # Phase correlation has missed; a vehicle that has gone on as before has not.
        moved_m = self.view.centre_m - new.centre_m - velocity_m_s * elapsed_s
        return self._followed(new, moved_m / [self.view.gsd_m, -self.view.gsd_m], sigma_turn_rad)

    def _followed(self, new: _View, shift_px: np.ndarray, sigma_turn_rad: float) -> _Motion:
        """The motion to a view in which the ground lies shift_px further, columns and rows."""
        start, end, visible = self._tracked(new, shift_px.astype(np.float32))
        least = max(MIN_CORNERS, math.ceil(MIN_FOUND * visible))
        if len(start) < least:
            raise NoMotion(f"too little common ground: {len(start)} corners were found again, the limit is {least}")
        return _fitted(self.view.ground_m(start), new.ground_m(end), self.view.gsd_m, sigma_turn_rad, least)

    def _tracked(self, new: _View, shift_px: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """(n, 2) corners of the key view, where they lie in the new one, and how many could lie there."""
        size = np.array(self.view.grey.shape[::-1], np.float32)
        guess = self._corners + shift_px
        inside = np.all((guess > 0) & (guess < size - 1), axis=1)
        start, guess = self._corners[inside], guess[inside]
        if len(start) == 0:
            return start, guess, 0
        # The flow changes the guesses that it is given.
        flow = partial(
            cv2.calcOpticalFlowPyrLK,
            winSize=(15, 15),
            maxLevel=2,
            criteria=_CRITERIA,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )
        end, there, _ = flow(self.view.grey, new.grey, start, guess.copy())
        back, returned, _ = flow(new.grey, self.view.grey, end, start.copy())
        good = (there[:, 0] > 0) & (returned[:, 0] > 0) & (np.hypot(*(back - start).T) < RETURN_PX)
        return start[good], end[good], len(start)


def _coarse_shift_px(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(2,) columns and rows by which the ground has moved from one view to the next, by phase correlation."""
    side = before.shape[0] // 2
    first, second = (
        cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) for grey in (before, after)
    )
    shift, _ = cv2.phaseCorrelate(first, second, cv2.createHanningWindow((side, side), cv2.CV_32F))
    return np.array(shift, np.float32) * (before.shape[0] / side)


def _fitted(before_m: np.ndarray, after_m: np.ndarray, gsd_m: float, sigma_turn_rad: float, least: int) -> _Motion:
    """The motion that most corners share; before_m, after_m: (n, 2) where they lie from the vehicle's nadir point.

    A vehicle that moved by d, whose reported heading missed a clockwise turn t and whose height a scale e^s, sees the
    ground point a at b, with a = d + e^s T b and T the clockwise turn by t. Fewer than `least` corners agree by chance.
    """
    similarity, agree = cv2.estimateAffinePartial2D(
        after_m, before_m, method=cv2.RANSAC, ransacReprojThreshold=INLIER_PX * gsd_m, maxIters=500, confidence=0.995
    )
    agreeing = 0 if similarity is None else int(agree.sum())
    if agreeing < max(least, MIN_AGREEING * len(before_m)):
        raise NoMotion(f"too little common ground: {agreeing} of {len(before_m)} corners move as one")
    inliers = agree[:, 0] > 0
    a, b = before_m[inliers], after_m[inliers]
    prior = np.diag([0.0, 0.0, sigma_turn_rad**-2, SIGMA_LOG_SCALE**-2])
    (cos, _, east), (minus_sin, _, north) = similarity
    state = np.array([east, north, math.atan2(-minus_sin, cos), math.log(math.hypot(cos, minus_sin))])
    for _ in range(4):
        turn = math.exp(state[3]) * np.array(
            [[math.cos(state[2]), math.sin(state[2])], [-math.sin(state[2]), math.cos(state[2])]]
        )
        turned = b @ turn.T
        residual = a - state[:2] - turned
        distance = np.hypot(*residual.T)
        sigma_m = max(1.4826 * float(np.median(distance)) / 1.1774, 0.05 * gsd_m)
        weight = 1.0 / np.maximum(1.0, distance / (1.5 * sigma_m))  # Huber
        by_state = np.zeros((len(a), 2, 4))
        by_state[:, 0, 0] = by_state[:, 1, 1] = 1.0
        by_state[:, 0, 2], by_state[:, 1, 2] = turned[:, 1], -turned[:, 0]
        by_state[:, :, 3] = turned
        weighted = by_state * (weight / sigma_m**2 / CORNERS_ALIKE)[:, None, None]
        information = np.einsum("nij,nik->jk", weighted, by_state) + prior
        state = state + np.linalg.solve(information, np.einsum("nij,ni->j", weighted, residual) - prior @ state)
    return _Motion(state, np.linalg.inv(information), agreeing)


def _none(since_s: float, stamp_s: float, reason: str) -> Increment:
    nothing = np.full((4, 4), math.nan)
    return Increment(since_s, stamp_s, nothing[0, :2], math.nan, math.nan, nothing, 0, reason)
