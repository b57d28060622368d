# SPDX-License-Identifier: Apache-2.0
"""All thresholds of localizer and relocalizer, each a parameter of the node."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from geoloc_models.errors import GeolocError


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
    heading_trusted: bool = _setting(
        True,
        "whether attitude tells the heading to 15 degrees; false: a lost vehicle is searched in all headings",
    )
    cold_start: bool = _setting(
        True, "whether a start without prior searches the whole gallery, where there is one"
    )
    max_entropy: float = _setting(
        0.75, "a heatmap with more entropy shows that the place is not in the search map, 0..1"
    )
    doubt_contradicted: float = _setting(
        3.0, "how fast doubt grows while frames clearly place the vehicle elsewhere than the track, s/s"
    )
    doubt_diffuse: float = _setting(1.5, "how fast doubt grows while heatmaps exceed max_entropy, s/s")
    doubt_relief: float = _setting(4.0, "how fast accepted fixes take doubt away, s/s")
    lost_after_misses: int = _setting(3, "least frames in a row without a fix before the track is lost")
    search_after_s: float = _setting(8.0, "as lost_after_s, where there is a gallery to search, s")
    search_radius_m: float = _setting(
        0.0, "a lost vehicle is searched within so much of where it was lost, m; 0: on the whole map"
    )
    search_places: int = _setting(8, "places that the network verifies in each frame of a search")
    search_hypotheses: int = _setting(5, "of them at most so many that earlier frames have found")
    search_memory_s: float = _setting(
        2.0, "how long a place that did not fit is passed over for the next most similar, s"
    )
    accept_odds: float = _setting(
        1000.0, "odds of a place against all others together at which it is accepted"
    )
    accept_frames: int = _setting(3, "frames in which an accepted place has been the network's answer")
    max_evidence: float = _setting(
        13.0, "most that one frame may tell for a place, natural logarithm of odds"
    )
    look_alike: float = _setting(
        4.0,
        "evidence that a place which only looks alike may give, natural logarithm of odds; less counts against",
    )
    new_ground: float = _setting(
        0.25,
        "share of a view that must be new for a frame to count in full; a vehicle at rest sees nothing new",
    )
    sigma_map_m: float = _setting(1.0, "error of the map's georeference, m (1 sigma per axis)")

    def __post_init__(self) -> None:
        """GeolocError for a value that no flight could be located with."""
        for setting in fields(self):
            number = getattr(self, setting.name)
            # Without a spread of its own the prior on the heatmap would be a point.
            least = _LEAST.get(setting.name, 0)
            most = 1.0 if setting.name in _SHARES else math.inf
            if not (math.isfinite(number) and least <= number <= most):
                limit = f"{least} to {most:g}" if math.isfinite(most) else f"{least} or more"
                raise GeolocError(f"{setting.name} is {number}; it must be {limit}")


_LEAST = {
    "confirm_frames": 1,
    "max_search_px": 1,
    "min_prior_m": 0.1,
    "lost_after_misses": 1,
    "search_places": 2,
    "search_hypotheses": 1,
    "accept_odds": 1,
    "accept_frames": 2,
    "new_ground": 0.01,
}
_SHARES = frozenset(
    {
        "min_peak",
        "min_support",
        "min_coverage",
        "min_view_coverage",
        "min_start_peak",
        "max_entropy",
        "new_ground",
    }
)
