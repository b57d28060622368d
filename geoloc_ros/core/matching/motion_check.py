# SPDX-License-Identifier: Apache-2.0
"""Measured motion against what the fixes alone say: odometry that lies must not carry the track away."""

import math

import numpy as np

from geoloc_ros.core.matching.match_frame import Match
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.tracker import Tracker
from geoloc_ros.core.recording.motion import Displacement

NOISE_SIGMAS = 4.0
"""How much noise may explain, standard deviations."""
KNOWN_SPEED_M_S = 3.0
"""Standard deviation of the speed by fixes alone up to which agreement with it restores trust."""


class MotionCheck:
    """Follows the vehicle by fixes alone beside the track that uses measured motion, too.

    alone: that track. trusted: whether motion is used: not after a contradiction until it agrees with fixes again.
    refused: displacements left out.
    """

    def __init__(self, settings: LocalizerSettings, tracker: Tracker) -> None:
        self._settings = settings
        self.alone = tracker.copy()
        self.trusted = True
        self.refused = 0

    def usable(self, motion: tuple[Displacement, ...], stamp_s: float) -> tuple[Displacement, ...]:
        """What may move the track on to stamp_s; moves the track by fixes alone on, too."""
        s = self._settings.track
        track = self.alone.track()
        sigma_m_s = math.sqrt(float(np.linalg.eigvalsh(track.covariance[2:, 2:])[-1]))
        kept = []
        for step in motion:
            time_s = step.stop_s - step.start_s
            if time_s <= 0:
                continue
            noise_m_s = math.sqrt(float(np.linalg.eigvalsh(step.covariance_enu_m2)[-1])) / time_s
            off_m_s = float(np.linalg.norm(step.enu_m / time_s - np.array(track.velocity_enu)))
            known_s = max(0.0, step.stop_s - (self.alone.stamp_s or step.stop_s))
            limit_m_s = s.max_acceleration_m_s2 * known_s + NOISE_SIGMAS * math.hypot(sigma_m_s, noise_m_s)
            if off_m_s > limit_m_s:
                self.trusted = False
            elif sigma_m_s <= KNOWN_SPEED_M_S:
                self.trusted = True
            if self.trusted:
                kept.append(step)
            else:
                self.refused += 1
        self.alone.predict(stamp_s, s.sigma_acceleration_m_s2)
        return tuple(kept)

    def explains(self, match: Match) -> bool:
        """Whether a fix that is off the track agrees with fixes alone: the motion was wrong, and is trusted no more."""
        if self.alone.sigma_m > self._settings.track.confirm_sigma_m:
            return False
        distance2 = self.alone.distance2(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
        if distance2 > self._settings.gate.max_sigma**2:
            return False
        self.trusted = False
        return True

    def update(self, match: Match) -> None:
        """Take in an accepted fix."""
        self.alone.update(match.lat_deg, match.lon_deg, match.covariance_enu_m2)
