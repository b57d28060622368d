# SPDX-License-Identifier: Apache-2.0
"""The track of a report: truth and fixes in pixels of a square map picture, for a drawing of scalable graphics."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from geoloc_models.metrics import is_false_fix
from geoloc_ros.core.evaluation.scores import FrameScore, Run, column, stretches
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.reporting.plots import jpeg, run_legend

_MAP_PX = 1200
_MARGIN = 1.15
_MOST_POINTS = 1500
"""Points of a line, and fixes that are drawn; of more, every so manieth, and all false ones."""
_CONFIDENCE = colormaps["plasma"]
CONFIDENCE_STEPS = [to_hex(_CONFIDENCE(share)) for share in np.linspace(0.0, 1.0, 9)]
"""Colours of a confidence of 0 to 1."""


class _Picture:
    """A square north-up picture around the truth of all runs, and where places lie in it."""

    def __init__(self, frames: Sequence[FrameScore]) -> None:
        lat, lon = column(frames, "truth_lat_deg"), column(frames, "truth_lon_deg")
        rough = LocalEnu(float(lat[0]), float(lon[0]))
        east_m, north_m = rough.to_enu(lat, lon)
        middle = (east_m.min() + east_m.max()) / 2, (north_m.min() + north_m.max()) / 2
        self.enu = LocalEnu(*rough.to_geodetic(*middle))
        half_m = max(float(np.ptp(east_m)), float(np.ptp(north_m)), 50.0) / 2
        self.size_m = _MARGIN * 2 * half_m

    def points(self, frames: Sequence[FrameScore], truth: bool) -> list[tuple[float, float]]:
        """(x, y) px of fixes or of truths."""
        prefix = "truth_" if truth else ""
        x_m, y_m = self.enu.to_enu(column(frames, f"{prefix}lat_deg"), column(frames, f"{prefix}lon_deg"))
        x_px, y_px = (x_m / self.size_m + 0.5) * _MAP_PX, (0.5 - y_m / self.size_m) * _MAP_PX
        return [(round(float(x), 1), round(float(y), 1)) for x, y in zip(x_px, y_px, strict=True)]

    def line(self, frames: Sequence[FrameScore], truth: bool) -> str:
        """As `points` of a polyline, of every so manieth frame where there are many."""
        step = math.ceil(len(frames) / _MOST_POINTS)
        return " ".join(f"{x},{y}" for x, y in self.points([*frames[:-1:step], frames[-1]], truth))


def draw_track(runs: Sequence[Run], map_source: MapSource | None, by_confidence: bool) -> dict[str, Any] | None:
    """What the template draws; None without any frame.

    by_confidence: the first run as points coloured by their confidence, the others as lines in their own colours; else
    all runs as such lines.
    """
    frames = [frame for run in runs for frame in run.frames]
    if not frames:
        return None
    view = _Picture(frames)
    main = runs[0].frames or frames
    crop = None if map_source is None else map_source.crop(view.enu.lat_deg, view.enu.lon_deg, view.size_m, _MAP_PX)
    ends = view.points([main[0], main[-1]], truth=True)
    bar_m = round_length(view.size_m / 4)
    return {
        "side": _MAP_PX,
        "picture": jpeg(crop.image, 80) if crop is not None and crop.coverage > 0 else None,
        "truth": view.line(main, truth=True),
        # One frame further on both sides, so that the line is not broken.
        "blind": [
            view.line(main[max(first - 1, 0) : last + 2], truth=True) for first, last in stretches(main, valid=False)
        ],
        "start": ends[0],
        "end": ends[1],
        "fixes": _fixes(runs[0], view) if by_confidence else None,
        # The first run last, which is on top.
        "lines": [
            {"colour": swatch.dark, "parts": _parts(run, view)}
            for run, swatch in reversed(list(zip(runs, run_legend(runs), strict=True)))
            if run is not runs[0] or not by_confidence
        ],
        "bar_m": f"{bar_m:g}",
        "bar_px": round(bar_m / view.size_m * _MAP_PX, 1),
    }


def _parts(run: Run, view: _Picture) -> list[str]:
    return [view.line(run.frames[first : last + 1], truth=False) for first, last in stretches(run.frames, valid=True)]


def _fixes(run: Run, view: _Picture) -> dict[str, Any]:
    """Points of the fixes with colours and words, and lines from each to its truth."""
    valid = [frame for frame in run.frames if frame.valid]
    false = is_false_fix(column(valid, "error_m"), column(valid, "nees")).tolist()
    step = math.ceil(len(valid) / _MOST_POINTS)
    kept = [place for place in range(len(valid)) if place % step == 0 or false[place]]
    shown = [valid[place] for place in kept]
    fixes, truths = view.points(shown, truth=False), view.points(shown, truth=True)
    points = []
    for place, frame, (x, y) in zip(kept, shown, fixes, strict=True):
        words = f"{run.name}, frame {frame.index}: {frame.error_m:.1f} m off"
        if math.isfinite(frame.peak):
            words += f", confidence {frame.peak:.0%}"
        points.append(
            {
                "x": x,
                "y": y,
                "colour": to_hex(_CONFIDENCE(frame.peak if math.isfinite(frame.peak) else 0.0)),
                "false": false[place],
                "label": words,
            }
        )
    away = "".join(f"M{a} {b}L{x} {y}" for (a, b), (x, y) in zip(truths, fixes, strict=True))
    return {"points": points, "away": away, "every": step}


def round_length(length_m: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `length_m`."""
    power = 10.0 ** math.floor(math.log10(length_m))
    return max(step * power for step in (1, 2, 5) if step * power <= length_m)
