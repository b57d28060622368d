# SPDX-License-Identifier: Apache-2.0
"""Multi-hypothesis filter: places where a lost vehicle may be, each a track of its own with its odds.

The odds are against the vehicle being anywhere else. A frame multiplies them by how much better its view fits there
than at the other places that retrieval thought most alike (Bayes' rule). Motion carries a hypothesis on, so a
look-alike drops out as soon as the next view does not fit where it would have moved to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.matching.gates import Refused, check_alignment, check_heatmap, is_decisive
from geoloc_ros.core.matching.match_frame import Match
from geoloc_ros.core.matching.pose_bias import PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.tracker import Tracker
from geoloc_ros.core.recording.frame import Frame, with_heading

SAME_PLACE_M = 25.0
"""Hypotheses nearer to each other are one."""
LEAST_EVIDENCE = -3.0
"""Most that a frame tells against a place, natural logarithm of odds: one covered lens must not end the truth."""
LEAST_NEW_GROUND = 0.2
"""Less than this share of `new_ground` is taken for noise of a vehicle at rest."""


@dataclass
class Hypothesis:
    """A place where the vehicle may be.

    log_odds: natural logarithm of its odds against everywhere else. heading_deg: to be added to the vehicle's own,
    clockwise. similarity: cosine that retrieval gave its tile when it was found. frames: in how many the network found
    the vehicle there. match: the network's answer there in this frame, None if it was another or none. counted: where
    evidence was last counted, (lat_deg, lon_deg). bias: what else is wrong with the vehicle's pose if it is here, as
    the alignments here have shown it; None if nothing is known.
    """

    tracker: Tracker
    log_odds: float
    heading_deg: float
    similarity: float
    frames: int
    match: Match | None
    counted: tuple[float, float]
    bias: PoseBiasFilter | None = None

    def corrected(self, frame: Frame) -> Frame:
        """The frame with the pose that the vehicle has if it is here."""
        turned = with_heading(frame, self.heading_deg)
        return turned if self.bias is None else self.bias.corrected(turned)


@dataclass(frozen=True)
class Sighting:
    """The network's answer at one place; evidence: natural logarithm of how much better the view fits there than
    elsewhere. hypothesis: whose place it is, None for one that retrieval has named.
    """

    match: Match
    evidence: float
    heading_deg: float
    similarity: float
    hypothesis: Hypothesis | None


class HypothesisFilter:
    """The places under consideration, the likeliest first.

    rejected: places that retrieval named for the last frame and that did not fit it, with frames 0.
    """

    def __init__(self, settings: LocalizerSettings) -> None:
        self._settings = settings
        self.hypotheses: list[Hypothesis] = []
        self.rejected: list[Hypothesis] = []

    def predict(self, frame: Frame) -> None:
        """Move all hypotheses on to this frame, with odometry or at constant velocity.

        Those of which the place is known no longer, as after a gap, are neither candidates nor rivals.
        """
        s = self._settings.track
        for hypothesis in self.hypotheses:
            if hypothesis.bias is not None:
                # A copy: the candidates of the frame before show theirs.
                hypothesis.bias = hypothesis.bias.copy()
                hypothesis.bias.predict(frame.stamp_s)
            hypothesis.tracker.advance(frame.stamp_s, hypothesis.corrected(frame).motion, s.sigma_acceleration_m_s2)
            hypothesis.match = None
        self.hypotheses = [h for h in self.hypotheses if h.tracker.sigma_m <= s.lost_sigma_m]

    def weigh(self, sightings: Sequence[Sighting], stamp_s: float, view_m: float, places: float) -> None:
        """Take in the sightings of one frame whose view is view_m wide, on a map of so many distinct places."""
        s = self._settings.search
        for sighting in sightings:
            if sighting.hypothesis is not None:
                self._confirm(sighting.hypothesis, sighting, view_m)
        known = list(self.hypotheses)
        prior = -math.log(max(2.0, places))
        self.rejected = []
        # Of squares that show one place, the one that shows it best: others may not have been aligned.
        for sighting in sorted(sightings, key=lambda sighting: -sighting.evidence):
            if sighting.hypothesis is not None:
                continue
            found = self._found(sighting, stamp_s, prior)
            if sighting.evidence < s.look_alike:
                self.rejected.append(replace(found, frames=0))
            elif not any(_apart_m(found.counted, h) < SAME_PLACE_M for h in known):
                known.append(found)
        self.rejected.sort(key=lambda h: -h.log_odds)
        self.hypotheses = []
        for hypothesis in sorted(known, key=lambda h: -h.log_odds):
            near = any(_apart_m(hypothesis.tracker.place, h) < SAME_PLACE_M for h in self.hypotheses)
            # Worse than a place that was never examined.
            if not near and hypothesis.log_odds >= prior:
                self.hypotheses.append(hypothesis)
        del self.hypotheses[s.hypotheses :]

    def _found(self, sighting: Sighting, stamp_s: float, prior: float) -> Hypothesis:
        """The hypothesis that starts with a sighting."""
        match = sighting.match
        place = (match.lat_deg, match.lon_deg)
        sigma_m = math.sqrt(float(np.linalg.eigvalsh(match.covariance_enu_m2)[-1]))
        return Hypothesis(
            tracker=Tracker(*place, sigma_m, self._settings.track.sigma_speed_m_s, stamp_s),
            log_odds=prior + self._weight(sighting),
            heading_deg=sighting.heading_deg,
            similarity=sighting.similarity,
            frames=1,
            match=match,
            counted=place,
            bias=match.bias,
        )

    def _confirm(self, hypothesis: Hypothesis, sighting: Sighting, view_m: float) -> None:
        s, gate, match = self._settings.search, self._settings.gate, sighting.match
        distance2 = hypothesis.tracker.distance2(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
        agrees = sighting.evidence > 0 and match.support >= gate.min_support and distance2 <= gate.max_sigma**2
        if not agrees:
            hypothesis.log_odds += max(min(sighting.evidence, 0.0), LEAST_EVIDENCE)
            return
        hypothesis.tracker.update(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
        hypothesis.match, hypothesis.bias = match, match.bias
        hypothesis.frames += 1
        # What the frames before have shown already is no news: a look-alike at rest would confirm itself.
        new = _apart_m(hypothesis.counted, hypothesis) / (s.new_ground * view_m)
        if new >= LEAST_NEW_GROUND:
            hypothesis.counted = hypothesis.tracker.place
            hypothesis.log_odds += min(new, 1.0) * (self._weight(sighting) - s.look_alike)

    def _weight(self, sighting: Sighting) -> float:
        """Evidence of one frame as it counts: bounded, and twice as much where the frame alone would do, so that a
        place that an earlier frame has named does not hold it up.
        """
        decisive = is_decisive(sighting.match.alignment, self._settings.gate)
        return min(sighting.evidence, (1 + decisive) * self._settings.search.max_evidence)

    def margin(self) -> float:
        """Natural logarithm of the best hypothesis's odds against all others and elsewhere together."""
        if not self.hypotheses:
            return -math.inf
        best, *others = (hypothesis.log_odds for hypothesis in self.hypotheses)
        return best - float(np.logaddexp.reduce([0.0, *others]))

    def verdict(self) -> tuple[Hypothesis | None, str]:
        """The accepted hypothesis, or None and why not yet."""
        s = self._settings.search
        if not self.hypotheses or self.hypotheses[0].log_odds <= 0:
            return None, "lost: no place on the map fits better than others"
        best = self.hypotheses[0]
        margin, least = self.margin(), math.log(s.accept_odds)
        count = len(self.hypotheses)
        if margin < least:
            return None, (
                f"searching: the best of {count} places leads {math.exp(margin):.2g}:1, accepted is {s.accept_odds:g}:1"
            )
        decisive = best.match is not None and is_decisive(best.match.alignment, self._settings.gate)
        if best.frames < s.accept_frames and not decisive:
            return None, f"searching: the best place was seen in {best.frames} of {s.accept_frames} frames"
        if best.match is None:
            return None, "searching: this frame does not show the best place"
        try:
            check_alignment(best.match.agreement, self._settings.gate, confirmed=False)
            check_heatmap(best.match.heatmap, best.match.support, self._settings.gate, confirmed=False)
        except Refused as refused:
            return None, f"searching: the best place is {refused}"
        return best, ""


def _apart_m(place: tuple[float, float], hypothesis: Hypothesis) -> float:
    return math.hypot(*LocalEnu(*place).to_enu(*hypothesis.tracker.place))
