# SPDX-License-Identifier: Apache-2.0
"""LocalizerStatus and diagnostics, and what the gate before an autopilot takes from status and fix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import NavSatFix

from geoloc_ros.core.autopilot.fix_gate import Fix, FixStatus
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.matching.stage_times import STAGES
from geoloc_ros.messages.reading import STATUS_FIX
from geoloc_ros.messages.sensors import header
from geoloc_ros.messages.stamps import message_time_s
from geoloc_ros.msg import Candidate, LocalizerStatus

if TYPE_CHECKING:  # this brings the network along, which diagnostics alone do not need
    from geoloc_ros.core.localization.estimate import Estimate

LATENCIES = (*STAGES, "total", "age")
"""Every `latency_{name}_ms` of LocalizerStatus."""


def latencies_ms(message: LocalizerStatus) -> dict[str, float]:
    """A frame's latencies by name, without those that do not apply to it."""
    found = {name: getattr(message, f"latency_{name}_ms") for name in LATENCIES}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def status_from_estimate(
    estimate: Estimate,
    heading_deg: float,
    stamp: Time,
    frame_id: str,
    latencies_ms: Mapping[str, float],
    counts: tuple[int, int],
    engine: tuple[str, str],
) -> LocalizerStatus:
    """One frame's status.

    heading_deg: of the vehicle, corrected, NaN if unknown; latencies_ms: by stage; counts: (frames, dropped);
    engine: (weights id, device).
    """
    track = estimate.filtered
    message = LocalizerStatus(state=int(estimate.state), valid=estimate.valid, reason=estimate.reason)
    message.header = header(stamp, frame_id)
    heatmap = estimate.heatmap
    message.peak = 0.0 if heatmap is None else float(heatmap.peak)
    message.peak_ratio = math.nan if heatmap is None else float(heatmap.peak_ratio)
    message.entropy = math.nan if heatmap is None else float(heatmap.entropy)
    message.sigma_m = math.nan if track is None else math.sqrt(np.linalg.eigvalsh(track.covariance[:2, :2])[-1])
    searched = estimate.crop
    message.search_size_m = float(estimate.search_size_m if searched is None else searched.size_m)
    message.crops = estimate.crops
    message.motion_source, message.motion_refused = estimate.motion.source, estimate.motion.refused
    message.candidates = [
        Candidate(
            latitude_deg=candidate.tracker.place[0],
            longitude_deg=candidate.tracker.place[1],
            log_odds=candidate.log_odds,
            similarity=candidate.similarity,
            frames=candidate.frames,
            heading_deg=candidate.heading_deg,
        )
        for candidate in estimate.candidates
    ]
    _set_bias(message, estimate, heading_deg)
    for name in LATENCIES:
        setattr(message, f"latency_{name}_ms", float(latencies_ms.get(name, math.nan)))
    message.frames, message.dropped = counts
    message.weights_id, message.device = engine
    return message


def _set_bias(message: LocalizerStatus, estimate: Estimate, heading_deg: float) -> None:
    """What the track has learned about the vehicle's own pose; NaN where nothing."""
    bias, alignment = estimate.bias, estimate.alignment
    values, sigmas, scale = np.full(4, math.nan), np.full(4, math.nan), math.nan
    if bias is not None:
        scale = math.exp(bias.log_height_scale)
        values = np.degrees([bias.heading_rad, math.nan, *bias.boresight_rad])
        sigmas = np.sqrt(np.diag(bias.covariance))
    message.heading_deg = heading_deg
    message.heading_offset_deg, message.sigma_heading_offset_deg = float(values[0]), math.degrees(sigmas[0])
    message.height_scale, message.sigma_height_scale = scale, float(scale * sigmas[1])
    message.boresight_deg = values[2:].astype(np.float32)
    message.sigma_boresight_deg = np.degrees(sigmas[2:]).astype(np.float32)
    message.alignment_heading_deg = math.nan if alignment is None else math.degrees(alignment.heading_rad)
    message.alignment_support = math.nan if alignment is None else float(alignment.support)


def diagnostic_array(
    stamp: Time, name: str, hardware_id: str, level: bytes, text: str, values: Mapping[str, object]
) -> DiagnosticArray:
    """One DiagnosticStatus in an array, as /diagnostics carries it; `level` is one of DiagnosticStatus."""
    status = DiagnosticStatus(level=level, name=name, message=text, hardware_id=hardware_id)
    status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def gate_input_from_fix(message: NavSatFix) -> Fix:
    """The localizer's fix as the gate before an autopilot takes it; altitude still ellipsoidal, NaN if unknown."""
    return Fix(
        stamp_s=message_time_s(message),
        valid=message.status.status >= STATUS_FIX,
        lat_deg=message.latitude,
        lon_deg=message.longitude,
        altitude_m=message.altitude,
        covariance_enu_m2=np.array(message.position_covariance, dtype=np.float64).reshape(3, 3),
    )


def gate_status_from_status(message: LocalizerStatus) -> FixStatus:
    """What the gate needs of the localizer's status."""
    return FixStatus(
        State(message.state),
        message.valid,
        message.frames,
        message.heading_deg,
        message.sigma_heading_offset_deg,
        message.alignment_heading_deg,
    )
