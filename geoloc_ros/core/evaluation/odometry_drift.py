# SPDX-License-Identifier: Apache-2.0
"""How far odometry drifts on a recording: from images, attitude and height alone, beside two baselines.

After Geiger et al. 2012, "Are we ready for autonomous driving? The KITTI vision benchmark suite", section 3.1: the
error at the end of every stretch of a given length, as a share of that length.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import cv2
import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.geometry.rotations import rotation_from_vector
from geoloc_ros.core.odometry.visual_odometry import VIEW_PX, VisualOdometry, odometry_view
from geoloc_ros.core.recording.frame import Frame, Recording

STRETCH_M = 100.0


class Odometry(Protocol):
    """Something that measures motion: (2,) east and north metres from the view before; None where it shows none."""

    def step(self, view: RectifiedView, stamp_s: float) -> np.ndarray | None:
        """The displacement since the view before."""


@dataclass
class Own:
    """The localizer's; refused: how often for which reason."""

    refused: Counter[str] = field(default_factory=Counter)
    _odometry: VisualOdometry = field(default_factory=VisualOdometry)
    _last_s: float = math.nan

    def step(self, view: RectifiedView, stamp_s: float) -> np.ndarray | None:
        """The displacement since the view before."""
        increment, before_s, self._last_s = self._odometry.process(view, stamp_s), self._last_s, stamp_s
        if increment.reason:
            if not math.isnan(before_s):
                self.refused[increment.reason.partition(":")[0]] += 1
            return None
        return increment.velocity_enu_m_s * (stamp_s - before_s)


class OrbRansac:
    """ORB features of successive views, matched both ways, and RANSAC's similarity (OpenCV), frame by frame."""

    def __init__(self) -> None:
        self._orb = cv2.ORB.create(500, fastThreshold=5)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def step(self, view: RectifiedView, stamp_s: float) -> np.ndarray | None:
        """The displacement since the view before."""
        points, codes = self._orb.detectAndCompute(cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY), None)
        if codes is None:
            return None
        pixels = np.array([point.pt for point in points]) - (VIEW_PX - 1) / 2
        ground_m = np.array(view.centre_offset_enu_m) + pixels * [view.gsd_m, -view.gsd_m]
        before, self._before = self._before, (ground_m, codes)
        if before is None:
            return None
        pairs = np.array([(m.queryIdx, m.trainIdx) for m in self._matcher.match(codes, before[1])])
        if len(pairs) < 3:
            return None
        now_m, then_m = ground_m[pairs[:, 0]], before[0][pairs[:, 1]]
        found, _ = cv2.estimateAffinePartial2D(now_m, then_m, ransacReprojThreshold=3 * view.gsd_m)
        return None if found is None else found[:, 2]


class ConstantVelocity:
    """The vehicle goes on as it began: no image is looked at."""

    def step(self, view: RectifiedView, stamp_s: float) -> np.ndarray | None:
        """None: nothing is measured."""
        return None


@dataclass(frozen=True)
class Drift:
    """Of one odometry: errors at the end of stretches of STRETCH_M and of the whole, percent of the distance flown;
    measured: share of the frames with a motion; ms: processor time of each
    frame, with its view.
    """

    stretches: np.ndarray
    whole: float
    measured: float
    ms: np.ndarray


def measure(recording: Recording, odometry: Odometry, rate_hz: float, attitude_error_deg: float) -> tuple[Drift, float]:
    """The drift and the distance flown, m; frames without a motion go on at the last velocity, the first at the true.

    rate_hz: at most so many frames a second. attitude_error_deg: tilts the reported camera constantly, half in roll and
    half in pitch. GeolocError for a recording of fewer than 3 frames with truth.
    """
    truth_m: list[np.ndarray] = []
    placed_m: list[np.ndarray] = []
    ms: list[float] = []
    measured = 0
    enu: LocalEnu | None = None
    velocity_m_s, last_s = np.full(2, math.nan), math.nan
    for frame in _thinned(recording, rate_hz):
        assert frame.truth is not None
        enu = enu or LocalEnu(frame.truth.lat_deg, frame.truth.lon_deg)
        truth_m.append(np.array(enu.to_enu(frame.truth.lat_deg, frame.truth.lon_deg)))
        moved_m = None
        try:
            start = time.thread_time()
            view = odometry_view(_tilted(frame, attitude_error_deg))
            moved_m = odometry.step(view, frame.stamp_s)
            ms.append((time.thread_time() - start) * 1e3)
        except GeolocError:
            pass  # no image or attitude: as a frame without motion
        elapsed_s, last_s = frame.stamp_s - last_s, frame.stamp_s
        if not placed_m:
            placed_m.append(truth_m[0])
            continue
        if moved_m is not None:
            velocity_m_s, measured = moved_m / elapsed_s, measured + 1
        elif math.isnan(velocity_m_s[0]):
            velocity_m_s = (truth_m[-1] - truth_m[-2]) / elapsed_s
        placed_m.append(placed_m[-1] + velocity_m_s * elapsed_s)
    if len(truth_m) < 3:
        raise GeolocError("fewer than 3 frames with a truth are left: give a longer flight or a higher --rate-hz")
    truth, placed = np.array(truth_m), np.array(placed_m)
    flown_m = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(truth, axis=0), axis=1))])
    whole = 100 * float(np.linalg.norm(placed[-1] - truth[-1])) / max(float(flown_m[-1]), 1e-9)
    drift = Drift(_stretches(truth, placed, flown_m), whole, measured / (len(truth) - 1), np.array(ms))
    return drift, float(flown_m[-1])


def _stretches(truth: np.ndarray, placed: np.ndarray, flown_m: np.ndarray) -> np.ndarray:
    """Percent of the distance, of each stretch of at least STRETCH_M that begins at a frame."""
    starts = np.flatnonzero(flown_m + STRETCH_M <= flown_m[-1])
    ends = np.searchsorted(flown_m, flown_m[starts] + STRETCH_M)
    off = placed - truth
    return np.asarray(100 * np.linalg.norm(off[ends] - off[starts], axis=1) / (flown_m[ends] - flown_m[starts]))


def _thinned(recording: Recording, rate_hz: float) -> Iterator[Frame]:
    """The frames with a truth, at most rate_hz of them a second."""
    due_s = -math.inf
    for index in range(len(recording)):
        stamp_s = recording.stamp_s(index)
        if stamp_s < due_s - 1e-6 or recording.truth(index) is None:
            continue
        due_s = max(due_s + 1 / rate_hz, stamp_s) if math.isfinite(due_s) else stamp_s + 1 / rate_hz
        yield next(iter(recording.frames(index, index + 1)))


def _tilted(frame: Frame, error_deg: float) -> Frame:
    if error_deg == 0 or frame.rotation_enu_from_optical is None:
        return frame
    tilt = rotation_from_vector(np.radians(error_deg) * np.array([math.sqrt(0.5), math.sqrt(0.5), 0.0]))
    return replace(frame, rotation_enu_from_optical=frame.rotation_enu_from_optical @ tilt)
