# SPDX-License-Identifier: Apache-2.0
"""How well views are found in maps: every engine on the same samples, one row of figures for each answer.

Each engine is fed at the ground sample distance that it was made for, and its milliseconds include that resampling.
"""

import csv
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from geoloc_models import metrics
from geoloc_models.datasets.homography import warp
from geoloc_models.engines import Engine, Placement
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.calibration import calibration_of
from geoloc_models.evaluation.view_sets import PairSample, PairSet, shift

PUBLISHED_MAP_PX = 384
"""Side of the map that published RDS and positions are counted in."""

START_PEAK, START_PEAK_RATIO, START_ALIGNMENT, START_ODDS = 0.8, 3.0, 0.3, 3000.0
"""Least peak and ratio to the second mode of a heatmap, support of an alignment and odds of a place over the next one
that may start a track: the localizer's own gates.
"""

OFFSET_RINGS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
"""Borders of the rings of query offset, in half sides of the map (DRL paper, fig. 9); the corner lies at 1.41."""


def fit_to_engine(sample: PairSample, engine: Engine) -> tuple[np.ndarray, np.ndarray, float]:
    """View, map and pixels of `sample` per engine pixel, at the GSD that shows the engine the whole view.

    The map's side becomes the nearest multiple that the engine takes; the view is resampled to exactly the
    map's metres per pixel about its centre. If the view's ground span is unknown, view and map are only resized, the
    map to three sides of the view, as published.
    """
    if not sample.same_gsd:
        return _fit_as_published(sample, engine)
    low_m, high_m = engine.spec.gsd_range_m
    wanted_m = float(np.clip(sample.gsd_m * sample.query.shape[0] / engine.spec.query_px, low_m, high_m))
    side_px, multiple = sample.search_map.shape[0], engine.spec.map_multiple_px
    map_px = max(multiple, multiple * round(side_px * sample.gsd_m / wanted_m / multiple))
    ratio = side_px / map_px
    shrinking = cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR
    search_map = cv2.resize(sample.search_map, (map_px, map_px), interpolation=shrinking)
    middle = sample.query.shape[0] / 2
    about_centre = shift(np.array([middle, middle])) @ np.diag([ratio, ratio, 1.0])
    query = warp(sample.query, about_centre @ shift(np.full(2, -engine.spec.query_px / 2)), engine.spec.query_px)
    return query, search_map, ratio


def _fit_as_published(sample: PairSample, engine: Engine) -> tuple[np.ndarray, np.ndarray, float]:
    """Both resized by antialiased bicubic interpolation: 128 px and 384 px for a published network."""
    map_px = 3 * engine.spec.query_px
    query, search_map = (
        np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        for image, side in ((sample.query, engine.spec.query_px), (sample.search_map, map_px))
    )
    return query, search_map, sample.search_map.shape[0] / map_px


@dataclass(frozen=True)
class SampleScore:
    """One engine's answer to one sample."""

    name: str
    error_m: float
    offset: float
    """Distance of the truth from the map's centre in half sides."""
    map_size_m: float
    height_m: float
    """Of the camera above ground; NaN where it is not known."""
    peak: float
    peak_ratio: float
    entropy: float
    sigma_m: float
    """Standard deviation that the covariance states, root mean square of both axes."""
    nees: float
    rds: float
    """Against the label cut to whole pixels of a map of 384, as published."""
    rds_exact: float
    sdm: float
    latency_ms: float
    heading_error_deg: float
    """Absolute, of the alignment's heading; NaN without one or without a truth."""
    scale_error_percent: float
    """Absolute, of the alignment's scale against the true one."""
    valid: int
    """1 or 0: whether it is clear enough to start a track."""
    false_fix: int
    """1 or 0: valid, but far off and outside the ellipse that it states (`metrics.is_false_fix`)."""


@dataclass
class PairScores:
    """One engine's answers to one set under one stress."""

    name: str
    weights: str
    device: str
    samples: list[SampleScore] = field(default_factory=list)
    skipped: int = 0
    """Samples that the set could not draw: no view fits, or the frame is damaged."""

    def column(self, key: str) -> np.ndarray:
        """One figure of all samples, (N,) float64."""
        return np.array([getattr(sample, key) for sample in self.samples], dtype=np.float64)

    def summary(self) -> dict[str, Any]:
        """The figures of the table; over all samples, with the breakdowns of the paper's figures 8 to 10."""
        latency = self.column("latency_ms")
        return {
            "name": self.name,
            **_accuracy(self.samples),
            "skipped": self.skipped,
            "nees_median": _median(self.column("nees")),
            "sigma_median_m": _median(self.column("sigma_m")),
            **self.pose_and_fixes(),
            **calibration_of(self.column("peak"), self.column("error_m"), self.column("nees")),
            "latency_ms": {f"p{p}": round(float(np.percentile(latency, p)), 3) for p in (50, 95)},
            "by_map_size_m": self.by_map_size(),
            "by_offset": self.by_offset(),
            "by_height_m": self.by_height(),
            "device": self.device,
            "weights": self.weights,
        }

    def pose_and_fixes(self) -> dict[str, Any]:
        """Median errors of heading and scale, of the samples that were aligned; what is stated of the valid fixes and
        how true it is. None where there is nothing to compute from.
        """
        valid = self.column("valid") > 0
        nees = self.column("nees")[valid]
        nees = nees[~np.isnan(nees)]
        return {
            "heading_error_median_deg": _median(self.column("heading_error_deg")),
            "scale_error_median_percent": _median(self.column("scale_error_percent")),
            "valid": round(float(valid.mean()), 6),
            "false_fixes": int(self.column("false_fix").sum()),
            "nees_per_dof_valid": {
                "mean": round(float(nees.mean()) / 2, 6) if np.isfinite(nees).all() and nees.size else None,
                "median": _median(nees / 2),
            },
            "coverage_2sigma_valid": round(metrics.sigma_coverage(nees), 6) if nees.size else None,
        }

    def by_map_size(self) -> list[dict[str, Any]]:
        """Accuracy for each size of the search map, to 1 m: whole pixels make maps of one size differ a little."""
        return self._by(np.round(self.column("map_size_m")))

    def by_offset(self) -> list[dict[str, Any]]:
        """Accuracy for each ring of offset; `at` is the ring's inner border."""
        rings = np.array(OFFSET_RINGS)
        return self._by(rings[np.searchsorted(rings, self.column("offset"), side="right") - 1])

    def by_height(self) -> list[dict[str, Any]]:
        """Accuracy for each flight height, to 10 m; none where heights are not known."""
        return self._by(10.0 * np.round(self.column("height_m") / 10.0))

    def _by(self, values: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"at": float(value), **_accuracy([s for s, own in zip(self.samples, values, strict=True) if own == value])}
            for value in np.unique(values[~np.isnan(values)])
        ]


def _median(values: np.ndarray) -> float | None:
    """Of what is known of the values; None if nothing is, or if it is infinite: JSON has neither."""
    known = values[~np.isnan(values)]
    middle = float(np.median(known)) if known.size else np.inf
    return round(middle, 6) if np.isfinite(middle) else None


def _accuracy(samples: Sequence[SampleScore]) -> dict[str, Any]:
    errors = [sample.error_m for sample in samples]
    return {
        "samples": len(samples),
        "median_error_m": round(float(np.median(errors)), 6),
        "ma": {str(k): round(metrics.ma_at_k(errors, k), 6) for k in metrics.MA_ALL_DISTANCES_M},
        **{
            key: round(float(np.mean([getattr(sample, key) for sample in samples])), 6)
            for key in ("rds", "rds_exact", "sdm")
        },
    }


def evaluate_set(
    pair_set: PairSet,
    engines: Mapping[str, Engine],
    native: frozenset[str] = frozenset(),
    advance: Callable[[], None] = lambda: None,
) -> list[PairScores]:
    """Score every engine on the same samples, one after the other on each sample.

    Engines named in `native` take any size and get the images as they are, at full resolution.
    `advance()` is called after each sample. GeolocError if no sample could be drawn.
    """
    scores = [PairScores(name, engine.spec.weights_id, engine.spec.label) for name, engine in engines.items()]
    for index in range(len(pair_set)):
        sample = pair_set.draw(index)
        for score, (name, engine) in zip(scores, engines.items(), strict=True):
            if sample is None:
                score.skipped += 1
                continue
            if not score.samples:
                _place(sample, engine, name in native)  # the first call allocates
            score.samples.append(_score(sample, *_place(sample, engine, name in native)))
        advance()
    if not scores or not scores[0].samples:
        raise GeolocError(f"no view fits anywhere in {pair_set.name} ({pair_set.about}); lower --view-m")
    return scores


def _place(sample: PairSample, engine: Engine, native: bool) -> tuple[Placement, np.ndarray, float, float]:
    """The answer, its covariance, pixels of the sample's map per pixel of the engine's, and milliseconds.

    An engine without a method `place` gives a heatmap alone, whose covariance is then that of all modes.
    """
    start = time.perf_counter()
    if native and sample.same_gsd:
        query, search_map, ratio = sample.query, sample.search_map, 1.0
    else:
        query, search_map, ratio = fit_to_engine(sample, engine)
    place: Callable[[np.ndarray, np.ndarray], Placement] | None = getattr(engine, "place", None)
    if place is None:
        found = Placement(engine.infer(query, search_map))
        covariance_px = found.heatmap.covariance_px  # a part of every answer, computed when asked for
    else:
        found = place(query, search_map)
        covariance_px = found.covariance_px
    return found, covariance_px, ratio, 1e3 * (time.perf_counter() - start)


def _score(
    sample: PairSample, placed: Placement, covariance_px: np.ndarray, ratio: float, latency_ms: float
) -> SampleScore:
    heatmap = placed.heatmap
    found, target = ratio * np.array(placed.centre_xy_px), np.array(sample.target_xy_px)
    off = found - target
    side = sample.search_map.shape[0]
    published = PUBLISHED_MAP_PX / side
    error_m, sdm = _error(sample, found)
    nees = float(metrics.nees(off[None], ratio**2 * covariance_px[None])[0])
    heading_error_deg, scale_error_percent = _pose_error(sample, placed)
    # A far answer that states no covariance misleads too.
    misleads = bool(metrics.is_false_fix(error_m, np.nan_to_num(nees, nan=np.inf)))
    clear = heatmap.peak >= START_PEAK and heatmap.peak_ratio >= START_PEAK_RATIO
    if placed.alignment is not None:
        clear &= placed.alignment.support >= START_ALIGNMENT and placed.log_odds >= math.log(START_ODDS)
    valid = int(clear)
    return SampleScore(
        name=sample.name,
        error_m=error_m,
        offset=float(np.hypot(*(target - side / 2))) / (side / 2),
        map_size_m=side * sample.gsd_m,
        height_m=sample.height_m,
        peak=heatmap.peak,
        peak_ratio=heatmap.peak_ratio,
        entropy=heatmap.entropy,
        sigma_m=sample.gsd_m * ratio * float(np.sqrt(np.trace(covariance_px) / 2)),
        nees=nees,
        rds=metrics.rds(found[None] * published, target[None] * published),
        rds_exact=metrics.rds(found[None], target[None], (side, side), truncate_label=False),
        sdm=sdm,
        latency_ms=latency_ms,
        heading_error_deg=heading_error_deg,
        scale_error_percent=scale_error_percent,
        valid=valid,
        false_fix=int(valid and misleads),
    )


def _pose_error(sample: PairSample, placed: Placement) -> tuple[float, float]:
    """Absolute errors of heading, degrees, and of scale, percent; NaN where the view was not aligned."""
    if placed.alignment is None:
        return float("nan"), float("nan")
    turn_deg = float(np.rad2deg(placed.alignment.heading_rad)) - sample.heading_deg
    return abs((turn_deg + 180.0) % 360.0 - 180.0), 100.0 * abs(np.exp(placed.alignment.log_scale) / sample.scale - 1.0)


def _error(sample: PairSample, found_xy_px: np.ndarray) -> tuple[float, float]:
    """Error in m and SDM@1; without coordinates a degree counts as on the equator, in both axes."""
    target = np.array(sample.target_xy_px)
    if sample.corners is None:
        error_m = float(np.hypot(*(found_xy_px - target))) * sample.gsd_m
        return error_m, metrics.sdm(0.0, 0.0, np.degrees(error_m / metrics.EARTH_RADIUS_M), 0.0)
    height, width = sample.search_map.shape[:2]
    places = [sample.corners.to_geodetic(y / height, x / width) for x, y in (found_xy_px, target)]
    return float(metrics.haversine_m(*places[0], *places[1])), metrics.sdm(*places[0], *places[1])


CSV_COLUMNS = ("set", "stress", "engine", *(f.name for f in fields(SampleScore)))


def write_csv(path: Path, scores: Sequence[tuple[str, str, PairScores]]) -> None:
    """One row a sample and engine, under CSV_COLUMNS; scores: (set, stress, answers of one engine)."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for set_name, stress, score in scores:
            for sample in score.samples:
                cells = [f"{v:.6g}" if isinstance(v, float) else v for v in astuple(sample)]
                writer.writerow([set_name, stress, score.name, *cells])
