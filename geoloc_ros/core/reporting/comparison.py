# SPDX-License-Identifier: Apache-2.0
"""Reports of several runs side by side: what differs from the first, as a page and as JSON, and whether it is too much.

Runs are compared by their figures, and frame by frame where stamps are the same, which shows what a median hides.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.scores import FrameScore, Run, column, rounded, stages
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.reporting.figures import FIGURES, GROUPS, Figure
from geoloc_ros.core.reporting.plots import (
    MAX_RUNS,
    crowded,
    draw_cdf,
    draw_errors,
    draw_stage_bars,
    picture,
    run_legend,
    stage_legend,
    state_legend,
)
from geoloc_ros.core.reporting.records import frames_of
from geoloc_ros.core.reporting.report import calibration, partial_words, render, write_text
from geoloc_ros.core.reporting.track import draw_track

_SAME_STAMP_S = 1e-3
"""A bag and a folder may tell one stamp with different digits."""
_SAME_TRUTH_DEG = 1e-5
_MOST_CHANGES = 10
_SETTINGS = ("flight", "map", "weights", "mode", "prior_noise_m", "crop_m", "seed", "device")
"""What two runs should share, or else their figures tell of more than one difference."""


@dataclass(frozen=True)
class LoadedReport:
    """A run as its report tells it: the first of that report, under a name of its own among those compared."""

    run: Run
    summary: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class Change:
    """A frame whose answer differs; errors in m, NaN without a fix."""

    index: int
    stamp_s: float
    first_error_m: float
    error_m: float
    reason: str

    @property
    def worse_m(self) -> float:
        """How much the error grew; infinite where a fix was lost, minus infinite where one was gained."""
        lost, gained = math.isnan(self.error_m), math.isnan(self.first_error_m)
        return math.inf if lost else -math.inf if gained else self.error_m - self.first_error_m


@dataclass(frozen=True)
class Pairing:
    """One run against the first, frame by frame.

    shared: frames with the stamp of one of the first's; same_place: whether their truths agree too; lost, gained:
    fixes; median_worse_m: over the shared frames in which both have a fix, NaN without any.
    """

    shared: int
    same_place: bool
    lost: int
    gained: int
    median_worse_m: float
    changes: list[Change]


def read_reports(paths: Sequence[Path]) -> list[LoadedReport]:
    """Reports, each a folder or its report.json; GeolocError where one is no report, or holds no frames."""
    files = [path / "report.json" if path.is_dir() else path for path in paths]
    if len({file.resolve() for file in files}) < len(files):
        raise GeolocError("a report is given twice: name each run once")
    return [_read(file, name) for file, name in zip(files, _names(files), strict=True)]


def _names(files: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell the reports apart."""
    folders = [
        file.resolve().parent if file.name == "report.json" else file.resolve().with_suffix("") for file in files
    ]
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return ["/".join(folder.parts[-depth:]) for folder in folders]


def _read(file: Path, name: str) -> LoadedReport:
    try:
        figures = json.loads(file.read_text(encoding="utf-8"))
        summary = figures["runs"][0]
        table = figures["records"][summary["name"]]
        run = Run(
            name=name,
            mode=summary["mode"],
            weights=summary["weights"],
            device=summary["device"],
            frames=frames_of(table["columns"], table["rows"]),
            stopped=summary["partial"],
        )
    except OSError as error:
        raise GeolocError(
            f"{file} cannot be read ({error.strerror}): give the folder that `geoloc evaluate --out` wrote"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise GeolocError(
            f"{file} holds no report with frames: give the folder that `geoloc evaluate --out` wrote"
        ) from error
    if not run.frames:
        raise GeolocError(f"{file} holds no frame, so there is nothing to compare")
    return LoadedReport(run, {**summary, "name": name}, file)


def pair(first: Run, other: Run) -> Pairing:
    """Match the frames of two runs by stamp."""
    stamps_s = column(first.frames, "stamp_s")
    order = np.argsort(stamps_s, kind="stable")
    sorted_s = stamps_s[order]
    pairs: list[tuple[FrameScore, FrameScore]] = []
    for frame in other.frames:
        after = int(np.searchsorted(sorted_s, frame.stamp_s - _SAME_STAMP_S))
        if after < len(sorted_s) and sorted_s[after] <= frame.stamp_s + _SAME_STAMP_S:
            pairs.append((first.frames[order[after]], frame))
    changes = [
        Change(
            b.index,
            b.stamp_s,
            a.error_m if a.valid else math.nan,
            b.error_m if b.valid else math.nan,
            b.reason or a.reason,
        )
        for a, b in pairs
        if a.valid or b.valid
    ]
    worse = [change.worse_m for change in changes]
    both = [metres for metres in worse if math.isfinite(metres)]
    return Pairing(
        shared=len(pairs),
        same_place=all(
            abs(a.truth_lat_deg - b.truth_lat_deg) < _SAME_TRUTH_DEG
            and abs(a.truth_lon_deg - b.truth_lon_deg) < _SAME_TRUTH_DEG
            for a, b in pairs
        ),
        lost=worse.count(math.inf),
        gained=worse.count(-math.inf),
        median_worse_m=float(np.median(both)) if both else math.nan,
        changes=sorted(
            (change for change in changes if change.worse_m != 0.0), key=lambda change: -abs(change.worse_m)
        )[:_MOST_CHANGES],
    )


def _warnings(reports: Sequence[LoadedReport], pairings: Sequence[Pairing]) -> list[str]:
    """Why the runs may not compare: stopped, set up otherwise, or of other frames."""
    first = reports[0]
    words = [partial_words(each.summary) for each in reports if each.summary["partial"]]
    for other, pairing in zip(reports[1:], pairings, strict=True):
        for key in _SETTINGS:
            own, given = other.summary.get(key), first.summary.get(key)
            if own != given:
                words.append(
                    f"Not the same {key.replace('_', ' ').removesuffix(' m')}: {other.run.name} has {_said(own)}, "
                    f"{first.run.name} {_said(given)}."
                )
        frames = max(len(first.run.frames), len(other.run.frames))
        if pairing.shared < frames:
            words.append(
                f"Not the same frames: {pairing.shared} of {frames} stamps are in both {other.run.name} and "
                f"{first.run.name}."
            )
        elif not pairing.same_place:
            words.append(f"Not the same truth: {other.run.name} and {first.run.name} differ by over a metre.")
    return words


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """{key: amount} from KEY=AMOUNT; GeolocError for what is no figure that can be ranked, or no amount."""
    limits = {}
    ranked = [key for key, figure in FIGURES.items() if not math.isnan(figure.best)]
    for text in texts:
        key, _, amount = text.partition("=")
        if key not in ranked:
            raise GeolocError(f"--max-worse knows no figure '{key}': give one of {', '.join(ranked)}")
        try:
            limits[key] = float(amount)
        except ValueError:
            limits[key] = math.nan
        if not limits[key] >= 0:
            raise GeolocError(f"--max-worse {text} names no amount: give {key}=0 or more")
    return limits


def _too_much_worse(reports: Sequence[LoadedReport], limits: dict[str, float]) -> list[str]:
    """A sentence for each figure that is worse than the first run's by more than its limit."""
    found = []
    for other in reports[1:]:
        for key, limit in limits.items():
            figure = FIGURES[key]
            before, after = figure.of(reports[0].summary), figure.of(other.summary)
            worse = figure.worse_by(before, after)
            if not worse <= limit and before is not None:
                found.append(
                    f"{other.run.name}: {figure.label} went from {figure.text(before)} to {figure.text(after)}, "
                    f"worse by {worse:.4g}; the limit is {limit:g}"
                )
    return found


def delta(figure: Figure, first: LoadedReport, other: LoadedReport) -> tuple[str, str]:
    """What `other` has more of, with sign, and "better", "worse" or "" as its digits show."""
    before, after = figure.of(first.summary), figure.of(other.summary)
    if before is None or after is None:
        return "", ""
    text = figure.text(after - before, signed=True)
    worse = figure.worse_by(before, after)
    if float(text) == 0.0:
        return "=", ""
    if math.isnan(worse) or worse == 0.0:
        return text, ""
    return text, "worse" if worse > 0 else "better"


@dataclass(frozen=True)
class Comparison:
    """Runs against the first of them. pairings: of all but the first; limits: by key; warnings, exceeded: sentences."""

    reports: Sequence[LoadedReport]
    pairings: Sequence[Pairing]
    limits: dict[str, float]
    warnings: list[str]
    exceeded: list[str]


def compare(reports: Sequence[LoadedReport], limits: dict[str, float]) -> Comparison:
    """What differs from the first run, and which figures are worse by more than their limits."""
    pairings = [pair(reports[0].run, other.run) for other in reports[1:]]
    return Comparison(reports, pairings, limits, _warnings(reports, pairings), _too_much_worse(reports, limits))


def write_comparison(folder: Path, comparison: Comparison, map_source: MapSource | None) -> None:
    """Write comparison.html and comparison.json into `folder` (made if need be)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "comparison.json", json.dumps(_figures(comparison), indent=2, allow_nan=False) + "\n")
    write_text(folder / "comparison.html", _page(comparison, map_source))


def _figures(comparison: Comparison) -> dict[str, Any]:
    """What the JSON holds; "worse_by" is null where the two cannot be ranked."""
    reports = comparison.reports
    runs: list[dict[str, Any]] = []
    for each, pairing in zip(reports, [None, *comparison.pairings], strict=True):
        values = {key: figure.of(each.summary) for key, figure in FIGURES.items()}
        runs.append({"name": each.run.name, "report": str(each.path), "figures": values})
        if pairing is not None:
            first = reports[0].summary
            runs[-1]["worse_by"] = {
                key: rounded(figure.worse_by(figure.of(first), values[key]), 6) for key, figure in FIGURES.items()
            }
            runs[-1]["frame_by_frame"] = _pairing_figures(pairing)
    return {
        "first": reports[0].run.name,
        "warnings": comparison.warnings,
        "limits": comparison.limits,
        "exceeded": comparison.exceeded,
        "runs": runs,
    }


def _pairing_figures(pairing: Pairing) -> dict[str, Any]:
    return {
        "shared": pairing.shared,
        "lost": pairing.lost,
        "gained": pairing.gained,
        "median_worse_m": rounded(pairing.median_worse_m, 6),
        "changes": [
            {
                "index": change.index,
                "stamp_s": change.stamp_s,
                "first_error_m": rounded(change.first_error_m, 4),
                "error_m": rounded(change.error_m, 4),
            }
            for change in pairing.changes
        ],
    }


def _page(comparison: Comparison, map_source: MapSource | None) -> str:
    reports = comparison.reports
    drawn = [each.run for each in reports[:MAX_RUNS]]
    plots = {
        "errors": picture(lambda figure: draw_errors(figure, drawn)),
        "cdf": picture(lambda figure: draw_cdf(figure, drawn)),
    }
    timed = [run for run in drawn if stages(run.frames)]
    if timed:
        plots["stages"] = picture(lambda figure: draw_stage_bars(figure, timed))
    return render(
        "comparison.html.j2",
        title=f"{', '.join(each.run.name for each in reports[1:])} against {reports[0].run.name}",
        reports=reports,
        warnings=comparison.warnings,
        exceeded=comparison.exceeded,
        swatches=run_legend(drawn),
        crowded=crowded(drawn),
        states=state_legend(drawn),
        stages=stage_legend(timed),
        groups=_groups(reports),
        plots=plots,
        track=draw_track(drawn, map_source, by_confidence=False),
        calibration=calibration([each.summary for each in reports]),
        pairs=[
            _changes(reports[0].run, other.run, pairing)
            for other, pairing in zip(reports[1:], comparison.pairings, strict=True)
        ],
    )


def _groups(reports: Sequence[LoadedReport]) -> list[dict[str, Any]]:
    """All figures of all runs, with what differs from the first."""
    return [
        {
            "name": name,
            "rows": [
                {
                    "label": figure.label + (f", {figure.unit}" if figure.unit else ""),
                    "first": figure.text(figure.of(reports[0].summary)),
                    "others": [
                        (figure.text(figure.of(other.summary)), *delta(figure, reports[0], other))
                        for other in reports[1:]
                    ],
                }
                for figure in group
            ],
        }
        for name, group in GROUPS.items()
    ]


def _changes(first: Run, other: Run, pairing: Pairing) -> dict[str, Any]:
    """Sentences on one run against the first, and the frames that changed most."""

    def metres(error_m: float) -> str:
        return "no fix" if math.isnan(error_m) else f"{error_m:.2f} m"

    words = f"Of {pairing.shared} frames with one stamp {pairing.lost} lost their fix, {pairing.gained} gained one."
    if not math.isnan(pairing.median_worse_m):
        words += f" Where both have one, the error differs by {pairing.median_worse_m:+.3f} m in the median."
    rows = [
        [
            f"{change.stamp_s - other.frames[0].stamp_s:.1f} s",
            str(change.index),
            metres(change.first_error_m),
            metres(change.error_m),
            change.reason,
        ]
        for change in pairing.changes
    ]
    return {
        "name": other.name,
        "words": words,
        "headings": ["time", "frame", first.name, other.name, "reason"],
        "rows": rows,
    }
