# SPDX-License-Identifier: Apache-2.0
"""All thresholds of the localizer in groups; each is a parameter of the node, `GROUP.NAME`.

Range and unit stand beside each value. The node declares what it finds here, so `ros2 param describe` shows it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

from geoloc_models.errors import GeolocError


def _setting(default: Any, low: float, high: float, description: str) -> Any:
    return field(default=default, metadata={"description": description, "range": (low, high)})


def _switch(default: bool, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True)
class GateSettings:
    """What a match must show to become a fix (gates.py)."""

    min_peak: float = _setting(0.5, 0, 1, "minimum probability mass around the peak, given the track, for a fix")
    min_start_peak: float = _setting(0.8, 0, 1, "as min_peak, while no track is confirmed")
    min_peak_ratio: float = _setting(3.0, 0, 1000, "minimum ratio of the peak to the second mode for a fix")
    min_support: float = _setting(0.25, 0, 1, "minimum probability mass around the peak without the track")
    min_alignment: float = _setting(
        0.15,
        0,
        1,
        "minimum share of the view's blocks that must agree on a place while tracking, and for its alignment",
    )
    min_start_alignment: float = _setting(0.3, 0, 1, "as min_alignment, while no track is confirmed")
    min_start_odds: float = _setting(
        3000.0, 1, 1e12, "minimum odds of a place over the next one, where other headings and heights had to be tried"
    )
    decisive_evidence: float = _setting(
        48.0,
        0,
        1e6,
        "evidence of an alignment, natural logarithm of odds against chance, from which one frame alone is enough at a "
        "start and after a gap",
    )
    max_sigma: float = _setting(
        4.0, 0, 100, "maximum distance of a fix from the predicted position, standard deviations"
    )
    min_map_coverage: float = _setting(0.5, 0, 1, "minimum share of the search map that holds map data")
    min_view_coverage: float = _setting(0.6, 0, 1, "minimum share of the rectified view that the camera saw")


@dataclass(frozen=True)
class TrackSettings:
    """How the track moves, and when it is confirmed and lost (tracker.py, track_loss.py)."""

    confirm_frames: int = _setting(
        3, 1, 100, "fixes that must agree before they count, at a start and after a long gap"
    )
    confirm_sigma_m: float = _setting(
        50.0, 0, 1e5, "position uncertainty above which fixes must be confirmed again, m (1 sigma)"
    )
    lost_after_s: float = _setting(20.0, 0, 3600, "loss score at which the track is lost, s without an accepted fix")
    lost_after_misses: int = _setting(
        3, 1, 1000, "minimum number of consecutive frames without a fix before the track is lost"
    )
    lost_sigma_m: float = _setting(150.0, 0, 1e5, "position uncertainty above which the track is lost, m (1 sigma)")
    max_entropy: float = _setting(
        0.75, 0, 1, "entropy of a heatmap above which the place is unlikely to be in the search map"
    )
    loss_rate_contradicted: float = _setting(
        3.0, 0, 100, "rate of the loss score while frames clearly place the vehicle elsewhere than the track, s/s"
    )
    loss_rate_diffuse: float = _setting(1.5, 0, 100, "rate of the loss score while heatmaps exceed max_entropy, s/s")
    loss_relief: float = _setting(4.0, 0, 100, "rate at which accepted fixes lower the loss score, s/s")
    prior_scale: float = _setting(2.0, 0, 100, "width of the prior on the heatmap, in standard deviations of the track")
    min_prior_m: float = _setting(15.0, 0.1, 1e4, "minimum standard deviation of the prior on the heatmap, m")
    sigma_acceleration_m_s2: float = _setting(1.5, 0, 100, "unknown acceleration of the vehicle, m/s^2 (1 sigma)")
    sigma_speed_m_s: float = _setting(10.0, 0, 1000, "unknown speed at a new prior, m/s (1 sigma per axis)")
    sigma_odometry_m_s: float = _setting(0.5, 0, 100, "least error of the odometry's velocity, m/s (1 sigma per axis)")
    max_speed_m_s: float = _setting(
        40.0, 1, 1000, "what the vehicle can do, m/s: odometry beyond it is refused, and no search goes further"
    )
    max_acceleration_m_s2: float = _setting(
        15.0, 0.1, 1000, "what the vehicle can do, m/s^2: odometry beyond it is refused"
    )


@dataclass(frozen=True)
class SearchSettings:
    """The search of the whole map for a vehicle without a track (relocalization/)."""

    cold_start: bool = _switch(True, "whether a start without a prior searches the whole gallery, if there is one")
    after_s: float = _setting(8.0, 0, 3600, "as track.lost_after_s, if there is a gallery to search, s")
    radius_m: float = _setting(
        0.0, 0, 1e6, "radius of the search around the place where the track was lost, m; 0: the whole map"
    )
    places: int = _setting(8, 2, 64, "places that the network verifies in each frame of a search")
    hypotheses: int = _setting(5, 1, 64, "maximum number of these places that earlier frames have found")
    memory_s: float = _setting(
        2.0, 0, 600, "time for which a place that did not fit is skipped in favour of the next most similar, s"
    )
    accept_odds: float = _setting(
        1000.0, 1, 1e12, "odds of a place against all others together at which it is accepted"
    )
    accept_frames: int = _setting(3, 2, 100, "minimum number of frames in which the network found an accepted place")
    max_evidence: float = _setting(13.0, 0, 100, "maximum evidence of one frame for a place, natural logarithm of odds")
    look_alike: float = _setting(
        4.0,
        0,
        100,
        "evidence that a place which only looks alike may give, natural logarithm of odds; less counts against it",
    )
    new_ground: float = _setting(
        0.25, 0.01, 1, "share of a view that must be new for a frame to count in full; at rest nothing is new"
    )


@dataclass(frozen=True)
class PoseSettings:
    """How well attitude, heading and height are known."""

    heading_trusted: bool = _switch(
        True, "whether the heading is known to 15 degrees; false: a lost vehicle is searched in all headings"
    )
    sigma_attitude_deg: float = _setting(1.0, 0, 45, "error of roll and pitch from the IMU, degrees (1 sigma)")
    sigma_nadir_deg: float = _setting(
        5.0, 0, 45, "error of roll and pitch if the camera is assumed level, degrees (1 sigma)"
    )
    bias_heading_deg: float = _setting(
        10.0, 0, 90, "constant error of the heading before it is learned, degrees (1 sigma); 0: not learned"
    )
    bias_height_share: float = _setting(
        0.15, 0, 0.5, "constant error of the height before it is learned, share of it (1 sigma); 0: not learned"
    )
    bias_boresight_deg: float = _setting(
        2.0,
        0,
        20,
        "roll and pitch error of a mount that is off, degrees (1 sigma); corrected once the views show that it is; "
        "0: not learned",
    )
    drift_heading_deg_s: float = _setting(
        0.1, 0, 10, "drift of the heading's error, degrees per square root of a second (1 sigma)"
    )
    drift_height_share_s: float = _setting(
        0.002, 0, 1, "drift of the height's error, share of the height per square root of a second (1 sigma)"
    )
    drift_boresight_deg_s: float = _setting(
        0.01, 0, 10, "drift of the mount's error, degrees per square root of a second (1 sigma)"
    )
    max_heading_deg: float = _setting(40.0, 0, 180, "maximum heading error that is learned, degrees")
    max_height_share: float = _setting(0.5, 0, 2, "maximum height error that is learned, share of the height")
    max_boresight_deg: float = _setting(
        10.0, 0, 45, "maximum error of the mount that is learned, roll or pitch, degrees"
    )


@dataclass(frozen=True)
class MapSettings:
    """The search map of a frame."""

    sigma_m: float = _setting(1.0, 0, 1000, "error of the map's georeference, m (1 sigma per axis)")
    search_sigma: float = _setting(
        3.0, 0, 20, "half-width of the search around the predicted position, standard deviations"
    )
    min_search_m: float = _setting(20.0, 0, 1e4, "minimum half-width of the search around the predicted position, m")
    max_search_px: int = _setting(
        768, 1, 8192, "maximum side of the search map, px; a larger search gets coarser pixels"
    )


@dataclass(frozen=True)
class LocalizerSettings:
    """All groups; GeolocError for a value out of its range."""

    gate: GateSettings = GateSettings()
    track: TrackSettings = TrackSettings()
    search: SearchSettings = SearchSettings()
    pose: PoseSettings = PoseSettings()
    map: MapSettings = MapSettings()

    def __post_init__(self) -> None:
        for name, setting in described_settings():
            group, _, key = name.partition(".")
            number = getattr(getattr(self, group), key)
            low, high = setting.metadata.get("range", (0, 1))
            if not (math.isfinite(number) and low <= number <= high):
                raise GeolocError(f"{name} is {number}; it must be {low:g} to {high:g}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "LocalizerSettings":
        """The defaults with these values, named `group.name`; GeolocError for an unknown name."""
        groups: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
        known = {name for name, _ in described_settings()}
        for name, number in values.items():
            if name not in known:
                raise GeolocError(f"there is no setting {name}; there are {', '.join(sorted(known))}")
            group, _, key = name.partition(".")
            groups[group][key] = number
        return cls(**{name: group(**groups[name]) for name, group in _GROUPS.items()})


_GROUPS: dict[str, Any] = {group.name: type(group.default) for group in fields(LocalizerSettings)}


def described_settings() -> Iterator[tuple[str, Field[Any]]]:
    """`group.name` of every setting with its field: default, metadata `description` and `range` (low, high)."""
    for name, group in _GROUPS.items():
        for setting in fields(group):
            yield f"{name}.{setting.name}", setting
