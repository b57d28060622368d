# SPDX-License-Identifier: Apache-2.0
"""Answers to the frames of a flight: their scores, the worst of them as images, and searches."""

import math
from dataclasses import dataclass, replace

import numpy as np

from geoloc_ros.core.evaluation.scores import Closeup, FrameScore, SearchRecord, score_fix
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.overlay import draw_candidates
from geoloc_ros.core.recording.frame import Truth

CLOSEUPS = 10
"""Worst frames that are kept with their pictures, and searches: a flight may be longer than memory is wide."""

_APART = 5
"""Frames between two of them at least, so that one bad place does not fill the page."""


@dataclass(frozen=True)
class Answer:
    """The localizer's answer to one frame of a flight. searching: whether the next one is searched on the whole map."""

    estimate: Estimate
    score: FrameScore
    truth: Truth
    searching: bool = False

    @classmethod
    def of(
        cls, index: int, estimate: Estimate, truth: Truth, searching: bool = False, dropped: bool = False
    ) -> "Answer":
        """With its score; an answer that the localizer refused itself is a miss. dropped: no image could be decoded."""
        heading_error_deg, height_scale_error_percent = pose_errors(*_found_pose(estimate), truth)
        score = score_fix(
            index=index,
            stamp_s=estimate.stamp_s,
            truth_lat_lon_deg=(truth.lat_deg, truth.lon_deg),
            lat_lon_deg=(estimate.lat_deg, estimate.lon_deg) if estimate.valid else None,
            covariance_enu_m2=estimate.covariance_enu_m2,
            search_size_m=estimate.crop.size_m if estimate.crop is not None else math.nan,
            height_m=truth.height_above_ground_m,
            latency_ms=estimate.latencies_ms["total"],
            stages_ms={stage: ms for stage, ms in estimate.latencies_ms.items() if stage != "total"},
            dropped=dropped,
            state=estimate.state.name,
            peak=estimate.heatmap.peak if estimate.heatmap is not None else math.nan,
            reason=estimate.reason,
            heading_error_deg=heading_error_deg,
            height_scale_error_percent=height_scale_error_percent,
            support=estimate.alignment.support if estimate.alignment is not None else math.nan,
        )
        return cls(estimate, score, truth, searching)

    def closeup(self) -> Closeup | None:
        """The images of the frame, if it got as far as a crop of the map."""
        estimate, view, crop = self.estimate, self.estimate.view, self.estimate.crop
        if view is None or crop is None:
            return None
        title = f"Frame {self.score.index}: no fix, {estimate.reason}"
        if estimate.valid:
            sigma_m = math.sqrt(max(float(np.linalg.eigvalsh(estimate.covariance_enu_m2)[-1]), 0.0))
            title = f"Frame {self.score.index}: {self.score.error_m:.1f} m off, σ {sigma_m:.1f} m"
        side, heatmap = crop.image.shape[0], estimate.heatmap
        place = LocalEnu(self.truth.lat_deg, self.truth.lon_deg).to_geodetic(*view.centre_offset_enu_m)
        x_px, y_px = crop.geodetic_to_pixel(*place)
        return Closeup(
            index=self.score.index,
            title=title,
            query=view.image,
            search_map=crop.image,
            heatmap=heatmap.resized(side, side) if heatmap is not None else None,
            fix_xy_px=heatmap.peak_xy_px if heatmap is not None else None,
            truth_xy_px=(float(x_px), float(y_px)),
        )


def _found_pose(estimate: Estimate) -> tuple[float, float]:
    """Heading offset, degrees, and height scale that were found; NaN where none were.

    A track's bias has taken in the frame's alignment, which counts alone without a track.
    """
    bias, alignment = estimate.bias, estimate.alignment
    if bias is not None:
        return math.degrees(bias.heading_rad), math.exp(bias.log_height_scale)
    if alignment is not None:
        return math.degrees(alignment.heading_rad), math.exp(alignment.log_scale)
    return math.nan, math.nan


def pose_errors(heading_offset_deg: float, height_scale: float, truth: Truth) -> tuple[float, float]:
    """Absolute errors of the heading, degrees, and of the height scale, percent, that were found; NaN stays NaN."""
    off_deg = heading_offset_deg - truth.heading_offset_deg
    return abs((off_deg + 180.0) % 360.0 - 180.0), 100.0 * abs(height_scale / truth.height_scale - 1.0)


class WorstFrames:
    """The worst few frames with their images, worst first; of frames close to each other only the worst is kept."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Closeup]] = []

    @property
    def closeups(self) -> list[Closeup]:
        """Worst first."""
        return [closeup for _, closeup in self._kept]

    def offer(self, answer: Answer) -> None:
        """One more frame; its images are only made if it is among the worst so far."""
        # A refused frame is shown only if there are not enough fixes to show.
        index, badness = answer.score.index, answer.score.error_m if answer.score.valid else -1.0
        if len(self._kept) == CLOSEUPS and badness <= self._kept[-1][0]:
            return
        near = [item for item in self._kept if abs(item[1].index - index) < _APART]
        if any(item[0] >= badness for item in near):
            return
        closeup = answer.closeup()
        if closeup is not None:
            others = [item for item in self._kept if abs(item[1].index - index) >= _APART]
            self._kept = sorted([*others, (badness, closeup)], key=lambda item: -item[0])[:CLOSEUPS]


class SearchLog:
    """The searches of a run, recorded frame by frame."""

    def __init__(self) -> None:
        self.records: list[SearchRecord] = []
        self._goes_on = False

    def add(self, answer: Answer) -> None:
        """One frame; frames outside a search change nothing."""
        estimate, score = answer.estimate, answer.score
        if answer.searching or estimate.candidates:
            last = self.records.pop() if self._goes_on else None
            picture = last.picture if last else None
            if estimate.candidates:
                picture = draw_candidates(estimate, (score.truth_lat_deg, score.truth_lon_deg))
            begin_s = last.begin_s if last else estimate.stamp_s
            self.records.append(
                SearchRecord(
                    begin_s=begin_s,
                    duration_s=estimate.stamp_s - begin_s,
                    frames=last.frames + 1 if last else 1,
                    accepted=estimate.valid,
                    log_odds=estimate.candidates[0].log_odds if estimate.candidates else -math.inf,
                    error_m=score.error_m,
                    picture=picture,
                )
            )
            self._keep_few_pictures()
        self._goes_on = answer.searching

    def _keep_few_pictures(self) -> None:
        """Only the longest searches keep their pictures."""
        shown = [place for place, record in enumerate(self.records[:-1]) if record.picture is not None]
        if len(shown) >= CLOSEUPS:
            least = min(shown, key=lambda place: self.records[place].duration_s)
            self.records[least] = replace(self.records[least], picture=None)
