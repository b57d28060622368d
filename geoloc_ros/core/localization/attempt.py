# SPDX-License-Identifier: Apache-2.0
"""One frame on its way from the camera to the answer."""

import math
from dataclasses import dataclass, field
from typing import Any

from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.matching.match_frame import Match
from geoloc_ros.core.matching.pose_bias import PoseBias
from geoloc_ros.core.matching.stage_times import StageTimes
from geoloc_ros.core.matching.tracker import Track
from geoloc_ros.core.recording.frame import Frame


@dataclass
class Attempt:
    """One frame on its way to an answer, as far as it has come."""

    frame: Frame
    half_width_m: float = math.nan
    view: RectifiedView | None = None
    crop: MapCrop | None = None
    match: Match | None = None
    bias: PoseBias | None = None
    times: StageTimes = field(default_factory=StageTimes)

    def answer(self, code: State, track: Track | None, reason: str = "") -> Estimate:
        """The estimate; a reason makes it invalid."""
        match = self.match
        found: dict[str, Any] = {}
        if match is not None:
            found = {
                "lat_deg": match.lat_deg,
                "lon_deg": match.lon_deg,
                "covariance_enu_m2": match.covariance_enu_m2,
                "heatmap": match.heatmap,
                "alignment": match.alignment,
                "crops": 1,
            }
        return Estimate(
            stamp_s=self.frame.stamp_s,
            state=code,
            valid=not reason,
            reason=reason,
            filtered=track,
            crop=self.crop,
            view=self.view,
            bias=self.bias,
            search_size_m=2 * self.half_width_m,
            latencies_ms=self.times.ms | {"total": self.times.total_ms()},
            **found,
        )
