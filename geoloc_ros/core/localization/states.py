# SPDX-License-Identifier: Apache-2.0
"""The states of the localizer: what it knows in each, and what a frame makes of it.

    Idle        no track and nothing to search
    Searching   no track; frames are matched against the whole map
    Confirming  a place to start from, or a track that has become too uncertain: its fixes do not count yet
    Tracking    a confirmed track

`process(frame)` of each returns the answer and the next state.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.localization.attempt import Attempt
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.localization.track_loss import TrackLoss
from geoloc_ros.core.maps.cached_crop import CachedCrop, moved
from geoloc_ros.core.matching import gates
from geoloc_ros.core.matching.frame_view import rectified_view, search_px, widest_m
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.match_frame import Match, match_view
from geoloc_ros.core.matching.motion_check import MotionCheck
from geoloc_ros.core.matching.pose_bias import PoseBias, PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.tracker import Track, Tracker
from geoloc_ros.core.recording.frame import Frame, with_heading
from geoloc_ros.core.relocalization.gallery import Area
from geoloc_ros.core.relocalization.hypotheses import Hypothesis
from geoloc_ros.core.relocalization.relocalizer import Relocalizer, Search

NEAR_S = 60.0
"""Time since the last fix up to which its surroundings are searched as well."""
MIN_COVERAGE_AT_RIM = 0.1
"""Least share of a crop with map data in which a frame after a gap may show its place, if it alone is decisive."""


@dataclass(frozen=True)
class Equipment:
    """What all states work with. relocalizer: None without a gallery."""

    engine: Engine
    crops: CachedCrop
    settings: LocalizerSettings
    relocalizer: Relocalizer | None


class LocalizerState(ABC):
    """One state; code: as published."""

    code: State

    @property
    def track(self) -> Track | None:
        """As published, None without one."""
        return None

    @abstractmethod
    def process(self, frame: Frame) -> "tuple[Estimate, LocalizerState]":
        """The answer to a frame, and the state after it."""

    def refuse(self, frame: Frame, reason: str) -> Estimate:
        """The answer to a frame that changes nothing."""
        return Attempt(frame).answer(self.code, self.track, reason)


class Idle(LocalizerState):
    """No track, and nothing to search: a prior is needed. lost: there was a track."""

    def __init__(self, equipment: Equipment, lost: bool = False) -> None:
        self._equipment = equipment
        self.code = State.LOST if lost else State.UNINITIALIZED

    def process(self, frame: Frame) -> tuple[Estimate, LocalizerState]:
        """Refuse the frame, or begin to search the whole map."""
        if self.code == State.LOST:
            return self.refuse(frame, "lost: set a new prior, or provide a valid gnss"), self
        if self._equipment.relocalizer is not None and self._equipment.settings.search.cold_start:
            return Searching(self._equipment, self._equipment.relocalizer).process(frame)
        return self.refuse(frame, "no prior yet: set one, or provide a valid gnss"), self


class Searching(LocalizerState):
    """No match: LOST while no place stands out, RELOCALIZING while one does. The places are the relocalizer's.

    A track that was lost for want of matches goes on as DEAD_RECKONING until it is too uncertain, and the search is
    limited to what the vehicle can have reached since its last fix.
    """

    def __init__(
        self,
        equipment: Equipment,
        relocalizer: Relocalizer,
        area: Area | None = None,
        reckoned: "Following | None" = None,
    ) -> None:
        """Begin a search within `area`, or on the whole map. reckoned: the track that goes on meanwhile."""
        self._equipment, self._relocalizer = equipment, relocalizer
        self._reckoned, self._seen = reckoned, None if reckoned is None or area is not None else reckoned.seen
        relocalizer.start(area)
        self.code = State.LOST if reckoned is None else State.DEAD_RECKONING

    @property
    def track(self) -> Track | None:
        return None if self._reckoned is None else self._reckoned.tracker.track()

    def process(self, frame: Frame) -> tuple[Estimate, LocalizerState]:
        """Weigh one frame; the winner's track goes on."""
        attempt = Attempt(frame)
        if self._reckoned is not None:
            self._reckon(self._reckoned, frame)
        if self._seen is not None:
            limit_m_s = self._equipment.settings.track.max_speed_m_s
            self._relocalizer.narrow(self._seen.reach(frame.stamp_s, limit_m_s))
        try:
            search = self._relocalizer.process(frame)
        except (Refused, GeolocError) as error:
            attempt.view = error.view if isinstance(error, Refused) else None
            return attempt.answer(self.code, self.track, str(error)), self
        attempt.view, attempt.times = search.view, search.times
        if search.accepted is None:
            best = next(iter(search.candidates), None)
            found = best is not None and best.frames > 0 and best.log_odds > 0
            if self._reckoned is None:
                self.code = State.RELOCALIZING if found else State.LOST
            attempt.crop = next((c.match.crop for c in search.candidates if c.match), None)
            return _with_candidates(attempt.answer(self.code, self.track, search.reason), search), self
        tracking = Tracking.found(self._equipment, search.accepted, frame.stamp_s)
        attempt.match, attempt.bias = search.accepted.match, tracking.known_bias
        assert attempt.match is not None  # a winner was seen in this frame
        attempt.crop = attempt.match.crop
        attempt.half_width_m = attempt.crop.size_m / 2
        return _with_candidates(attempt.answer(tracking.code, tracking.track), search), tracking

    def _reckon(self, reckoned: "Following", frame: Frame) -> None:
        """Carry the track on until it is too uncertain."""
        if reckoned.tracker.stamp_s != frame.stamp_s:
            reckoned.advance(reckoned.tracker, reckoned.usable(with_heading(frame, reckoned.heading_deg)))
        if reckoned.tracker.sigma_m > reckoned.limit_sigma_m:
            self._reckoned, self.code = None, State.LOST


@dataclass(frozen=True)
class LastFix:
    """Where a confirmed track had its last fix; radius_m: 3 sigma of it."""

    lat_deg: float
    lon_deg: float
    radius_m: float
    stamp_s: float

    @classmethod
    def of(cls, tracker: Tracker, stamp_s: float) -> "LastFix":
        return cls(*tracker.place, 3.0 * tracker.sigma_m, stamp_s)

    def reach(self, stamp_s: float, speed_m_s: float) -> Area:
        """What the vehicle can have reached at a later moment."""
        return Area(self.lat_deg, self.lon_deg, max(1.0, self.radius_m + speed_m_s * (stamp_s - self.stamp_s)))


def _with_candidates(estimate: Estimate, search: Search) -> Estimate:
    return replace(estimate, candidates=search.candidates, crops=search.crops)


class Following(LocalizerState):
    """A track that each frame moves on.

    heading_deg: to be added to the vehicle's own, clockwise, as a search found it. bias: what else is wrong with the
    vehicle's pose, as the track has learned it. seen: its last fix, None before it was confirmed. check: of measured
    motion, None before.
    """

    def __init__(
        self, equipment: Equipment, tracker: Tracker, loss: TrackLoss, heading_deg: float, bias: PoseBiasFilter
    ) -> None:
        self.equipment, self.tracker, self.loss, self.heading_deg = equipment, tracker, loss, heading_deg
        self.bias = bias
        self.seen: LastFix | None = None
        self.check: MotionCheck | None = None

    def process(self, frame: Frame) -> tuple[Estimate, LocalizerState]:
        """Rectify, crop, match, gate, filter; a frame that fails on the way is a miss."""
        reported = with_heading(frame, self.heading_deg)
        self.bias.predict(frame.stamp_s)
        attempt = Attempt(self.bias.corrected(reported), bias=self.known_bias)
        state = self
        refusal: Refused | GeolocError | None = None
        try:
            state = self.predict(attempt.frame)
            for place in state.centres():
                try:
                    return state.fuse(attempt, state._match(attempt, reported, place))
                except Refused as refused:  # noqa: PERF203
                    refusal = refusal or refused
        except GeolocError as error:  # the track has left the Earth
            refusal = error
        assert refusal is not None  # there is a centre
        return state.miss(attempt, refusal)

    def _match(self, attempt: Attempt, reported: Frame, place: tuple[float, float]) -> Match:
        """Match a frame around a place, and apply the gates. Raises Refused."""
        settings, engine, crops = self.equipment.settings, self.equipment.engine, self.equipment.crops
        confirmed = self.code == State.TRACKING
        half_m = self.half_width_m()
        if self.seen is not None:
            half_m = min(half_m, widest_m(attempt.frame, engine, settings))
        attempt.half_width_m = half_m
        view = attempt.view = rectified_view(attempt.frame, engine, half_m, settings, like_m=crops.gsd_m)
        gates.check_view(view, settings.gate)
        attempt.times.lap("rectify")
        viewed = moved(place, np.array(view.centre_offset_enu_m))
        crop = attempt.crop = crops.crop(viewed, search_px(half_m, view, engine), view.gsd_m)
        at_rim = self.seen is not None and not confirmed and crop.coverage >= MIN_COVERAGE_AT_RIM
        if at_rim:
            gates.check_readable(crop)
        else:
            gates.check_crop(crop, settings.gate)
        attempt.times.lap("crop")
        match = attempt.match = match_view(
            reported, view, crop, engine, settings, attempt.times, self.bias, self.expected()
        )
        gates.check_alignment(match.agreement, settings.gate, confirmed)
        gates.check_odds(match.log_odds, settings.gate)
        gates.check_heatmap(match.heatmap, match.support, settings.gate, confirmed)
        gates.check_innovation(self.innovation_sigma(match), settings.gate)
        if at_rim and not gates.is_decisive(match.alignment, settings.gate):
            gates.check_crop(crop, settings.gate)
        return match

    def centres(self) -> list[tuple[float, float]]:
        """Where to search, the likeliest first; further ones only if those before give no fix."""
        return [self.tracker.place]

    @property
    def known_bias(self) -> PoseBias:
        """What is wrong with the pose as the vehicle reports it, the heading that a search found included."""
        learned = self.bias.bias
        return replace(learned, heading_rad=learned.heading_rad + math.radians(self.heading_deg))

    def learn(self, attempt: Attempt, match: Match) -> None:
        """Take over what an accepted fix has shown of the pose."""
        assert match.bias is not None  # of every match of a track
        self.bias = match.bias
        attempt.bias = self.known_bias

    @property
    @abstractmethod
    def limit_sigma_m(self) -> float:
        """Position uncertainty above which the track is lost, m."""

    @abstractmethod
    def predict(self, frame: Frame) -> "Following":
        """Move the track on to the frame; the state for it, which is another one if the track became too uncertain."""

    @abstractmethod
    def expected(self) -> tuple[tuple[float, float], np.ndarray] | None:
        """Predicted position and covariance (2, 2), ENU m^2, for the heatmap; None: the heatmap stands alone."""

    @abstractmethod
    def fuse(self, attempt: Attempt, match: Match) -> tuple[Estimate, LocalizerState]:
        """Take in a fix that has passed the gates."""

    def half_width_m(self) -> float:
        """Half-width of the search around the predicted position, m: no further than the vehicle can have come."""
        limits, track = self.equipment.settings.map, self.equipment.settings.track
        half_m = limits.search_sigma * self.tracker.sigma_m
        if self.seen is not None and self.tracker.stamp_s is not None:
            # Constant velocity may point to one end of what can be reached.
            reach_m = self.seen.radius_m + 2 * track.max_speed_m_s * (self.tracker.stamp_s - self.seen.stamp_s)
            half_m = min(half_m, reach_m)
        return max(limits.min_search_m, half_m)

    def usable(self, frame: Frame) -> Frame:
        """The frame with the measured motion that may move the track."""
        if self.check is None or not frame.motion:
            return frame
        return replace(frame, motion=self.check.usable(frame.motion, frame.stamp_s))

    def innovation_sigma(self, match: Match) -> float:
        """Distance of a match from the predicted position, standard deviations."""
        return math.sqrt(self.tracker.distance2(match.lat_deg, match.lon_deg, match.covariance_enu_m2))

    def advance(self, tracker: Tracker, frame: Frame) -> None:
        """Move one track on to the frame."""
        tracker.advance(frame.stamp_s, frame.motion, self.equipment.settings.track.sigma_acceleration_m_s2)

    def miss(self, attempt: Attempt, error: Exception) -> tuple[Estimate, LocalizerState]:
        """A frame without a fix; too much evidence against the track loses it, and for want of matches it goes on
        without them until it is too uncertain.
        """
        contradicts = isinstance(error, Refused) and error.contradicts
        settings, relocalizer = self.equipment.settings, self.equipment.relocalizer
        if attempt.match is None:
            self.loss.skip(attempt.frame.stamp_s)
        else:
            self.loss.miss(attempt.frame.stamp_s, attempt.match.heatmap, contradicts)
        limit_s = settings.track.lost_after_s if relocalizer is None else settings.search.after_s
        too_uncertain, exceeds = self.tracker.sigma_m > self.limit_sigma_m, self.loss.exceeds(limit_s)
        if not (exceeds or too_uncertain):
            return attempt.answer(self.code, self.track, str(error)), self
        if self.seen is not None and not too_uncertain and not self.loss.is_contradicted:
            return self._reckon(attempt, error)
        reason = f"{error}; lost after {self.loss.misses} frames without a fix, loss score {self.loss.score_s:.1f} s"
        if too_uncertain:
            reason += f", position known to {self.tracker.sigma_m:.0f} m"
        if relocalizer is None:
            lost: LocalizerState = Idle(self.equipment, lost=True)
            reason += ": set a new prior, or provide a valid gnss"
        else:
            radius_m = settings.search.radius_m
            area = Area(*self.tracker.place, radius_m) if radius_m else None
            lost = Searching(self.equipment, relocalizer, area)
            reason += f": the search of {f'{radius_m:.0f} m around' if radius_m else 'the map'} begins"
        return attempt.answer(lost.code, None, reason), lost

    def _reckon(self, attempt: Attempt, error: Exception) -> tuple[Estimate, LocalizerState]:
        """Go on without matches, and search meanwhile if there is a gallery."""
        relocalizer = self.equipment.relocalizer
        state: LocalizerState
        if relocalizer is None:
            state = Confirming.after(self)
        else:
            radius_m = self.equipment.settings.search.radius_m
            area = Area(*self.tracker.place, radius_m) if radius_m else None
            state = Searching(self.equipment, relocalizer, area, self)
        reason = f"{error}; dead reckoning, position known to {self.tracker.sigma_m:.0f} m"
        return attempt.answer(state.code, state.track, reason), state


class Confirming(Following):
    """Fixes must agree before they count.

    published: the track without the fixes that still wait for confirmation, None if none does. agreed: how many do.
    A track that was confirmed once is DEAD_RECKONING until a fix waits.
    """

    def __init__(
        self,
        equipment: Equipment,
        tracker: Tracker,
        loss: TrackLoss,
        heading_deg: float,
        bias: PoseBiasFilter,
        limit_sigma_m: float,
    ) -> None:
        super().__init__(equipment, tracker, loss, heading_deg, bias)
        self._limit_sigma_m = limit_sigma_m
        self.published: Tracker | None = None
        self._bias_before = bias
        self.agreed = 0

    @classmethod
    def at(
        cls, equipment: Equipment, lat_deg: float, lon_deg: float, radius_m: float, stamp_s: float | None
    ) -> "Confirming":
        """Start within radius_m (3 sigma) of a place, known at stamp_s (None: at the next frame)."""
        s = equipment.settings.track
        tracker = Tracker(lat_deg, lon_deg, radius_m / 3, s.sigma_speed_m_s, stamp_s)
        # A prior may be wider than what a track may grow to.
        bias = PoseBiasFilter(equipment.settings.pose)
        return cls(equipment, tracker, TrackLoss(s), 0.0, bias, max(s.lost_sigma_m, radius_m / 2))

    @classmethod
    def after(cls, before: Following) -> "Confirming":
        """Go on with a track whose next fixes must be confirmed."""
        if isinstance(before, Confirming):
            return before
        state = cls(
            before.equipment, before.tracker, before.loss, before.heading_deg, before.bias, before.limit_sigma_m
        )
        state.seen, state.check = before.seen, before.check
        return state

    @property
    def code(self) -> State:  # type: ignore[override]
        return State.RELOCALIZING if self.seen is None or self.agreed else State.DEAD_RECKONING

    @property
    def limit_sigma_m(self) -> float:
        return self._limit_sigma_m

    @property
    def track(self) -> Track:
        """An unconfirmed fix must not make the published track look certain."""
        return (self.published or self.tracker).track()

    def predict(self, frame: Frame) -> "Confirming":
        frame = self.usable(frame)
        for tracker in (self.tracker, self.published):
            if tracker is not None:
                self.advance(tracker, frame)
        if self.tracker.sigma_m > self.equipment.settings.track.confirm_sigma_m:
            # So much ground may hold a look-alike: a place somewhere in it does not agree with the fixes before.
            self.agreed = 0
        return self

    def centres(self) -> list[tuple[float, float]]:
        """After a gap also around the last fix: the vehicle may have turned back."""
        place, stamp_s = self.tracker.place, self.tracker.stamp_s
        if self.seen is None or stamp_s is None or stamp_s - self.seen.stamp_s > NEAR_S:
            return [place]
        if self.tracker.sigma_m <= self.equipment.settings.track.confirm_sigma_m:
            return [place]
        return [place, (self.seen.lat_deg, self.seen.lon_deg)]

    def expected(self) -> None:
        """A prior says where to search; a wrong one must not make its own evidence."""
        return None

    def fuse(self, attempt: Attempt, match: Match) -> tuple[Estimate, LocalizerState]:
        if self.published is None:
            self.published, self._bias_before = self.tracker.copy(), self.bias
        self.learn(attempt, match)
        self.tracker.update(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
        needed = self.equipment.settings.track.confirm_frames
        decisive = gates.is_decisive(match.alignment, self.equipment.settings.gate)
        self.agreed = needed if decisive else self.agreed + 1
        if self.agreed < needed:
            reason = f"confirming: {self.agreed} of {needed} fixes agree"
            return attempt.answer(self.code, self.track, reason), self
        self.loss.fix(attempt.frame.stamp_s)
        tracking = Tracking(self.equipment, self.tracker, self.loss, self.heading_deg, self.bias)
        tracking.confirm(attempt.frame.stamp_s)
        if self.check is not None and tracking.check is not None:
            tracking.check.trusted = self.check.trusted
        return attempt.answer(tracking.code, tracking.track), tracking

    def miss(self, attempt: Attempt, error: Exception) -> tuple[Estimate, LocalizerState]:
        if isinstance(error, Refused) and error.contradicts and self.published is not None:
            # Two places contradict each other and neither is confirmed: start again from before both.
            self.tracker, self.published, self.agreed = self.published, None, 0
            self.bias = self._bias_before
            self.bias.predict(attempt.frame.stamp_s)
            attempt.bias = self.known_bias
        return super().miss(attempt, error)


class Tracking(Following):
    """A confirmed track: the prediction supports the heatmap, and each fix counts."""

    code = State.TRACKING

    @classmethod
    def found(cls, equipment: Equipment, winner: Hypothesis, stamp_s: float) -> "Tracking":
        """A search is over: its winner's track goes on."""
        loss = TrackLoss(equipment.settings.track)
        loss.fix(stamp_s)
        bias = winner.bias or PoseBiasFilter(equipment.settings.pose)
        tracking = cls(equipment, winner.tracker, loss, winner.heading_deg, bias)
        tracking.confirm(stamp_s)
        return tracking

    def confirm(self, stamp_s: float) -> None:
        """Note a fix of the confirmed track."""
        self.seen = LastFix.of(self.tracker, stamp_s)
        if self.check is None:
            self.check = MotionCheck(self.equipment.settings, self.tracker)

    @property
    def limit_sigma_m(self) -> float:
        return self.equipment.settings.track.lost_sigma_m

    @property
    def track(self) -> Track:
        return self.tracker.track()

    def process(self, frame: Frame) -> tuple[Estimate, LocalizerState]:
        """After a long gap there is more ground to search than a crop holds: with a gallery it is searched there."""
        relocalizer, settings = self.equipment.relocalizer, self.equipment.settings
        if relocalizer is not None and frame.image is not None and self.seen is not None:
            ahead = self.tracker.copy()
            trusted = self.check is None or self.check.trusted
            self.advance(ahead, with_heading(frame if trusted else replace(frame, motion=()), self.heading_deg))
            if ahead.sigma_m > settings.track.confirm_sigma_m:
                return Searching(self.equipment, relocalizer, None, self).process(frame)
        return super().process(frame)

    def predict(self, frame: Frame) -> Following:
        self.advance(self.tracker, self.usable(frame))
        if self.check is not None and not frame.motion:
            self.check.alone.predict(frame.stamp_s, self.equipment.settings.track.sigma_acceleration_m_s2)
        if self.tracker.sigma_m <= self.equipment.settings.track.confirm_sigma_m:
            return self
        # So much ground may hold a look-alike: one clear peak is no longer enough.
        return Confirming.after(self)

    def innovation_sigma(self, match: Match) -> float:
        """As of any track; where fixes alone agree with the match, measured motion has misled the track."""
        sigma = super().innovation_sigma(match)
        if sigma > self.equipment.settings.gate.max_sigma and self.check is not None and self.check.explains(match):
            self.tracker = self.check.alone.copy()
            return super().innovation_sigma(match)
        return sigma

    def expected(self) -> tuple[tuple[float, float], np.ndarray]:
        """Widened: a track that is slightly wrong must not pull the heatmap."""
        s = self.equipment.settings.track
        covariance = self.tracker.track().covariance[:2, :2]
        return self.tracker.place, covariance * s.prior_scale**2 + np.eye(2) * s.min_prior_m**2

    def fuse(self, attempt: Attempt, match: Match) -> tuple[Estimate, LocalizerState]:
        self.learn(attempt, match)
        self.tracker.update(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
        if self.check is not None:
            self.check.update(match)
        self.loss.fix(attempt.frame.stamp_s)
        self.confirm(attempt.frame.stamp_s)
        return attempt.answer(self.code, self.track), self
