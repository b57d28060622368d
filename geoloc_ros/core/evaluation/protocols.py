# SPDX-License-Identifier: Apache-2.0
"""A flight through the localizer without DDS: frame by frame, and the same figures every time.

Tracking is what a vehicle does: one prior, then every frame builds on the last. Independent scores each frame
alone in a map crop of fixed size that is off by a seeded offset, which is what papers report.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.view_sets import MAX_CENTRE_OFFSET
from geoloc_ros.core.bags.bag import Bag
from geoloc_ros.core.evaluation.scores import Closeup, FrameScore, Run, SearchRecord, rounded, score_fix
from geoloc_ros.core.evaluation.search_protocols import Kidnap, Step, kidnapped, times_to_relocalize_s
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.overlay import draw_candidates
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.crop import MapCrop, MapSource
from geoloc_ros.core.matching.match_frame import Match, Refused, match_frame
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Frame, Truth, noisy_prior
from geoloc_ros.core.relocalization.relocalizer import Relocalizer

CLOSEUPS = 10
"""Worst frames that are kept with their pictures, and searches: a flight may be longer than memory is wide."""

_APART = 5
"""Frames between two of them at least, so that one bad place does not fill the page."""


@dataclass(frozen=True)
class FlightProtocol:
    """How a flight is scored."""

    prior_noise_m: float = 30.0
    """Tracking: how far off the first prior is, in a seeded direction."""
    crop_m: float | None = None
    """Independent: side of the map crop that every frame is searched in; None tracks."""
    seed: int = 0
    kidnap: bool = False
    """Tracking: kidnap the vehicle on the way (`search_evaluation.kidnapped`)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.prior_noise_m) and self.prior_noise_m >= 0):
            raise GeolocError(f"a prior noise of {self.prior_noise_m} m is not possible; give 0 or more")
        if self.crop_m is not None and not (math.isfinite(self.crop_m) and self.crop_m > 0):
            raise GeolocError(f"a map crop of {self.crop_m} m cannot be searched; give a positive side")

    @property
    def mode(self) -> str:
        if self.kidnap:
            return "kidnapped"
        return "tracking" if self.crop_m is None else "independent"


def evaluate_flight(
    frames: Iterable[Frame],
    engine: Engine,
    map_source: MapSource,
    protocol: FlightProtocol,
    settings: LocalizerSettings | None = None,
    name: str = "geoloc",
    advance: Callable[[], None] = lambda: None,
    relocalizer: Relocalizer | None = None,
    expected: int | None = None,
) -> Run:
    """Score every frame that has a truth; `advance()` is called after each. GeolocError if none has.

    relocalizer: finds a track that was lost again, unless frames are scored alone. expected: how many frames there are
    to read, where that is known. KeyboardInterrupt ends the run early: what was scored until then is returned, with
    `Run.stopped` set; it is raised on where nothing was.
    """
    settings = settings or LocalizerSettings()
    # Networks and libraries allocate at their first call, which belongs to no frame.
    blank = np.zeros((engine.query_px, engine.query_px, 3), np.uint8)
    engine.infer(blank, np.tile(blank, (3, 3, 1)))
    events: list[Kidnap] = []
    searches = _SearchLog()
    read = 0

    def counted(recorded: Iterable[Frame]) -> Iterator[Frame]:
        nonlocal read
        for frame in recorded:
            yield frame
            read += 1

    if protocol.crop_m is None:
        if protocol.kidnap:
            if not isinstance(frames, Flight | Bag):
                raise GeolocError("only a whole recording can be staged for a kidnap: leave --frames out")
            steps, events = kidnapped(frames, protocol.seed)
            expected = None  # some frames are left out, to move the vehicle
        else:
            steps = (Step(frame, frame.truth) for frame in counted(frames) if frame.truth is not None)
        answers = _track(steps, Localizer(engine, map_source, settings, relocalizer), protocol, searches)
    else:
        with_truth = ((frame, frame.truth) for frame in counted(frames) if frame.truth is not None)
        answers = _alone(with_truth, engine, map_source, protocol, protocol.crop_m, settings)
    scores: list[FrameScore] = []
    worst = _Worst()
    stopped = False
    try:
        for score, closeup in answers:
            scores.append(score)
            worst.offer(score, closeup)
            advance()
    except KeyboardInterrupt:
        if not scores:
            raise
        stopped = True
    if not scores:
        raise GeolocError("no frame has a true position, so there is nothing to score; record a truth topic")
    return Run(
        name=name,
        mode=protocol.mode,
        weights=engine.weights_id,
        device=engine.device,
        frames=scores,
        closeups=worst.closeups,
        about=_about(protocol) | _recoveries(events, scores),
        searches=searches.records,
        stopped=stopped,
        frames_read=max(read, len(scores)) if expected is not None else None,
        frames_expected=expected,
    )


class _Worst:
    """The worst few frames with their pictures, worst first; of frames close to each other only the worst is kept."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Closeup]] = []

    @property
    def closeups(self) -> list[Closeup]:
        return [closeup for _, closeup in self._kept]

    def offer(self, score: FrameScore, make_closeup: Callable[[], Closeup | None]) -> None:
        """One more frame; its pictures are only made if it is among the worst so far."""
        # A refused frame is shown only where there are not enough fixes to show.
        badness = score.error_m if score.valid else -1.0
        if len(self._kept) == CLOSEUPS and badness <= self._kept[-1][0]:
            return
        near = [item for item in self._kept if abs(item[1].index - score.index) < _APART]
        if any(item[0] >= badness for item in near):
            return
        closeup = make_closeup()
        if closeup is not None:
            others = [item for item in self._kept if abs(item[1].index - score.index) >= _APART]
            self._kept = sorted([*others, (badness, closeup)], key=lambda item: -item[0])[:CLOSEUPS]


def _about(protocol: FlightProtocol) -> dict[str, Any]:
    if protocol.crop_m is None:
        return {"seed": protocol.seed, "prior_noise_m": protocol.prior_noise_m}
    return {"seed": protocol.seed, "crop_m": protocol.crop_m}


def _recoveries(events: Sequence[Kidnap], scores: Sequence[FrameScore]) -> dict[str, Any]:
    """How long it took to be found again after each event, s; null where it was not."""
    if not events:
        return {}
    times = times_to_relocalize_s(
        events, [score.stamp_s for score in scores], [score.valid for score in scores]
    )
    return {
        "kidnaps": [
            {"what": event.what, "found_after_s": rounded(time_s, 3)}
            for event, time_s in zip(events, times, strict=True)
        ]
    }


def _track(
    steps: Iterator[Step], localizer: Localizer, protocol: FlightProtocol, searches: _SearchLog
) -> Iterator[tuple[FrameScore, Callable[[], Closeup | None]]]:
    """One prior at the first frame, then as in flight; searches of the whole map are noted."""
    for index, step in enumerate(steps):
        if index == 0:
            localizer.set_prior(*noisy_prior(step.truth, protocol.prior_noise_m, protocol.seed))
        if step.prior is not None:
            localizer.set_prior(*step.prior)
        estimate = localizer.process(step.frame)
        score = score_estimate(index, estimate, step.truth, dropped=step.frame.image is None)
        searches.add(estimate, score, localizer.searching)
        yield score, functools.partial(_closeup, index, estimate, step.truth)


class _SearchLog:
    """Notes the searches of a run, frame by frame."""

    def __init__(self) -> None:
        self.records: list[SearchRecord] = []
        self._goes_on = False

    def add(self, estimate: Estimate, score: FrameScore, goes_on: bool) -> None:
        """One frame; goes_on: whether the next one is searched too. Frames of no search change nothing."""
        if goes_on or estimate.candidates:
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
        self._goes_on = goes_on

    def _keep_few_pictures(self) -> None:
        """Only the longest searches keep their pictures."""
        shown = [place for place, record in enumerate(self.records[:-1]) if record.picture is not None]
        if len(shown) >= CLOSEUPS:
            least = min(shown, key=lambda place: self.records[place].duration_s)
            self.records[least] = dataclasses.replace(self.records[least], picture=None)


def score_estimate(index: int, estimate: Estimate, truth: Truth, dropped: bool = False) -> FrameScore:
    """Score what the localizer said of a frame; an answer that it refused itself is none.

    dropped: the frame had no picture that could be decoded.
    """
    return score_fix(
        index=index,
        stamp_s=estimate.stamp_s,
        truth_lat_lon_deg=(truth.lat_deg, truth.lon_deg),
        lat_lon_deg=(estimate.lat_deg, estimate.lon_deg) if estimate.valid else None,
        covariance_enu_m2=estimate.covariance_enu_m2,
        search_size_m=estimate.crop.size_m if estimate.crop is not None else float("nan"),
        height_m=truth.height_above_ground_m,
        latency_ms=estimate.latencies_ms.get("total", float("nan")),
        stages_ms={stage: ms for stage, ms in estimate.latencies_ms.items() if stage != "total"},
        dropped=dropped,
        state=estimate.state.name,
        peak=estimate.heatmap.peak if estimate.heatmap is not None else float("nan"),
        reason=estimate.reason,
    )


def _alone(
    frames: Iterator[tuple[Frame, Truth]],
    engine: Engine,
    map_source: MapSource,
    protocol: FlightProtocol,
    crop_m: float,
    settings: LocalizerSettings,
) -> Iterator[tuple[FrameScore, Callable[[], Closeup | None]]]:
    """Each frame in its own crop; the answer is scored whether or not it is confident, `valid` says which."""
    # Every frame answers, whatever little of map or view there is; `_doubt` then says what the localizer would.
    lenient = dataclasses.replace(settings, min_coverage=0.0, min_view_coverage=0.0)
    for index, (frame, truth) in enumerate(frames):
        # Its own stream a frame: the same offsets whatever --frames and whichever engine.
        rng = np.random.default_rng((protocol.seed, index))
        off = crop_m * rng.uniform(-MAX_CENTRE_OFFSET, MAX_CENTRE_OFFSET, 2)
        centre = LocalEnu(truth.lat_deg, truth.lon_deg).to_geodetic(*off)
        try:
            match = match_frame(frame, centre, crop_m / 2, engine, map_source, lenient, whole_views=False)
        except Refused as refused:
            estimate = _estimate(frame, str(refused), crop_m, view=refused.view, crop=refused.crop)
            score = score_estimate(index, estimate, truth, dropped=frame.image is None)
            yield score, functools.partial(_closeup, index, estimate, truth)
            continue
        reason = _doubt(match, settings)
        estimate = _estimate(
            frame,
            reason,
            match.crop.size_m,
            lat_deg=match.lat_deg,
            lon_deg=match.lon_deg,
            covariance_enu_m2=match.covariance_enu_m2,
            heatmap=match.heatmap,
            view=match.view,
            crop=match.crop,
            latencies_ms={**match.latencies_ms, "total": sum(match.latencies_ms.values())},
        )
        score = score_estimate(index, dataclasses.replace(estimate, valid=True), truth)
        yield (
            dataclasses.replace(score, valid=not reason),
            functools.partial(_closeup, index, estimate, truth),
        )


def _doubt(match: Match, settings: LocalizerSettings) -> str:
    """Why the localizer would not take this answer, or nothing."""
    heatmap = match.heatmap
    if match.crop.coverage < settings.min_coverage:
        return f"the map covers {match.crop.coverage:.0%} of the search"
    if match.view.coverage < settings.min_view_coverage:
        return f"the camera saw {match.view.coverage:.0%} of the view"
    if heatmap.peak < settings.min_peak:
        return f"ambiguous: {heatmap.peak:.0%} of the probability lies at the peak"
    if heatmap.peak_ratio < settings.min_peak_ratio:
        return f"ambiguous: the second best place is {heatmap.peak_ratio:.1f} times weaker"
    return ""


def _estimate(frame: Frame, reason: str, search_size_m: float, **known: Any) -> Estimate:
    """An estimate of a frame that stands alone: no track, no state to speak of."""
    empty: dict[str, Any] = {
        "lat_deg": math.nan,
        "lon_deg": math.nan,
        "covariance_enu_m2": np.full((2, 2), math.nan),
        "filtered": None,
        "heatmap": None,
        "crop": None,
        "view": None,
        "latencies_ms": {},
    }
    return Estimate(
        stamp_s=frame.stamp_s,
        state=State.RELOCALIZING,
        valid=not reason,
        reason=reason,
        search_size_m=search_size_m,
        **{**empty, **known},
    )


def _closeup(index: int, estimate: Estimate, truth: Truth) -> Closeup | None:
    """The pictures of one frame, where it got as far as a crop of the map."""
    if estimate.view is None or estimate.crop is None:
        return None
    heatmap = estimate.heatmap
    if estimate.valid:
        error_m = score_estimate(index, estimate, truth).error_m
        sigma_m = math.sqrt(max(float(np.linalg.eigvalsh(estimate.covariance_enu_m2)[-1]), 0.0))
        title = f"Frame {index}: {error_m:.1f} m off, σ {sigma_m:.1f} m"
    else:
        title = f"Frame {index}: no fix, {estimate.reason}"
    side = estimate.crop.image.shape[0]
    return Closeup(
        index=index,
        title=title,
        query=estimate.view.image,
        search_map=estimate.crop.image,
        heatmap=heatmap.resized(side, side) if heatmap is not None else None,
        fix_xy_px=heatmap.peak_xy_px if heatmap is not None else None,
        truth_xy_px=_true_centre_px(estimate.crop, estimate.view, truth),
    )


def _true_centre_px(crop: MapCrop, view: RectifiedView, truth: Truth) -> tuple[float, float]:
    """Where the view's centre truly lies in the crop, pixel-edge coordinates."""
    place = LocalEnu(truth.lat_deg, truth.lon_deg).to_geodetic(*view.centre_offset_enu_m)
    x_px, y_px = crop.geodetic_to_pixel(*place)
    return float(x_px), float(y_px)
