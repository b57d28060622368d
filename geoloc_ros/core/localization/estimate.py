# SPDX-License-Identifier: Apache-2.0
"""What the localizer answers to one frame."""

import math
from dataclasses import dataclass, field

import numpy as np

from geoloc_models.drl.alignment import Alignment
from geoloc_models.drl.heatmap import Heatmap
from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.localization.own_motion import MotionUse
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.matching.pose_bias import PoseBias
from geoloc_ros.core.matching.tracker import Track
from geoloc_ros.core.relocalization.hypotheses import Hypothesis


def _nan_covariance() -> np.ndarray:
    return np.full((2, 2), math.nan)


@dataclass(frozen=True)
class Estimate:
    """The answer to one frame.

    valid: a fix that passed every gate; `reason` states why otherwise. lat_deg, lon_deg, covariance_enu_m2 (2, 2),
    m^2: the frame's own fix, of the vehicle and not of the view's centre; while TRACKING the heatmap's posterior given
    the track; NaN if there is none. filtered: the track after this frame without unconfirmed fixes, None without a
    track. alignment: of the frame's view, relative to what the bias of the answer before had corrected, None where it
    was not aligned. bias: what the track has learned, this frame's alignment included, None without a track.
    candidates: of a search of the whole map (`relocalizer.Search`). crops: how many map crops were matched.
    motion: what moved the track on to this frame. latencies_ms: by stage (`stage_times.STAGES`), and `total`.
    """

    stamp_s: float
    state: State
    valid: bool
    reason: str
    lat_deg: float = math.nan
    lon_deg: float = math.nan
    covariance_enu_m2: np.ndarray = field(default_factory=_nan_covariance)
    filtered: Track | None = None
    heatmap: Heatmap | None = None
    crop: MapCrop | None = None
    view: RectifiedView | None = None
    search_size_m: float = math.nan
    latencies_ms: dict[str, float] = field(default_factory=dict)
    alignment: Alignment | None = None
    bias: PoseBias | None = None
    candidates: tuple[Hypothesis, ...] = ()
    crops: int = 0
    motion: MotionUse = field(default_factory=MotionUse)
