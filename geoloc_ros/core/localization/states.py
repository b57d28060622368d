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
from geoloc_ros.core.matching.frame_view import rectified_view, search_px
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.match_frame import Match, match_view
from geoloc_ros.core.matching.pose_bias import PoseBias, PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.tracker import Track, Tracker
from geoloc_ros.core.recording.frame import Frame, with_heading
from geoloc_ros.core.relocalization.gallery import Area
from geoloc_ros.core.relocalization.hypotheses import Hypothesis
from geoloc_ros.core.relocalization.relocalizer import Relocalizer, Search


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
    """No track: LOST while no place stands out, RELOCALIZING while one does. The places are the relocalizer's."""

    def __init__(self, equipment: Equipment, relocalizer: Relocalizer, area: Area | None = None) -> None:
        """Begin a search within `area`, or on the whole map."""
        self._equipment, self._relocalizer = equipment, relocalizer
        relocalizer.start(area)
        self.code = State.LOST

    def process(self, frame: Frame) -> tuple[Estimate, LocalizerState]:
        """Weigh one frame; the winner's track goes on."""
        attempt = Attempt(frame)
        try:
            search = self._relocalizer.process(frame)
        except (Refused, GeolocError) as error:
            attempt.view = error.view if isinstance(error, Refused) else None
            return attempt.answer(self.code, None, str(error)), self
        attempt.view, attempt.times = search.view, search.times
        if search.accepted is None:
            best = next(iter(search.candidates), None)
            found = best is not None and best.frames > 0 and best.log_odds > 0
            self.code = State.RELOCALIZING if found else State.LOST
            attempt.crop = next((c.match.crop for c in search.candidates if c.match), None)
            return _with_candidates(attempt.answer(self.code, None, search.reason), search), self
        tracking = Tracking.found(self._equipment, search.accepted, frame.stamp_s)
        attempt.match, attempt.bias = search.accepted.match, tracking.known_bias
        assert attempt.match is not None  # a winner was seen in this frame
        attempt.crop = attempt.match.crop
        attempt.half_width_m = attempt.crop.size_m / 2
        return _with_candidates(attempt.answer(tracking.code, tracking.track), search), tracking


def _with_candidates(estimate: Estimate, search: Search) -> Estimate:
    return replace(estimate, candidates=search.candidates, crops=search.crops)


class Following(LocalizerState):
    """A track that each frame moves on.

    heading_deg: to be added to the vehicle's own, clockwise, as a search found it. bias: what else is wrong with the
    vehicle's pose, as the track has learned it.
    """

    def __init__(
        self, equipment: Equipment, tracker: Tracker, loss: TrackLoss, heading_deg: float, bias: PoseBiasFilter
    ) -> None:
        self.equipment, self.tracker, self.loss, self.heading_deg = equipment, tracker, loss, heading_deg
        self.bias = bias

    def process(self, frame: Frame) -> tuple[Estimate, LocalizerState]:
        """Rectify, crop, match, gate, filter; a frame that fails on the way is a miss."""
        settings, engine, crops = self.equipment.settings, self.equipment.engine, self.equipment.crops
        reported = with_heading(frame, self.heading_deg)
        self.bias.predict(frame.stamp_s)
        attempt = Attempt(self.bias.corrected(reported), bias=self.known_bias)
        state: Following = self
        try:
            state = self.predict(attempt.frame)
            half_m = attempt.half_width_m = state.half_width_m()
            view = attempt.view = rectified_view(attempt.frame, engine, half_m, settings, like_m=crops.gsd_m)
            gates.check_view(view, settings.gate)
            attempt.times.lap("rectify")
            viewed = moved(state.tracker.place, np.array(view.centre_offset_enu_m))
            crop = attempt.crop = crops.crop(viewed, search_px(half_m, view, engine), view.gsd_m)
            gates.check_crop(crop, settings.gate)
            attempt.times.lap("crop")
            match = attempt.match = match_view(
                reported, view, crop, engine, settings, attempt.times, self.bias, state.expected()
            )
            gates.check_alignment(match.agreement, settings.gate, state.code == State.TRACKING)
            gates.check_odds(match.log_odds, settings.gate)
            gates.check_heatmap(match.heatmap, match.support, settings.gate, state.code == State.TRACKING)
            gates.check_innovation(state.innovation_sigma(match), settings.gate)
        except (Refused, GeolocError) as error:
            # A GeolocError here: the track has left the Earth.
            return state.miss(attempt, error)
        return state.fuse(attempt, match)

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
        """Half-width of the search around the predicted position, m."""
        limits = self.equipment.settings.map
        return max(limits.min_search_m, limits.search_sigma * self.tracker.sigma_m)

    def innovation_sigma(self, match: Match) -> float:
        """Distance of a match from the predicted position, standard deviations."""
        return math.sqrt(self.tracker.distance2(match.lat_deg, match.lon_deg, match.covariance_enu_m2))

    def advance(self, tracker: Tracker, frame: Frame) -> None:
        """Move one track on to the frame."""
        tracker.advance(frame.stamp_s, frame.motion, self.equipment.settings.track.sigma_acceleration_m_s2)

    def miss(self, attempt: Attempt, error: Exception) -> tuple[Estimate, LocalizerState]:
        """A frame without a fix; too many of them lose the track."""
        contradicts = isinstance(error, Refused) and error.contradicts
        heatmap = attempt.match.heatmap if attempt.match else None
        settings, relocalizer = self.equipment.settings, self.equipment.relocalizer
        self.loss.miss(attempt.frame.stamp_s, heatmap, contradicts)
        limit_s = settings.track.lost_after_s if relocalizer is None else settings.search.after_s
        if not (self.loss.exceeds(limit_s) or self.tracker.sigma_m > self.limit_sigma_m):
            return attempt.answer(self.code, self.track, str(error)), self
        reason = f"{error}; lost after {self.loss.misses} frames without a fix, loss score {self.loss.score_s:.1f} s"
        if relocalizer is None:
            lost: LocalizerState = Idle(self.equipment, lost=True)
            reason += ": set a new prior, or provide a valid gnss"
        else:
            radius_m = settings.search.radius_m
            area = Area(*self.tracker.place, radius_m) if radius_m else None
            lost = Searching(self.equipment, relocalizer, area)
            reason += f": the search of {f'{radius_m:.0f} m around' if radius_m else 'the map'} begins"
        return attempt.answer(lost.code, None, reason), lost


class Confirming(Following):
    """Fixes must agree before they count.

    published: the track without the fixes that still wait for confirmation, None if none does. agreed: how many do.
    """

    code = State.RELOCALIZING

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

    @property
    def limit_sigma_m(self) -> float:
        return self._limit_sigma_m

    @property
    def track(self) -> Track:
        """An unconfirmed fix must not make the published track look certain."""
        return (self.published or self.tracker).track()

    def predict(self, frame: Frame) -> "Confirming":
        for tracker in (self.tracker, self.published):
            if tracker is not None:
                self.advance(tracker, frame)
        if self.tracker.sigma_m > self.equipment.settings.track.confirm_sigma_m:
            # So much ground may hold a look-alike: a place somewhere in it does not agree with the fixes before.
            self.agreed = 0
        return self

    def expected(self) -> None:
        """A prior says where to search; a wrong one must not make its own evidence."""
        return None

    def fuse(self, attempt: Attempt, match: Match) -> tuple[Estimate, LocalizerState]:
        if self.published is None:
            self.published, self._bias_before = self.tracker.copy(), self.bias
        self.learn(attempt, match)
        self.tracker.update(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
        self.agreed += 1
        needed = self.equipment.settings.track.confirm_frames
        if self.agreed < needed:
            reason = f"confirming: {self.agreed} of {needed} fixes agree"
            return attempt.answer(self.code, self.track, reason), self
        self.loss.fix(attempt.frame.stamp_s)
        tracking = Tracking(self.equipment, self.tracker, self.loss, self.heading_deg, self.bias)
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
        return cls(equipment, winner.tracker, loss, winner.heading_deg, bias)

    @property
    def limit_sigma_m(self) -> float:
        return self.equipment.settings.track.lost_sigma_m

    @property
    def track(self) -> Track:
        return self.tracker.track()

    def predict(self, frame: Frame) -> Following:
        self.advance(self.tracker, frame)
        if self.tracker.sigma_m <= self.equipment.settings.track.confirm_sigma_m:
            return self
        # So much ground may hold a look-alike: one clear peak is no longer enough.
        return Confirming(self.equipment, self.tracker, self.loss, self.heading_deg, self.bias, self.limit_sigma_m)

    def expected(self) -> tuple[tuple[float, float], np.ndarray]:
        """Widened: a track that is slightly wrong must not pull the heatmap."""
        s = self.equipment.settings.track
        covariance = self.tracker.track().covariance[:2, :2]
        return self.tracker.place, covariance * s.prior_scale**2 + np.eye(2) * s.min_prior_m**2

    def fuse(self, attempt: Attempt, match: Match) -> tuple[Estimate, LocalizerState]:
        self.learn(attempt, match)
        self.tracker.update(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
        self.loss.fix(attempt.frame.stamp_s)
        return attempt.answer(self.code, self.track), self
