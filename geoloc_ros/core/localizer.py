# SPDX-License-Identifier: Apache-2.0
"""From camera frames to positions: rectify, crop the map, match, gate, filter. No ROS here."""

from __future__ import annotations

import enum
import math
import time
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.camera import RectifiedView, footprint_m, nadir_rotation, rectify
from geoloc_ros.core.flight import Frame
from geoloc_ros.core.geodesy import LocalEnu
from geoloc_ros.core.maps import CropStatus, MapCrop, MapSource
from geoloc_ros.core.tracker import Track, Tracker


class State(enum.IntEnum):
    """What the localizer is doing; the numbers are those of msg/LocalizerStatus.msg."""

    UNINITIALIZED = 0
    RELOCALIZING = 1
    TRACKING = 2
    LOST = 3


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True)
class LocalizerSettings:
    """All thresholds. Each is a parameter of the node under the same name."""

    min_peak: float = _setting(
        0.5, "least probability mass around the peak, given the track, for a fix, 0..1"
    )
    min_support: float = _setting(0.25, "least probability mass around that peak without the track, 0..1")
    prior_scale: float = _setting(2.0, "how much wider than the track's own the prior on the heatmap is")
    min_prior_m: float = _setting(15.0, "least standard deviation of the prior on the heatmap, m")
    min_peak_ratio: float = _setting(3.0, "least ratio of the peak over the second mode for a fix")
    min_coverage: float = _setting(0.5, "least share of the search map that must hold map data, 0..1")
    min_view_coverage: float = _setting(
        0.6, "least share of the rectified view that the camera really saw, 0..1"
    )
    gate_sigma: float = _setting(
        4.0, "a fix farther than this from the prediction is refused, standard deviations"
    )
    confirm_frames: int = _setting(
        3, "fixes that must agree before they count, at a start and after a long gap"
    )
    min_start_peak: float = _setting(0.8, "as min_peak, while no track is confirmed, 0..1")
    confirm_sigma_m: float = _setting(
        50.0, "position uncertainty beyond which fixes must be confirmed anew, m"
    )
    lost_after_s: float = _setting(20.0, "time without an accepted fix after which the track is lost, s")
    lost_sigma_m: float = _setting(150.0, "position uncertainty beyond which the track is lost, m (1 sigma)")
    search_sigma: float = _setting(3.0, "half-width of the search around the prediction, standard deviations")
    min_search_m: float = _setting(20.0, "least half-width of the search around the prediction, m")
    max_search_px: int = _setting(
        768, "largest side of the search map, px; beyond it the ground sample distance grows"
    )
    sigma_acceleration_m_s2: float = _setting(1.5, "unknown acceleration of the vehicle, m/s^2 (1 sigma)")
    sigma_speed_m_s: float = _setting(10.0, "unknown speed at a new prior, m/s (1 sigma per axis)")
    sigma_odometry_m_s: float = _setting(0.5, "error of the odometry's velocity, m/s (1 sigma per axis)")
    sigma_attitude_deg: float = _setting(
        1.0, "error of roll and pitch when the IMU gives them, degrees (1 sigma)"
    )
    sigma_nadir_deg: float = _setting(
        5.0, "error of roll and pitch when the camera is assumed level, degrees (1 sigma)"
    )
    sigma_height_share: float = _setting(0.03, "error of the height above ground, share of it (1 sigma)")
    sigma_map_m: float = _setting(1.0, "error of the map's georeference, m (1 sigma per axis)")

    def __post_init__(self) -> None:
        """GeolocError for a value that no flight could be located with."""
        for setting in fields(self):
            number = getattr(self, setting.name)
            # Without a spread of its own the prior on the heatmap would be a point.
            least = {"confirm_frames": 1, "max_search_px": 1, "min_prior_m": 0.1}.get(setting.name, 0)
            most = 1.0 if setting.name in _SHARES else math.inf
            if not (math.isfinite(number) and least <= number <= most):
                limit = f"{least} to {most:g}" if math.isfinite(most) else f"{least} or more"
                raise GeolocError(f"{setting.name} is {number}; it must be {limit}")


_SHARES = frozenset({"min_peak", "min_support", "min_coverage", "min_view_coverage", "min_start_peak"})


@dataclass(frozen=True)
class Estimate:
    """What one frame said.

    lat_deg, lon_deg, covariance_enu_m2 (2, 2): the frame's own fix (the vehicle, not the picture's centre; while
    TRACKING the heatmap's posterior given the track), NaN when there is none. `valid` is True only for a fix that
    passed every gate; `reason` says in words why it did not. filtered: the track after this frame and without fixes
    that wait for confirmation, None without a track. latencies_ms: rectify, crop, network, post, total.
    """

    stamp_s: float
    state: State
    valid: bool
    reason: str
    lat_deg: float
    lon_deg: float
    covariance_enu_m2: np.ndarray
    filtered: Track | None
    heatmap: Heatmap | None
    crop: MapCrop | None
    view: RectifiedView | None
    search_size_m: float
    latencies_ms: dict[str, float]


@dataclass(frozen=True)
class Match:
    """One frame against one crop: the vehicle's position and its covariance in ENU, m^2, no gate passed yet.

    support: probability mass that the network alone sees at the place, 0..1.
    """

    lat_deg: float
    lon_deg: float
    covariance_enu_m2: np.ndarray
    heatmap: Heatmap
    support: float
    crop: MapCrop
    view: RectifiedView
    latencies_ms: dict[str, float]


class Refused(Exception):
    """This frame gives no fix, and why; what was already there comes along for the debug pictures.

    contradicts: the frame was clear, but places the vehicle elsewhere than the track does.
    """

    def __init__(
        self,
        reason: str,
        crop: MapCrop | None = None,
        view: RectifiedView | None = None,
        contradicts: bool = False,
    ) -> None:
        super().__init__(reason)
        self.crop, self.view, self.contradicts = crop, view, contradicts


def match_frame(
    frame: Frame,
    centre: tuple[float, float],
    half_width_m: float,
    engine: Engine,
    map_source: MapSource,
    settings: LocalizerSettings,
    whole_views: bool = True,
    expected_enu_m2: np.ndarray | None = None,
) -> Match:
    """Find a frame in the square of +-half_width_m around `centre` (lat_deg, lon_deg), where the vehicle is expected.

    whole_views: the crop is larger by the view, so that a view centred on the edge of the square still lies on the
    map; otherwise the square is all there is. expected_enu_m2: (2, 2) covariance of the vehicle about `centre`, m^2;
    with it the heatmap is the posterior given that expectation. Raises Refused with the reason when no position can
    come of it.
    """
    stages: dict[str, float] = {}
    clock = time.perf_counter()
    view, tilt_sigma = _rectified(frame, engine, half_width_m, settings, whole_views)
    clock = _lap(stages, "rectify", clock)
    offset = np.array(view.centre_offset_enu_m)
    size_px = _search_px(half_width_m, view, engine, whole_views)
    crop = map_source.crop(*_moved(centre, offset), size_px * view.gsd_m, size_px)
    clock = _lap(stages, "crop", clock)
    if crop.status not in (CropStatus.OK, CropStatus.PARTLY_COVERED):
        raise Refused(f"no map: {crop.text}", crop, view)
    if crop.coverage < settings.min_coverage:
        raise Refused(
            f"the map covers {crop.coverage:.0%} of the search, the limit is {settings.min_coverage:.0%}",
            crop,
            view,
        )
    try:
        heatmap = engine.infer(view.image, crop.image)
    except GeolocError as error:
        raise Refused(str(error), crop, view) from error
    clock = _lap(stages, "network", clock)
    flip = np.diag([1.0, -1.0])  # pixel y points south
    alone = heatmap
    if expected_enu_m2 is not None:
        middle = (crop.image.shape[1] / 2, crop.image.shape[0] / 2)
        heatmap = alone.given(middle, flip @ expected_enu_m2 @ flip / view.gsd_m**2)
    # The heatmap places the view's centre; the vehicle is where its nadir is.
    lat_deg, lon_deg = _moved(crop.pixel_to_geodetic(*heatmap.peak_xy_px), -offset)
    # The gates ask whether the peak is the right one; past them its own spread is what remains.
    covariance = flip @ heatmap.peak_covariance_px @ flip * view.gsd_m**2
    covariance = covariance + _pointing_covariance(frame.height_m, offset, tilt_sigma, settings)
    _lap(stages, "post", clock)
    support = alone.mass_near(heatmap.peak_xy_px)
    return Match(lat_deg, lon_deg, covariance, heatmap, support, crop, view, stages)


def _rectified(
    frame: Frame, engine: Engine, half_width_m: float, settings: LocalizerSettings, whole_views: bool
) -> tuple[RectifiedView, float]:
    """The north-up view at the ground sample distance that suits camera, network and search; tilt error in radians."""
    if frame.problem or frame.image is None:
        raise Refused(frame.problem or "the frame has no picture")
    if frame.rotation_enu_from_optical is None:
        rotation, tilt_sigma = nadir_rotation(frame.heading_deg), math.radians(settings.sigma_nadir_deg)
    else:
        rotation, tilt_sigma = frame.rotation_enu_from_optical, math.radians(settings.sigma_attitude_deg)
    try:
        finest, coarsest = engine.gsd_range_m
        gsd_m = footprint_m(frame.camera, rotation, frame.height_m) / engine.query_px
        gsd_m = float(np.clip(gsd_m, finest, coarsest))
        searched_px = settings.max_search_px - (engine.query_px if whole_views else 0)
        seen_m = gsd_m * engine.query_px
        gsd_m = max(gsd_m, 2 * half_width_m / searched_px)
        view = rectify(frame.image, frame.camera, rotation, frame.height_m, gsd_m, engine.query_px)
    except GeolocError as error:
        raise Refused(str(error)) from error
    if view.coverage < settings.min_view_coverage:
        view_m = engine.query_px * gsd_m
        remedy = "fly higher or use a wider lens"
        if view_m > seen_m:
            remedy = f"a search of ±{half_width_m:.0f} m needs such a view; give a nearer prior or fly higher"
        raise Refused(
            f"the camera saw {view.coverage:.0%} of the {view_m:.0f} m view, the limit is "
            f"{settings.min_view_coverage:.0%}: {remedy}",
            view=view,
        )
    return view, tilt_sigma


def _search_px(half_width_m: float, view: RectifiedView, engine: Engine, whole_views: bool) -> int:
    side_px = 2 * half_width_m / view.gsd_m + (engine.query_px if whole_views else 0)
    if not whole_views:
        # The square is given: never larger than asked, never smaller than the query.
        return max(round(side_px), engine.query_px)
    return math.ceil(side_px / engine.map_multiple_px) * engine.map_multiple_px


def _pointing_covariance(
    height_m: float, offset_m: np.ndarray, tilt_sigma: float, settings: LocalizerSettings
) -> np.ndarray:
    """What attitude, height and map errors add to the vehicle's position, ENU m^2."""
    # d(h tan t)/dt = h / cos^2 t; the view's centre lies at h tan t.
    reach2 = float(offset_m @ offset_m) / height_m**2
    tilt = (height_m * (1 + reach2) * tilt_sigma) ** 2
    scale = np.outer(offset_m, offset_m) * settings.sigma_height_share**2
    return np.eye(2) * (tilt + settings.sigma_map_m**2) + scale


def _moved(place: tuple[float, float], offset_enu_m: np.ndarray) -> tuple[float, float]:
    lat_deg, lon_deg = LocalEnu(*place).to_geodetic(float(offset_enu_m[0]), float(offset_enu_m[1]))
    return float(lat_deg), float(lon_deg)


def _lap(stages: dict[str, float], stage: str, start: float) -> float:
    now = time.perf_counter()
    stages[stage] = (now - start) * 1e3
    return now


class Localizer:
    """Follows a vehicle over a map, one frame at a time."""

    def __init__(
        self, engine: Engine, map_source: MapSource, settings: LocalizerSettings | None = None
    ) -> None:
        self._engine = engine
        self._map = map_source
        self._settings = settings or LocalizerSettings()
        if self._settings.max_search_px <= engine.query_px:
            raise GeolocError(
                f"max_search_px is {self._settings.max_search_px}; it must be more than the view's {engine.query_px} px"
            )
        self._tracker: Tracker | None = None
        # The track without the fixes that still wait for confirmation, None when none does.
        self._before: Tracker | None = None
        self._confirmed = 0
        self._fixed_s = math.nan  # when a fix was last accepted, or the search began
        self._lost_sigma_m = math.inf
        self._stamp_s = -math.inf
        self.state = State.UNINITIALIZED

    def set_prior(
        self, lat_deg: float, lon_deg: float, radius_m: float, stamp_s: float | None = None
    ) -> None:
        """Start anew within radius_m (3 sigma) of a place, known at stamp_s (None: at the next frame)."""
        if not (math.isfinite(radius_m) and radius_m > 0):
            raise GeolocError(f"radius of the prior is {radius_m} m; it must be positive")
        s = self._settings
        self._tracker, self._before = (
            Tracker(lat_deg, lon_deg, radius_m / 3, s.sigma_speed_m_s, stamp_s),
            None,
        )
        # A prior may be wider than what a track may grow to.
        self._lost_sigma_m = max(s.lost_sigma_m, radius_m / 2)
        self._confirmed, self._fixed_s = 0, math.nan
        self.state = State.RELOCALIZING

    def process(self, frame: Frame) -> Estimate:
        """Locate one frame. A bad frame gives an invalid estimate with the reason; nothing is raised."""
        start = time.perf_counter()
        if not math.isfinite(frame.stamp_s):
            return self._estimate(frame, f"stamp is {frame.stamp_s} s, no moment in time: stamp each picture")
        if frame.stamp_s < self._stamp_s:
            back_s = self._stamp_s - frame.stamp_s
            self._tracker = self._before = None
            self.state, self._stamp_s = State.UNINITIALIZED, frame.stamp_s
            return self._estimate(
                frame, f"the clock went back by {back_s:.2f} s: the track is forgotten, set a new prior"
            )
        repeated, self._stamp_s = frame.stamp_s == self._stamp_s, frame.stamp_s
        if self._tracker is None:
            return self._estimate(frame, "no prior yet: set one, or provide a valid gnss")
        if self.state == State.LOST:
            return self._estimate(frame, "lost: set a new prior, or provide a valid gnss")
        if repeated:
            # One picture twice would confirm itself.
            return self._estimate(
                frame, f"stamp {frame.stamp_s:.3f} s is that of the last frame: stamp each picture anew"
            )
        match: Match | None = None
        half_width_m = math.nan
        try:
            self._predict(frame)
            sigma_m = self._tracker.sigma_m
            half_width_m = max(self._settings.min_search_m, self._settings.search_sigma * sigma_m)
            match = match_frame(
                frame,
                self._tracker.place,
                half_width_m,
                self._engine,
                self._map,
                self._settings,
                expected_enu_m2=self._expected(),
            )
            self._gate(match)
        except (Refused, GeolocError) as error:
            # A GeolocError of its own: the track has left the Earth.
            refused = error if isinstance(error, Refused) else Refused(str(error))
            reason = self._miss(refused, frame.stamp_s)
            crop, view = (match.crop, match.view) if match else (refused.crop, refused.view)
            return self._estimate(frame, reason, match, half_width_m, start, crop, view)
        reason = self._accept(match, frame.stamp_s)
        return self._estimate(frame, reason, match, half_width_m, start, match.crop, match.view)

    def _predict(self, frame: Frame) -> None:
        assert self._tracker is not None
        s = self._settings
        for tracker in (self._tracker, self._before):
            if tracker is None:
                continue
            tracker.predict(frame.stamp_s, s.sigma_acceleration_m_s2)
            if frame.velocity_enu_m_s is not None and np.isfinite(frame.velocity_enu_m_s).all():
                tracker.observe_velocity(frame.velocity_enu_m_s, s.sigma_odometry_m_s)
        if math.isnan(self._fixed_s):
            self._fixed_s = frame.stamp_s
        if self._tracker.sigma_m > s.confirm_sigma_m:
            # So much ground may hold a look-alike: one clear peak is not enough, and to lie somewhere in it is no
            # agreement with the fixes before.
            self.state, self._confirmed = State.RELOCALIZING, 0

    def _expected(self) -> np.ndarray | None:
        """Covariance of the predicted position, widened: a track that is a little wrong must not pull the heatmap.

        None while no track is confirmed: a prior says where to search, and a wrong one must not make its own evidence.
        """
        assert self._tracker is not None
        s = self._settings
        if self.state != State.TRACKING:
            return None
        covariance = self._tracker.track().covariance[:2, :2]
        return np.asarray(covariance * s.prior_scale**2 + np.eye(2) * s.min_prior_m**2)

    def _gate(self, match: Match) -> None:
        """Raise Refused unless the heatmap is clear and agrees with the prediction."""
        s, heatmap = self._settings, match.heatmap
        assert self._tracker is not None
        least = s.min_peak if self.state == State.TRACKING else s.min_start_peak
        if heatmap.peak < least:
            raise Refused(
                f"ambiguous: {heatmap.peak:.0%} of the probability lies at the peak, the limit is {least:.0%}"
            )
        if heatmap.peak_ratio < s.min_peak_ratio:
            raise Refused(
                f"ambiguous: the best place beats the second {heatmap.peak_ratio:.1f}:1, the limit {s.min_peak_ratio:g}"
            )
        if match.support < s.min_support:
            raise Refused(
                f"ambiguous: without the track only {match.support:.0%} of the probability lies there, the limit is "
                f"{s.min_support:.0%}"
            )
        distance = math.sqrt(self._tracker.distance2(match.lat_deg, match.lon_deg, match.covariance_enu_m2))
        if distance > s.gate_sigma:
            raise Refused(
                f"off the track: {distance:.1f} standard deviations from the prediction, the limit is {s.gate_sigma:g}",
                contradicts=True,
            )

    def _accept(self, match: Match, stamp_s: float) -> str:
        """Fuse; returns the reason why it is not yet a fix, or nothing."""
        assert self._tracker is not None
        if self.state == State.RELOCALIZING and self._before is None:
            self._before = self._tracker.copy()
        self._tracker.update(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
        self._confirmed += 1
        if self._confirmed < self._settings.confirm_frames:
            return f"confirming: {self._confirmed} of {self._settings.confirm_frames} fixes agree"
        self.state, self._before, self._fixed_s = State.TRACKING, None, stamp_s
        self._lost_sigma_m = self._settings.lost_sigma_m
        return ""

    def _miss(self, refused: Refused, stamp_s: float) -> str:
        """The reason of a refused frame; undoes what was not confirmed, and loses the track in the end."""
        assert self._tracker is not None
        if refused.contradicts and self._before is not None:
            # Two places contradict each other and neither is confirmed: start over from before both.
            self._tracker, self._before, self._confirmed = self._before, None, 0
        silent_s = stamp_s - self._fixed_s
        if silent_s > self._settings.lost_after_s or self._tracker.sigma_m > self._lost_sigma_m:
            self.state = State.LOST
            return f"{refused}; lost after {silent_s:.1f} s without a fix: set a new prior, or provide a valid gnss"
        return str(refused)

    def _estimate(
        self,
        frame: Frame,
        reason: str,
        match: Match | None = None,
        half_width_m: float = math.nan,
        start: float | None = None,
        crop: MapCrop | None = None,
        view: RectifiedView | None = None,
    ) -> Estimate:
        latencies = dict(match.latencies_ms) if match else {}
        # An unconfirmed fix must not make the published track look certain.
        track = self._tracker if self._before is None else self._before
        latencies["total"] = 0.0 if start is None else (time.perf_counter() - start) * 1e3
        return Estimate(
            stamp_s=frame.stamp_s,
            state=self.state,
            valid=not reason,
            reason=reason,
            lat_deg=match.lat_deg if match else math.nan,
            lon_deg=match.lon_deg if match else math.nan,
            covariance_enu_m2=match.covariance_enu_m2 if match else np.full((2, 2), math.nan),
            filtered=None if track is None or self.state == State.LOST else track.track(),
            heatmap=match.heatmap if match else None,
            crop=crop,
            view=view,
            search_size_m=2 * half_width_m,
            latencies_ms=latencies,
        )
