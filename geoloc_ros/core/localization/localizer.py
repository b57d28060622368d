# SPDX-License-Identifier: Apache-2.0
"""From camera frames to positions: match, gate, filter, and search anew what was lost. No ROS here."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import replace

import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine
from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.localization.track_loss import Doubt
from geoloc_ros.core.maps.cached_crop import CachedCrop
from geoloc_ros.core.maps.crop import MapCrop, MapSource
from geoloc_ros.core.matching.match_frame import Match, Refused, match_frame
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.tracker import Tracker
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.relocalization.gallery import Area
from geoloc_ros.core.relocalization.hypotheses import Hypothesis, with_heading
from geoloc_ros.core.relocalization.relocalizer import Relocalizer


class Localizer:
    """Follows a vehicle over a map, one frame at a time."""

    def __init__(
        self,
        engine: Engine,
        map_source: MapSource,
        settings: LocalizerSettings | None = None,
        relocalizer: Relocalizer | None = None,
    ) -> None:
        """With a relocalizer a start without prior and a lost track search the whole map."""
        self._engine = engine
        self._relocalizer = relocalizer
        self._map = map_source
        self._settings = settings or LocalizerSettings()
        if self._settings.max_search_px <= engine.query_px:
            raise GeolocError(
                f"max_search_px is {self._settings.max_search_px}; it must be more than the view's {engine.query_px} px"
            )
        self._kept = CachedCrop(map_source, engine.map_multiple_px, self._settings.max_search_px)
        self._tracker: Tracker | None = None
        # The track without the fixes that still wait for confirmation, None when none does.
        self._before: Tracker | None = None
        self._confirmed = 0
        self._doubt = Doubt(self._settings)
        # What the vehicle's heading is off by, degrees clockwise, as a search has found.
        self._heading_deg = 0.0
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
        self._confirmed, self._doubt, self._heading_deg = 0, Doubt(s), 0.0
        self.state = State.RELOCALIZING

    @property
    def needs_prior(self) -> bool:
        """Whether there is no track: before the first prior, and once lost."""
        return self._tracker is None or self.state == State.LOST

    def relocalize(self) -> None:
        """Forget the track and search the whole map from the next frame on; GeolocError without a gallery."""
        if self._relocalizer is None:
            raise GeolocError(
                "there is no gallery to search: build one with `geoloc gallery build` and name it, or set a prior"
            )
        self._begin_search(None)

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
        if repeated:
            # One picture twice would confirm itself.
            return self._estimate(
                frame, f"stamp {frame.stamp_s:.3f} s is that of the last frame: stamp each picture anew"
            )
        if self._tracker is None and self.state == State.UNINITIALIZED and self._settings.cold_start:
            self._begin_search(None)
        if self.searching:
            return self._search(frame, start)
        if self._tracker is None:
            return self._estimate(frame, "no prior yet: set one, or provide a valid gnss")
        if self.state == State.LOST:
            return self._estimate(frame, "lost: set a new prior, or provide a valid gnss")
        frame = with_heading(frame, self._heading_deg)
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
                kept=self._kept,
            )
            self._gate(match)
        except (Refused, GeolocError) as error:
            # A GeolocError of its own: the track has left the Earth.
            refused = error if isinstance(error, Refused) else Refused(str(error))
            reason = self._miss(refused, frame.stamp_s, match.heatmap if match else None)
            crop, view = (match.crop, match.view) if match else (refused.crop, refused.view)
            return self._estimate(frame, reason, match, half_width_m, start, crop, view)
        reason = self._accept(match, frame.stamp_s)
        return self._estimate(frame, reason, match, half_width_m, start, match.crop, match.view)

    def look_ahead(self) -> None:
        """Get the crop that the track will need soon and what the engine keeps of it, so that no frame waits for them.

        For moments in which no frame waits. What cannot be had now is told of the frame that needs it.
        """
        if self.state != State.TRACKING:
            return
        with contextlib.suppress(GeolocError):
            crop = self._kept.renew()
            if crop is not None and isinstance(self._engine, NetworkEngine):
                self._engine.prepare(crop.image)

    def _predict(self, frame: Frame) -> None:
        assert self._tracker is not None
        s = self._settings
        for tracker in (self._tracker, self._before):
            if tracker is not None:
                tracker.advance(
                    frame.stamp_s, frame.velocity_enu_m_s, s.sigma_acceleration_m_s2, s.sigma_odometry_m_s
                )
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
        self.state, self._before = State.TRACKING, None
        self._doubt.fix(stamp_s)
        self._lost_sigma_m = self._settings.lost_sigma_m
        return ""

    def _miss(self, refused: Refused, stamp_s: float, heatmap: Heatmap | None) -> str:
        """The reason of a refused frame; undoes what was not confirmed, and loses the track in the end."""
        assert self._tracker is not None
        if refused.contradicts and self._before is not None:
            # Two places contradict each other and neither is confirmed: start over from before both.
            self._tracker, self._before, self._confirmed = self._before, None, 0
        s = self._settings
        self._doubt.miss(stamp_s, heatmap, refused.contradicts)
        limit_s = s.lost_after_s if self._relocalizer is None else s.search_after_s
        if not (self._doubt.is_lost(limit_s) or self._tracker.sigma_m > self._lost_sigma_m):
            return str(refused)
        lost = f"{refused}; lost after {self._doubt.misses} frames without a fix, {self._doubt.seconds:.1f} s of doubt"
        self.state = State.LOST
        if self._relocalizer is None:
            return f"{lost}: set a new prior, or provide a valid gnss"
        area = Area(*self._tracker.place, s.search_radius_m) if s.search_radius_m else None
        self._begin_search(area)
        return (
            f"{lost}: the search of {'the map' if area is None else f'{area.radius_m:.0f} m around'} begins"
        )

    # --- search on the whole map ---------------------------------------------------------------------------

    @property
    def searching(self) -> bool:
        """Whether frames are looked for on the whole map."""
        return self._tracker is None and self.state in (State.LOST, State.RELOCALIZING)

    def _begin_search(self, area: Area | None) -> None:
        if self._relocalizer is None:
            return
        self._relocalizer.start(area)
        self._tracker = self._before = None
        self.state = State.LOST

    def _search(self, frame: Frame, start: float) -> Estimate:
        """One frame of a search: LOST while no place stands out, RELOCALIZING while one does, TRACKING once it wins."""
        assert self._relocalizer is not None
        try:
            search = self._relocalizer.process(frame)
        except (Refused, GeolocError) as error:
            refused = error if isinstance(error, Refused) else Refused(str(error))
            return self._estimate(frame, str(refused), None, math.nan, start, refused.crop, refused.view)
        if search.accepted is None:
            best = search.candidates[0] if search.candidates else None
            found = best is not None and best.frames > 0 and best.log_odds > 0
            self.state = State.RELOCALIZING if found else State.LOST
            shown = next((c.match for c in search.candidates if c.match), None)
            estimate = self._estimate(
                frame, search.reason, None, math.nan, start, shown.crop if shown else None, search.view
            )
        else:
            estimate = self._found(search.accepted, frame, start)
        return replace(
            estimate,
            candidates=search.candidates,
            crops=search.crops,
            latencies_ms=search.latencies_ms | estimate.latencies_ms,
        )

    def _found(self, winner: Hypothesis, frame: Frame, start: float) -> Estimate:
        """A search is over: its winner's track goes on."""
        match = winner.match
        assert match is not None
        self._tracker, self._before, self._heading_deg = winner.tracker, None, winner.heading_deg
        self._confirmed, self._doubt = self._settings.confirm_frames, Doubt(self._settings)
        self._doubt.fix(frame.stamp_s)
        self._lost_sigma_m, self.state = self._settings.lost_sigma_m, State.TRACKING
        return self._estimate(frame, "", match, match.crop.size_m / 2, start, match.crop, match.view)

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
            crops=0 if match is None else 1,
        )
