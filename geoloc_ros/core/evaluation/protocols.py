# SPDX-License-Identifier: Apache-2.0
"""A flight through the localizer without DDS: frame by frame, and the same figures every time.

Tracking is what a vehicle does: one prior, then every frame builds on the last. Kidnapped is tracking with the vehicle
moved while it sees nothing. Independent scores each frame alone in a map crop of fixed size that is off by a seeded
offset, which is what papers report. Starts without a prior are in cold_start.py.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from geoloc_models.engines import Engine
from geoloc_models.engines.placer import placing
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.view_sets import MAX_CENTRE_OFFSET
from geoloc_ros.core.evaluation.answers import Answer, SearchLog, WorstFrames
from geoloc_ros.core.evaluation.gap import Gap, GapMap
from geoloc_ros.core.evaluation.kidnap import Kidnap, Step, kidnapped, times_to_relocalize_s
from geoloc_ros.core.evaluation.scores import FrameScore, Run, rounded
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.attempt import Attempt
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.cached_crop import moved
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.matching import gates
from geoloc_ros.core.matching.frame_view import rectified_view
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.match_frame import match_view
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.frame import Frame, Recording, noisy_prior
from geoloc_ros.core.relocalization.relocalizer import Relocalizer


@dataclass
class Evaluation:
    """One engine on one recording; a method for each protocol.

    relocalizer: finds a lost track again. advance: called after each scored frame. expected: how many frames there are
    to read, if that is known. Each protocol scores every frame that has a truth; GeolocError if none has.
    KeyboardInterrupt ends it early: what was scored until then is returned, with `Run.stopped` set; it is raised again
    if nothing was.
    """

    engine: Engine
    map_source: MapSource
    settings: LocalizerSettings = field(default_factory=LocalizerSettings)
    relocalizer: Relocalizer | None = None
    name: str = "geoloc"
    advance: Callable[[], None] = lambda: None
    expected: int | None = None
    _read: int = field(default=0, init=False)

    def tracking(self, frames: Iterable[Frame], prior_noise_m: float = 30.0, seed: int = 0) -> Run:
        """Track from one prior that is prior_noise_m off in a seeded direction."""
        _check_noise(prior_noise_m)
        steps = (Step(frame, frame.truth) for frame in self._counted(frames) if frame.truth is not None)
        about = {"seed": seed, "prior_noise_m": prior_noise_m}
        return self._score("tracking", self._track(steps, prior_noise_m, seed), about)

    def kidnapped(self, recording: Recording, prior_noise_m: float = 30.0, seed: int = 0) -> Run:
        """Track, but kidnap the vehicle on the way (`kidnap.kidnapped`)."""
        _check_noise(prior_noise_m)
        steps, events = kidnapped(recording, seed)
        self.expected = None  # some frames are left out, to move the vehicle
        about = {"seed": seed, "prior_noise_m": prior_noise_m}
        run = self._score("kidnapped", self._track(steps, prior_noise_m, seed), about)
        run.about |= _recoveries(events, run.frames)
        return run

    def through_gap(self, recording: Recording, gap: Gap, prior_noise_m: float = 30.0, seed: int = 0) -> Run:
        """Track through frames that cannot be matched (`gap.Gap`)."""
        _check_noise(prior_noise_m)
        source = GapMap(self.map_source)
        answers: list[Answer] = []

        def kept() -> Iterator[Answer]:
            for answer in replace(self, map_source=source)._track(
                gap.steps(recording, source, seed), prior_noise_m, seed
            ):
                lean = replace(answer.estimate, heatmap=None, crop=None, view=None, candidates=())
                answers.append(replace(answer, estimate=lean))
                yield answer

        run = self._score("through a gap", kept(), {"seed": seed, "prior_noise_m": prior_noise_m})
        run.about["gap"] = gap.outcome(answers)
        return run

    def independent(self, frames: Iterable[Frame], crop_m: float, seed: int = 0) -> Run:
        """Score each frame alone in a map crop of side crop_m; `valid` states whether the gates let it pass."""
        if not (math.isfinite(crop_m) and crop_m > 0):
            raise GeolocError(f"a map crop of {crop_m} m cannot be searched; give a positive side")
        with_truth = (frame for frame in self._counted(frames) if frame.truth is not None)
        answers = (self._alone(index, frame, crop_m, seed) for index, frame in enumerate(with_truth))
        return self._score("independent", answers, {"seed": seed, "crop_m": crop_m})

    def _counted(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        self._read = 0
        for frame in frames:
            yield frame
            self._read += 1

    def _score(self, mode: str, answers: Iterator[Answer], about: dict[str, Any]) -> Run:
        self._warm_up()
        scores: list[FrameScore] = []
        worst, searches, stopped = WorstFrames(), SearchLog(), False
        try:
            for answer in answers:
                scores.append(answer.score)
                worst.offer(answer)
                searches.add(answer)
                self.advance()
        except KeyboardInterrupt:
            if not scores:
                raise
            stopped = True
        if not scores:
            raise GeolocError("no frame has a true position, so there is nothing to score; record a truth topic")
        return Run(
            name=self.name,
            mode=mode,
            weights=self.engine.spec.weights_id,
            device=self.engine.spec.label,
            frames=scores,
            closeups=worst.closeups,
            about=about,
            searches=searches.records,
            stopped=stopped,
            frames_read=max(self._read, len(scores)) if self.expected is not None else None,
            frames_expected=self.expected,
        )

    def _warm_up(self) -> None:
        """Networks and libraries allocate at their first call, which belongs to no frame."""
        blank = np.zeros((self.engine.spec.query_px, self.engine.spec.query_px, 3), np.uint8)
        self.engine.infer(blank, np.tile(blank, (3, 3, 1)))

    def _track(self, steps: Iterator[Step], prior_noise_m: float, seed: int) -> Iterator[Answer]:
        """One prior at the first frame, then as in flight."""
        localizer = Localizer(self.engine, self.map_source, self.settings, self.relocalizer)
        for index, step in enumerate(steps):
            if index == 0:
                localizer.set_prior(*noisy_prior(step.truth, prior_noise_m, seed))
            if step.prior is not None:
                localizer.set_prior(*step.prior)
            estimate = localizer.process(step.frame)
            yield Answer.of(index, estimate, step.truth, localizer.searching, dropped=step.frame.image is None)

    def _alone(self, index: int, frame: Frame, crop_m: float, seed: int) -> Answer:
        """Every frame answers, however little map or view there is; the gates decide afterwards."""
        assert frame.truth is not None
        engine, settings = placing(self.engine), self.settings
        # A stream for each frame: the same offsets whatever --frames and whichever engine.
        off = crop_m * np.random.default_rng((seed, index)).uniform(-MAX_CENTRE_OFFSET, MAX_CENTRE_OFFSET, 2)
        centre = LocalEnu(frame.truth.lat_deg, frame.truth.lon_deg).to_geodetic(*off)
        attempt = Attempt(frame, crop_m / 2)
        reason = ""
        try:
            view = attempt.view = rectified_view(frame, engine, crop_m / 2, settings, whole_views=False)
            attempt.times.lap("rectify")
            size_px = max(round(crop_m / view.gsd_m), engine.spec.query_px)
            viewed = moved(centre, np.array(view.centre_offset_enu_m))
            crop = attempt.crop = self.map_source.crop(*viewed, size_px * view.gsd_m, size_px)
            gates.check_readable(crop)
            attempt.half_width_m = crop.size_m / 2
            attempt.times.lap("crop")
            match = attempt.match = match_view(frame, view, crop, engine, settings, attempt.times)
            gates.check_crop(crop, settings.gate)
            gates.check_view(view, settings.gate)
            gates.check_heatmap(match.heatmap, match.support, settings.gate, confirmed=False)
            gates.check_alignment(match.agreement, settings.gate, confirmed=False)
            gates.check_odds(match.log_odds, settings.gate)
        except Refused as refused:
            reason = str(refused)
        estimate = attempt.answer(State.RELOCALIZING, None, reason)
        dropped = frame.image is None
        if attempt.match is None:
            return Answer.of(index, estimate, frame.truth, dropped=dropped)
        # The answer is scored whether or not it passed.
        answer = Answer.of(index, replace(estimate, valid=True), frame.truth, dropped=dropped)
        return replace(answer, estimate=estimate, score=replace(answer.score, valid=not reason))


def _check_noise(prior_noise_m: float) -> None:
    if not (math.isfinite(prior_noise_m) and prior_noise_m >= 0):
        raise GeolocError(f"a prior noise of {prior_noise_m} m is not possible; give 0 or more")


def _recoveries(events: Sequence[Kidnap], scores: Sequence[FrameScore]) -> dict[str, Any]:
    """How long it took to be found again after each event, s; null if it was not."""
    times = times_to_relocalize_s(events, [score.stamp_s for score in scores], [score.valid for score in scores])
    return {
        "kidnaps": [
            {"what": event.what, "found_after_s": rounded(time_s, 3)}
            for event, time_s in zip(events, times, strict=True)
        ]
    }
